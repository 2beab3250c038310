"""Search: where the configurations of trials come from."""

from asynctune.suggest.variants import BasicVariantGenerator

__all__ = ["BasicVariantGenerator"]
