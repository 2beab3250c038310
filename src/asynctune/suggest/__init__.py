"""Searchers: they suggest the configurations of trials. :class:`Searcher` is the base for your own."""

from asynctune.space import Space
from asynctune.space.domains import Domain
from asynctune.suggest.base import FINISHED, Duplicates, Finished, Searcher, Suggestion
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.limiter import ConcurrencyLimiter
from asynctune.suggest.optuna import OptunaSearch
from asynctune.suggest.quasi_random import QuasiRandomSearch
from asynctune.suggest.random_search import RandomSearch
from asynctune.suggest.repeater import Repeater
from asynctune.suggest.variants import BasicVariantGenerator

__all__ = [
    "FINISHED", "BOHBSearch", "BasicVariantGenerator", "ConcurrencyLimiter", "Domain", "Duplicates",
    "Finished", "OptunaSearch", "QuasiRandomSearch", "RandomSearch", "Repeater", "Searcher", "Space",
    "Suggestion",
]  # fmt: skip
