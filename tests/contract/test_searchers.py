"""The searchers that come with asynctune keep the contract of searchers."""

from __future__ import annotations

import optuna

from asynctune.suggest import (
    BOHBSearch,
    ConcurrencyLimiter,
    OptunaSearch,
    QuasiRandomSearch,
    RandomSearch,
    Repeater,
)
from asynctune.suggest._optuna_study import quiet_sampler
from asynctune.testing.searchers import LearningSearcherContract, SearcherContract

OPTUNA_LOGGERS = ("optuna", "optuna.storages._in_memory")


def sampled(name, **arguments):
    """Make OptunaSearch with a sampler of its own, without the warning that it is experimental."""
    return OptunaSearch(
        sampler=quiet_sampler(lambda: getattr(optuna.samplers, name)(seed=1, **arguments))
    )


class TestRandomSearch(SearcherContract):
    def make_searcher(self):
        return RandomSearch()


class TestQuasiRandomSearch(SearcherContract):
    def make_searcher(self):
        return QuasiRandomSearch()


class OptunaContract(SearcherContract):
    loggers = OPTUNA_LOGGERS


class LearningOptunaContract(LearningSearcherContract):
    loggers = OPTUNA_LOGGERS


class TestTPE(LearningOptunaContract):
    def make_searcher(self):
        return OptunaSearch()


class TestTPEOfItsOwnSeed(OptunaContract):
    takes_run_seed = False

    def make_searcher(self):
        return OptunaSearch(seed=5)


class TestCMAES(LearningOptunaContract):
    takes_run_seed = False

    def make_searcher(self):
        return sampled("CmaEsSampler", warn_independent_sampling=False, n_startup_trials=5)


class TestNSGAII(LearningOptunaContract):
    takes_run_seed = False

    def make_searcher(self):
        return sampled("NSGAIISampler", population_size=5)


class TestQMC(OptunaContract):
    takes_run_seed = False

    def make_searcher(self):
        return sampled("QMCSampler", warn_independent_sampling=False)


class TestBOHB(LearningSearcherContract):
    def make_searcher(self):
        return BOHBSearch(min_points=4)


class TestBOHBThatIsNeverRandom(LearningSearcherContract):
    def make_searcher(self):
        return BOHBSearch(min_points=4, random_fraction=0)


class TestConcurrencyLimiter(OptunaContract):
    def make_searcher(self):
        return ConcurrencyLimiter(OptunaSearch(), 3)


class TestRepeater(OptunaContract):
    takes_duplicates = False

    def make_searcher(self):
        return Repeater(OptunaSearch(), 2)


class TestLimitedRepeater(SearcherContract):
    takes_duplicates = False

    def make_searcher(self):
        return ConcurrencyLimiter(Repeater(RandomSearch(), 3), 2)


class TestRepeatedLimiter(SearcherContract):
    takes_duplicates = False

    def make_searcher(self):
        return Repeater(ConcurrencyLimiter(BOHBSearch(min_points=2), 1), 2)
