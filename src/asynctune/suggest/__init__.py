"""Search: where the configurations of trials come from."""

from asynctune.suggest.base import FINISHED, Searcher
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.limiter import ConcurrencyLimiter
from asynctune.suggest.optuna import OptunaSearch
from asynctune.suggest.quasi_random import QuasiRandomSearch
from asynctune.suggest.random_search import RandomSearch
from asynctune.suggest.repeater import Repeater
from asynctune.suggest.variants import BasicVariantGenerator

__all__ = [
    "FINISHED", "BOHBSearch", "BasicVariantGenerator", "ConcurrencyLimiter", "OptunaSearch",
    "QuasiRandomSearch", "RandomSearch", "Repeater", "Searcher",
]  # fmt: skip
