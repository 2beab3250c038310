"""Stoppers for plateaus: a trial, or the whole run, stops when its metric no longer moves."""

from __future__ import annotations

import math
import statistics
from bisect import insort
from collections import deque
from collections.abc import Collection
from typing import TypeAlias

from asynctune._checks import argument_error, check_int, check_key, check_mode, check_number
from asynctune.errors import MetricMissing
from asynctune.result import TRAINING_ITERATION, Row, flatten
from asynctune.schedulers.base import score_of
from asynctune.schedulers.stoppers.base import Stopper
from asynctune.schedulers.stoppers.limits import time_in

_Entry: TypeAlias = tuple[float, str, float]
"""A value of which less is better, the id of its trial, and its training_iteration."""


class TrialPlateauStopper(Stopper):
    """Stops a trial whose metric no longer moves.

    The metric no longer moves once the standard deviation of the last results is less than ``std``. Values
    that are not finite are equal to themselves and infinitely far from all others; NaN does not reach the
    threshold.

    Args:
        metric: The metric; a nested one is written flat, as ``"a/b"``.
        std: The bound of the standard deviation, greater than 0.
        num_results: The number of last results that are compared, at least 2.
        grace_period: The ``training_iteration`` before which no trial is stopped.
        metric_threshold: The value that the metric must have reached for a stop; None for no threshold.
        mode: ``"min"`` or ``"max"``; needed with ``metric_threshold``.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(
        self,
        metric: str,
        std: float = 0.01,
        num_results: int = 4,
        grace_period: int = 4,
        metric_threshold: float | None = None,
        *,
        mode: str | None = None,
    ) -> None:
        name = type(self).__name__
        self._metric = check_key(name, "metric", metric)
        self._std = check_number(name, "std", std, above=0)
        self._num_results = check_int(name, "num_results", num_results, 2)
        self._grace_period = check_int(name, "grace_period", grace_period, 0)
        if metric_threshold is not None and mode is None:
            what = "'min' or 'max' where metric_threshold is given"
            raise argument_error(name, "mode", what, mode)
        # Without a threshold the mode does not matter: a spread has no sign.
        self._mode = "max" if mode is None else check_mode(name, "mode", mode)
        self._threshold = -math.inf
        if metric_threshold is not None:
            threshold = check_number(name, "metric_threshold", metric_threshold)
            self._threshold = threshold if self._mode == "max" else -threshold
        self._latest: dict[str, deque[tuple[float, float]]] = {}

    def __call__(self, trial_id: str, result: Row) -> bool:
        iteration = time_in(self, result, TRAINING_ITERATION)
        score = _score(self, result, self._metric, self._mode)
        latest = self._latest.setdefault(trial_id, deque(maxlen=self._num_results))
        while latest and latest[-1][0] >= iteration:  # a retry repeats results
            latest.pop()
        latest.append((iteration, score))
        return (
            len(latest) == self._num_results
            and iteration >= self._grace_period
            and score >= self._threshold
            and _spread([value for _, value in latest]) < self._std
        )


class EarlyStopping(Stopper):
    """Stops the whole run when its best results no longer get better.

    They no longer get better once the standard deviation of the best ``top`` results of all trials is at
    most ``std``. Values that are not finite are never among the best.

    Args:
        metric: The metric; a nested one is written flat, as ``"a/b"``.
        std: The bound of the standard deviation, greater than 0.
        top: The number of best results that are compared, at least 2.
        mode: ``"min"`` or ``"max"``: whether low or high values are the best.
        patience: The number of results in a row for which this has to hold; 0 is the same as 1.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(
        self,
        metric: str,
        std: float = 0.001,
        top: int = 10,
        mode: str = "min",
        patience: int = 0,
    ) -> None:
        name = type(self).__name__
        self._metric = check_key(name, "metric", metric)
        self._std = check_number(name, "std", std, above=0)
        self._num_top = check_int(name, "top", top, 2)
        self._mode = check_mode(name, "mode", mode)
        self._patience = check_int(name, "patience", patience, 0)
        self._top: list[_Entry] = []
        self._newest: dict[str, float] = {}
        self._has_plateaued = False
        self._num_results = 0  # the number of results since the plateau began

    def __call__(self, trial_id: str, result: Row) -> bool:
        iteration = time_in(self, result, TRAINING_ITERATION)
        value = -_score(self, result, self._metric, self._mode)
        is_repeated = iteration <= self._newest.get(trial_id, -math.inf)
        if is_repeated:
            self._drop_result(trial_id, iteration)
        else:
            self._newest[trial_id] = iteration
        if math.isfinite(value):
            insort(self._top, (value, trial_id, iteration))
            del self._top[self._num_top :]
        self._has_plateaued = (
            len(self._top) == self._num_top
            and _spread([value for value, _, _ in self._top]) <= self._std
        )
        if not self._has_plateaued:
            self._num_results = 0
        elif not is_repeated:
            self._num_results += 1
        return self.stop_all()

    def stop_all(self) -> bool:
        return self._has_plateaued and self._num_results >= self._patience

    def _drop_result(self, trial_id: str, iteration: float) -> None:
        """Drop a result that a retry reports again."""
        self._top = [entry for entry in self._top if entry[1:] != (trial_id, iteration)]


def _score(stopper: Stopper, result: Row, metric: str, mode: str) -> float:
    """Return the metric of a result as a score, of which higher is better; NaN becomes ``-inf``."""
    try:
        return score_of(flatten(result), metric, mode)
    except MetricMissing as exc:
        raise MetricMissing(metric, exc.found, wanted_by=type(stopper).__name__) from None


def _spread(values: Collection[float]) -> float:
    """Return the standard deviation: 0 for equal values, even infinite ones; inf for others with those."""
    if len(set(values)) == 1:
        return 0.0
    if not all(map(math.isfinite, values)):
        return math.inf
    return statistics.pstdev(values)
