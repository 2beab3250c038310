"""asynctune's own schedulers and searchers, in the simulator: the runner is the one of every run."""

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
"""The configurations that random search is to try, and whose best the mark is about."""

Trace = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    Args:
        scheduler: Makes its scheduler, None for none.
        searcher: Makes its searcher, None for drawing at random.
        samples: How many configurations it may try; -1: as many as it gets to.
        population: Whether ``samples`` trials are a population, after which another one begins.
        searches: Whether it names configurations itself, instead of taking curves as they are drawn.
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
    """Return how many trials a population has."""
    return max(20, workers)


def drawn(curves: Curves, seed: int, count: int) -> list[int]:
    """Return the curves that a run with this seed draws, in their order."""
    space = Space(curves.space())
    return [space.variant(index, seed).config[simulate.CURVE] for index in range(count)]


def trace(curves: Curves, method: str, workers: int, seed: int, limit: float) -> Trace:
    """Search for so many simulated seconds; return when the best accuracy so far rose, and to what."""
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
