"""The spaces of the searchers' contract, and the ways in which its tests drive a searcher."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from asynctune.space import (
    Space,
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from asynctune.suggest import Searcher


class Thing:
    """A category that is equal only to itself."""


THING = Thing()
LIST = [1, [2]]
CATEGORIES = ["sgd", None, True, 1, 1.0, THING, LIST, {"deep": uniform(2, 3)}]

Check: TypeAlias = Callable[[Any], bool]


def _on_step(value: float, q: float) -> bool:
    return math.isclose(value / q, round(value / q), abs_tol=1e-9)


SAMPLERS: dict[str, tuple[Any, Check]] = {
    "uniform": (uniform(-1, 2), lambda v: -1 <= v <= 2),
    "uniform of one value": (uniform(3, 3), lambda v: bool(v == 3)),
    "uniform of all floats": (uniform(-1.7e308, 1.7e308), math.isfinite),
    "quniform": (quniform(0, 1, 0.3), lambda v: v in (0, 0.3, 0.6, 0.9)),
    "quniform of many": (
        quniform(0.05, 50, 0.1),
        lambda v: _on_step(v, 0.1) and 0.05 <= v <= 50,
    ),
    "loguniform": (loguniform(1e-5, 1), lambda v: 1e-5 <= v <= 1),
    "qloguniform": (qloguniform(0.05, 0.5, 0.1), lambda v: v in (0.1, 0.2, 0.3, 0.4, 0.5)),
    "randint": (randint(-2, 3), lambda v: v in range(-2, 3)),
    "randint of many": (randint(0, 10**6), lambda v: v in range(10**6)),
    "randint beyond floats": (randint(2**80, 2**90), lambda v: 2**80 <= v < 2**90),
    "qrandint": (qrandint(3, 21, 5), lambda v: v in (5, 10, 15, 20)),
    "lograndint": (lograndint(1, 10), lambda v: v in range(1, 10)),
    "lograndint of many": (lograndint(8, 1025), lambda v: v in range(8, 1025)),
    "qlograndint": (qlograndint(8, 64, 8), lambda v: v in range(8, 65, 8)),
    "randn": (randn(10, 2), lambda v: 0 <= v <= 20),
    "randn of no spread": (randn(10, 0), lambda v: bool(v == 10)),
    "qrandn": (qrandn(10, 2, 0.5), lambda v: v in [n / 2 for n in range(41)]),
    "choice": (choice(CATEGORIES), lambda _: True),
}
"""Every kind of sampler, and a check of its values."""

INTS = ("randint", "randint of many", "randint beyond floats", "qrandint", "lograndint",
        "lograndint of many", "qlograndint")  # fmt: skip
SPACE = {
    "fixed": 1,
    "choice": SAMPLERS["choice"][0],
    "flat": {name: sampler for name, (sampler, _) in SAMPLERS.items() if name != "choice"},
    "list": [uniform(0, 1), {"inner": randint(0, 3)}],
    "grid": grid_search([1, 2]),
    "of": sample_from(lambda spec: spec.config.fixed + 1),
}
BOWL = {"x": uniform(0, 1), "y": uniform(0, 1)}

STREAM: list[tuple[str, int, float]] = [
    *(("suggest", 0, 0), ("suggest", 0, 0), ("result", 0, 3.0), ("result", 1, math.nan)),
    *(("suggest", 0, 0), ("complete", 0, 2.0), ("again", 0, 1.0), ("error", 0, 1.0)),
    *(("suggest", 0, 0), ("removed", 0, 0), ("complete", 0, math.inf), ("suggest", 0, 0)),
] * 4


def bowl(config: Mapping[str, Any]) -> float:
    """Return the loss of a configuration of ``BOWL``."""
    return float((config["x"] - 0.7) ** 2 + (config["y"] - 0.2) ** 2)


def values_of(searcher: Searcher, trial_id: str) -> dict[str, Any]:
    """Return a suggestion, which must consist of values."""
    suggestion = searcher.suggest(trial_id)
    assert isinstance(suggestion, Mapping), f"{suggestion!r} instead of values"
    return dict(suggestion)


def run_trials(
    searcher: Searcher, space: Space, count: int, loss: Callable[[Mapping[str, Any]], float]
) -> list[Mapping[str, Any]]:
    """Run trials one after the other, with three results each, and return their configurations."""
    configs: list[Mapping[str, Any]] = []
    for number in range(count):
        trial_id = f"trial_{number}"
        config = space.variant(number, 0, values_of(searcher, trial_id)).config
        configs.append(config)
        row: dict[str, Any] = {}
        for iteration in (1, 2, 3):
            row = {"loss": loss(config) + 1 / iteration, "training_iteration": iteration}
            searcher.on_trial_result(trial_id, row)
        searcher.on_trial_complete(trial_id, row)
    return configs


class SearcherDriver:
    """Calls a searcher by commands, and records its suggestions.

    Args:
        searcher: The searcher, bound to the space.
        space: The space.

    Attributes:
        suggestions: The drawn values of each suggestion; None for "not now".
    """

    def __init__(self, searcher: Searcher, space: Space) -> None:
        self.suggestions: list[Any] = []
        self._searcher = searcher
        self._space = space
        self._count = 0
        self._live: list[str] = []
        self._ended: list[str] = []

    def perform(self, command: str, which: int, value: float) -> None:
        """Perform one command.

        Args:
            command: ``suggest``; ``result``, ``complete``, ``error`` or ``removed`` of a live trial; or
                ``again``, which repeats the notifications of an ended trial. Without such a trial the
                command does nothing.
            which: The number of the trial among the live or the ended ones.
            value: The loss of the result.
        """
        searcher, row = self._searcher, {"loss": value, "training_iteration": 1 + which % 4}
        if command == "suggest":
            self._suggest()
        elif command == "result" and self._live:
            searcher.on_trial_result(self._live[which % len(self._live)], row)
        elif command in ("complete", "error", "removed") and self._live:
            trial_id = self._live.pop(which % len(self._live))
            self._ended.append(trial_id)
            last = None if command == "removed" else row
            searcher.on_trial_complete(trial_id, last, error=command == "error")
        elif command == "again" and self._ended:
            trial_id = self._ended[which % len(self._ended)]
            searcher.on_trial_complete(trial_id, row)
            searcher.on_trial_result(trial_id, row)

    def _suggest(self) -> None:
        trial_id = f"trial_{self._count}"
        suggestion = self._searcher.suggest(trial_id)
        if suggestion is None:
            self.suggestions.append(None)
            return
        assert isinstance(suggestion, Mapping)
        self.suggestions.append(self._space.variant(self._count, 0, suggestion).drawn)
        self._count += 1
        self._live.append(trial_id)
