"""Stoppers for what is asked for most: a limit, a plateau, or several of them at once.

Each is told of the rows in the order of the journal and knows nothing else, so that a resume, which tells
it the same again, finds it where it was. Rows that a retry reports again count once.
"""

from __future__ import annotations

import math
import statistics
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TypeAlias

from asynctune.blame import about
from asynctune.errors import ConfigError, MetricMissing
from asynctune.result import TIME_SINCE_RESTORE, TIMESTAMP, TRAINING_ITERATION, Row, flatten
from asynctune.schedulers.arguments import direction, key, number, whole
from asynctune.schedulers.base import score_of, time_of
from asynctune.stopper import Stopper, make_stopper

_Top: TypeAlias = tuple[float, str, float]
"""A value of which less is better, and the trial and training_iteration that it is of."""


class MaximumIterationStopper(Stopper):
    """Stops a trial at a ``training_iteration``.

    Args:
        max_iter: Which.

    Raises:
        ConfigError: It is no int of at least 1.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = whole(type(self).__name__, "max_iter", max_iter, 1)

    def __call__(self, trial_id: str, result: Row) -> bool:
        return _time(self, result, TRAINING_ITERATION) >= self._max_iter


class TimeoutStopper(Stopper):
    """Stops the whole run once its trials have trained for some time.

    It reads no clock, and is right to about a second: what counts is the time for which at least one trial
    trained, by the ``timestamp`` and ``time_since_restore`` of the results. So the time between the end of
    a driver and a resume does not count, nor what passes before there is a result. It is asked at results
    only: a trial that reports none is not stopped (for that there is ``time_budget_s``).

    Args:
        timeout: Seconds, or a :class:`~datetime.timedelta`.

    Raises:
        ConfigError: It is not greater than 0.
    """

    def __init__(self, timeout: float | timedelta) -> None:
        given = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self._timeout = number(type(self).__name__, "timeout", given, above=0)
        self._elapsed = 0.0
        self._latest = -math.inf

    def __call__(self, trial_id: str, result: Row) -> bool:
        now = _time(self, result, TIMESTAMP)
        trained = max(0.0, _time(self, result, TIME_SINCE_RESTORE))
        if math.isinf(self._latest):
            self._elapsed = trained
        elif now > self._latest:
            # Timestamps are whole seconds.
            self._elapsed += min(now - self._latest, trained + 1)
        self._latest = max(self._latest, now)
        return False

    def stop_all(self) -> bool:
        return self._elapsed >= self._timeout


class TrialPlateauStopper(Stopper):
    """Stops a trial whose metric does not move any more.

    It does not once the standard deviation of its last results is less than a bound. Values that are not
    finite are equal to themselves and infinitely far from all others; NaN does not reach the threshold.

    Args:
        metric: What is looked at; nested ones are written flat.
        std: The bound, greater than 0.
        num_results: How many results are looked at, at least 2.
        grace_period: Before which ``training_iteration`` no trial is stopped.
        metric_threshold: Only trials are stopped whose metric is at least as good as this.
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
        self._metric = key(name, "metric", metric)
        self._std = number(name, "std", std, above=0)
        self._num_results = whole(name, "num_results", num_results, 2)
        self._grace_period = whole(name, "grace_period", grace_period, 0)
        if metric_threshold is not None and mode is None:
            raise ConfigError(
                f"mode of {name} is not given, but metric_threshold is; 'min' or 'max' is wanted"
            )
        # Without a mode the sign does not matter.
        self._mode = "max" if mode is None else direction(name, "mode", mode)
        self._threshold = -math.inf
        if metric_threshold is not None:
            threshold = number(name, "metric_threshold", metric_threshold)
            self._threshold = threshold if self._mode == "max" else -threshold
        self._latest: dict[str, deque[tuple[float, float]]] = {}

    def __call__(self, trial_id: str, result: Row) -> bool:
        iteration = _time(self, result, TRAINING_ITERATION)
        score = _score(self, result, self._metric, self._mode)
        latest = self._latest.setdefault(trial_id, deque(maxlen=self._num_results))
        while latest and latest[-1][0] >= iteration:  # a retry reports them again
            latest.pop()
        latest.append((iteration, score))
        return (
            len(latest) == self._num_results
            and iteration >= self._grace_period
            and score >= self._threshold
            and _spread([value for _, value in latest]) < self._std
        )


class EarlyStopping(Stopper):
    """Stops the whole run when its best results do not get better any more.

    They do not once the standard deviation of the best ``top`` results of all trials is at most ``std``.
    Values that are not finite are none of the best.

    Args:
        metric: What is looked at; nested ones are written flat.
        std: The bound, greater than 0.
        top: How many results are looked at, at least 2.
        mode: ``"min"`` or ``"max"``: which are the best.
        patience: For how many results in a row this has to hold, 0 being the same as 1.

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
        self._metric = key(name, "metric", metric)
        self._std = number(name, "std", std, above=0)
        self._num_top = whole(name, "top", top, 2)
        self._mode = direction(name, "mode", mode)
        self._patience = whole(name, "patience", patience, 0)
        self._top: list[_Top] = []
        self._newest: dict[str, float] = {}
        self._has_plateaued = False
        self._num_results = 0  # since when it has

    def __call__(self, trial_id: str, result: Row) -> bool:
        iteration = _time(self, result, TRAINING_ITERATION)
        value = -_score(self, result, self._metric, self._mode)
        is_again = iteration <= self._newest.get(trial_id, -math.inf)
        if is_again:
            self._forget(trial_id, iteration)
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
        elif not is_again:
            self._num_results += 1
        return self.stop_all()

    def stop_all(self) -> bool:
        return self._has_plateaued and self._num_results >= self._patience

    def _forget(self, trial_id: str, iteration: float) -> None:
        """A result is reported again: what it was before does not count."""
        self._top = [entry for entry in self._top if entry[1:] != (trial_id, iteration)]


ExperimentPlateauStopper = EarlyStopping


class CombinedStopper(Stopper):
    """Stops a trial, or the whole run, when any of several stoppers does. Each is told of every result.

    Args:
        stoppers: Anything that ``stop`` of a run may be: stoppers, functions, dicts of bounds.

    Raises:
        ConfigError: One of them is none of these, or there is none.
    """

    def __init__(
        self, *stoppers: Stopper | Callable[[str, Row], bool] | Mapping[str, float]
    ) -> None:
        name = type(self).__name__
        if not stoppers:
            raise ConfigError(f"stoppers of {name} are none; at least one is wanted")
        self._stoppers = []
        for place, stopper in enumerate(stoppers):
            if stopper is None:
                raise ConfigError(
                    f"stoppers[{place}] of {name} is None; a stopper, a function (trial_id, result) -> "
                    "bool or a dict of bounds is wanted"
                )
            with about(f"stoppers[{place}] of {name}"):
                self._stoppers.append(make_stopper(stopper))

    def __call__(self, trial_id: str, result: Row) -> bool:
        return any([stopper(trial_id, result) for stopper in self._stoppers])  # noqa: C419

    def stop_all(self) -> bool:
        return any(stopper.stop_all() for stopper in self._stoppers)


def _time(stopper: Stopper, result: Row, name: str) -> float:
    """Return a number of a result that is no metric."""
    try:
        return time_of(result, name)
    except MetricMissing as exc:
        raise MetricMissing(name, exc.found, wanted_by=type(stopper).__name__) from None


def _score(stopper: Stopper, result: Row, metric: str, mode: str) -> float:
    """Return the metric of a result as a number of which more is better, -inf for NaN."""
    try:
        return score_of(flatten(result), metric, mode)
    except MetricMissing as exc:
        raise MetricMissing(metric, exc.found, wanted_by=type(stopper).__name__) from None


def _spread(values: Collection[float]) -> float:
    """Return the standard deviation of values, 0 if they are all the same, even if that is infinite."""
    if len(set(values)) == 1:
        return 0.0
    if not all(map(math.isfinite, values)):
        return math.inf
    return statistics.pstdev(values)
