"""Search: where the configurations of trials come from."""

from asynctune.suggest.base import FINISHED, Searcher
from asynctune.suggest.variants import BasicVariantGenerator

__all__ = ["FINISHED", "BasicVariantGenerator", "Searcher"]
