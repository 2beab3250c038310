"""asynctune's own schedulers and searchers in the simulator, with the runner of every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asynctune import simulate
from asynctune.schedulers import (
    ASHAScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from asynctune.simulate import Curves
from asynctune.space.domains import Choice
from asynctune.space.space import Space
from asynctune.suggest import BOHBSearch, OptunaSearch, Searcher

METRIC = "accuracy"
GOAL = {"metric": METRIC, "mode": "max"}
FIRST = 100
"""The number of configurations of random search, whose best result is the mark."""

Trace = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    Args:
        scheduler: A function that returns the scheduler; None for no scheduler.
        searcher: A function that returns the searcher; None for random samples.
        samples: The number of configurations; -1 for no limit.
        population: Whether ``samples`` trials are a population, which another one follows.
        searches: Whether the method suggests configurations, instead of drawing curves.
    """

    scheduler: Callable[[Curves], TrialScheduler] | None = None
    searcher: Callable[[], Searcher] | None = None
    samples: int = -1
    population: bool = False
    searches: bool = False


def _longest(curves: Curves) -> int:
    return len(curves[0])


def _asha(*, promote: bool) -> Callable[[Curves], TrialScheduler]:
    return lambda curves: ASHAScheduler(max_t=_longest(curves), promote=promote)


def _pbt(curves: Curves) -> TrialScheduler:
    mutations = {
        name: list(domain.categories) if isinstance(domain, Choice) else domain
        for name, domain in curves.domains.items()
    }
    return PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=5, hyperparam_mutations=mutations
    )


METHODS: dict[str, Method] = {
    "random": Method(),
    "TPE": Method(searcher=OptunaSearch, searches=True),
    "ASHA": Method(_asha(promote=False)),
    "ASHA promote": Method(_asha(promote=True)),
    "HyperBand": Method(lambda curves: HyperBandScheduler(max_t=_longest(curves))),
    "BOHB": Method(
        lambda curves: HyperBandForBOHB(max_t=_longest(curves)), BOHBSearch, searches=True
    ),
    "median": Method(
        lambda curves: MedianStoppingRule(time_attr="training_iteration", grace_period=5)
    ),
    "PBT": Method(_pbt, population=True, searches=True),
    "ASHA, the same 100": Method(_asha(promote=False), samples=FIRST),
    "ASHA promote, the same 100": Method(_asha(promote=True), samples=FIRST),
}

MARKED = ("random", "ASHA", "ASHA promote", "ASHA, the same 100", "ASHA promote, the same 100")


def population(workers: int) -> int:
    """Return the number of trials of a population."""
    return max(20, workers)


def drawn(curves: Curves, seed: int, count: int) -> list[int]:
    """Return the curves that a run with this seed draws, in order."""
    space = Space(curves.space())
    return [space.variant(index, seed).config[simulate.CURVE] for index in range(count)]


def trace(curves: Curves, method: str, workers: int, seed: int, limit: float) -> Trace:
    """Search for some simulated seconds. Return each time at which the best accuracy rose, and to what."""
    way = METHODS[method]
    found: Trace = []
    began, number = 0.0, 0
    while began < limit:
        arguments: dict[str, Any] = {
            "config": curves.space("domains" if way.searches else "rows"),
            "num_samples": population(workers) if way.population else way.samples,
            "scheduler": way.scheduler and way.scheduler(curves),
            "search_alg": way.searcher and way.searcher(),
            "time_budget_s": limit - began,
            "seed": seed + 1_000_000 * number,
        }
        came = simulate.run(simulate.tune(curves, workers, **GOAL, **arguments))
        for row in came.rows:
            when = began + row[simulate.SIMULATED_S]
            if when <= limit and (not found or row[METRIC] > found[-1][1]):
                found.append((when, row[METRIC]))
        if not way.population or came.seconds <= 0:
            break
        began, number = began + came.seconds, number + 1
    return found
