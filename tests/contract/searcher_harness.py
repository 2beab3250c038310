"""The searchers that are held to the contract, a space with every sampler in it, and what drives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna

import asynctune as tune
from asynctune.space.space import Space
from asynctune.suggest._optuna_study import quiet_sampler
from asynctune.suggest.base import Searcher
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.limiter import ConcurrencyLimiter
from asynctune.suggest.optuna import OptunaSearch
from asynctune.suggest.quasi_random import QuasiRandomSearch
from asynctune.suggest.random_search import RandomSearch
from asynctune.suggest.repeater import Repeater


class Thing:
    """A category that is equal to nothing but itself."""


THING = Thing()
LIST = [1, [2]]
CATEGORIES = ["sgd", None, True, 1, 1.0, THING, LIST, {"deep": tune.uniform(2, 3)}]

KINDS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "uniform": (tune.uniform(-1, 2), lambda v: -1 <= v <= 2),
    "uniform of one value": (tune.uniform(3, 3), lambda v: v == 3),
    "uniform of all floats": (tune.uniform(-1.7e308, 1.7e308), math.isfinite),
    "quniform": (tune.quniform(0, 1, 0.3), lambda v: v in (0, 0.3, 0.6, 0.9)),
    "quniform of many": (
        tune.quniform(0.05, 50, 0.1),
        lambda v: on_step(v, 0.1) and 0.05 <= v <= 50,
    ),
    "loguniform": (tune.loguniform(1e-5, 1), lambda v: 1e-5 <= v <= 1),
    "qloguniform": (tune.qloguniform(0.05, 0.5, 0.1), lambda v: v in (0.1, 0.2, 0.3, 0.4, 0.5)),
    "randint": (tune.randint(-2, 3), lambda v: v in range(-2, 3)),
    "randint of many": (tune.randint(0, 10**6), lambda v: v in range(10**6)),
    "randint beyond floats": (tune.randint(2**80, 2**90), lambda v: 2**80 <= v < 2**90),
    "qrandint": (tune.qrandint(3, 21, 5), lambda v: v in (5, 10, 15, 20)),
    "lograndint": (tune.lograndint(1, 10), lambda v: v in range(1, 10)),
    "lograndint of many": (tune.lograndint(8, 1025), lambda v: v in range(8, 1025)),
    "qlograndint": (tune.qlograndint(8, 64, 8), lambda v: v in range(8, 65, 8)),
    "randn": (tune.randn(10, 2), lambda v: 0 <= v <= 20),
    "randn of no spread": (tune.randn(10, 0), lambda v: v == 10),
    "qrandn": (tune.qrandn(10, 2, 0.5), lambda v: v in [n / 2 for n in range(41)]),
    "choice": (tune.choice(CATEGORIES), lambda v: True),
}
INTS = ("randint", "randint of many", "randint beyond floats", "qrandint", "lograndint",
        "lograndint of many", "qlograndint")  # fmt: skip
SPACE = {
    "fixed": 1,
    "choice": KINDS["choice"][0],
    "flat": {name: sampler for name, (sampler, _) in KINDS.items() if name != "choice"},
    "list": [tune.uniform(0, 1), {"inner": tune.randint(0, 3)}],
    "grid": tune.grid_search([1, 2]),
    "of": tune.sample_from(lambda spec: spec.config.fixed + 1),
}


def on_step(value: float, q: float) -> bool:
    return math.isclose(value / q, round(value / q), abs_tol=1e-9)


def sampled(name: str, **arguments: Any) -> Callable[[], Searcher]:
    """Make OptunaSearch with a sampler of its own, without the warning that it is experimental."""
    return lambda: OptunaSearch(
        sampler=quiet_sampler(lambda: getattr(optuna.samplers, name)(seed=1, **arguments))
    )


MAKERS: dict[str, Callable[[], Searcher]] = {
    "random": RandomSearch,
    "quasi-random": QuasiRandomSearch,
    "TPE": OptunaSearch,
    "TPE of our seed": partial(OptunaSearch, seed=5),
    "CMA-ES": sampled("CmaEsSampler", warn_independent_sampling=False, n_startup_trials=5),
    "NSGA-II": sampled("NSGAIISampler", population_size=5),
    "QMC": sampled("QMCSampler", warn_independent_sampling=False),
    "BOHB": partial(BOHBSearch, min_points=4),
    "BOHB, never random": partial(BOHBSearch, min_points=4, random_fraction=0),
    "limiter": lambda: ConcurrencyLimiter(OptunaSearch(), 3),
    "repeater": lambda: Repeater(OptunaSearch(), 2),
    "limited repeater": lambda: ConcurrencyLimiter(Repeater(RandomSearch(), 3), 2),
    "repeated limiter": lambda: Repeater(ConcurrencyLimiter(BOHBSearch(min_points=2), 1), 2),
}
LEARNING = ("TPE", "CMA-ES", "NSGA-II", "BOHB", "BOHB, never random")


def bound(name: str, config: dict[str, Any] | None = None, seed: int = 3) -> tuple[Searcher, Space]:
    space = Space(SPACE if config is None else config)
    searcher = MAKERS[name]()
    searcher.bind(space, "loss", "min", seed)
    return searcher, space


@dataclass(slots=True)
class Drive:
    """Asks a searcher and tells it, by commands; notes what it answered."""

    searcher: Searcher
    space: Space
    asked: int = 0
    live: list[str] | None = None
    over: list[str] | None = None
    answers: list[Any] | None = None

    def __post_init__(self) -> None:
        self.live, self.over, self.answers = [], [], []

    def do(self, command: str, which: int, value: float) -> None:
        """Do one thing: suggest, or tell of the ``which``-th trial that is live or over."""
        assert self.live is not None
        assert self.over is not None
        assert self.answers is not None
        row = {"loss": value, "training_iteration": 1 + which % 4}
        if command == "suggest":
            trial_id = f"trial_{self.asked}"
            values = self.searcher.suggest(trial_id)
            if values is not None:
                self.answers.append(self.space.variant(self.asked, 0, values).drawn)
                self.asked += 1
                self.live.append(trial_id)
            else:
                self.answers.append(None)
        elif command == "result" and self.live:
            self.searcher.on_trial_result(self.live[which % len(self.live)], row)
        elif command in ("complete", "error", "removed") and self.live:
            trial_id = self.live.pop(which % len(self.live))
            self.over.append(trial_id)
            last = None if command == "removed" else row
            self.searcher.on_trial_complete(trial_id, last, error=command == "error")
        elif command == "again" and self.over:
            trial_id = self.over[which % len(self.over)]
            self.searcher.on_trial_complete(trial_id, row)
            self.searcher.on_trial_result(trial_id, row)


def run(searcher: Searcher, space: Space, count: int, loss: Callable[..., float]) -> list[Any]:
    """Run trials one after the other, three results each; return what was drawn."""
    drawn = []
    for number in range(count):
        trial_id = f"trial_{number}"
        values = searcher.suggest(trial_id)
        variant = space.variant(number, 0, values)
        drawn.append(variant.drawn)
        for iteration in (1, 2, 3):
            row = {"loss": loss(variant.config) + 1 / iteration, "training_iteration": iteration}
            searcher.on_trial_result(trial_id, row)
        searcher.on_trial_complete(trial_id, row)
    return drawn
