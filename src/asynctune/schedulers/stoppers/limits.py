"""Stoppers for limits, and the combination of several stoppers.

Each depends only on the rows, in the order of the journal. A resume replays the same rows to a new
instance, and so restores its state. Rows that a retry reports again count once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta

from asynctune._checks import argument_error, check_int, check_seconds, naming_argument
from asynctune.errors import MetricMissing
from asynctune.result import TIME_SINCE_RESTORE, TIMESTAMP, TRAINING_ITERATION, Row
from asynctune.schedulers.base import time_of
from asynctune.schedulers.stoppers.base import Stopper, make_stopper


class MaximumIterationStopper(Stopper):
    """Stops a trial at a ``training_iteration``.

    Args:
        max_iter: The ``training_iteration`` at which a trial stops, at least 1.

    Raises:
        ConfigError: The argument is no int of at least 1.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = check_int(type(self).__name__, "max_iter", max_iter, 1)

    def __call__(self, trial_id: str, result: Row) -> bool:
        return time_in(self, result, TRAINING_ITERATION) >= self._max_iter


class TimeoutStopper(Stopper):
    """Stops the whole run once its trials have trained for some time.

    The stopper reads no clock, and is right to about a second. The time counts in which at least one trial
    trained, by the ``timestamp`` and ``time_since_restore`` of the results. So the time between the end of
    a driver and a resume does not count, nor the time before the first result. The run asks the stopper
    after results only: a trial that reports none is not stopped (``time_budget_s`` of the run stops such a
    trial, too).

    Args:
        timeout: The time in seconds, or a :class:`~datetime.timedelta`; greater than 0.

    Raises:
        ConfigError: The timeout is not greater than 0.
    """

    def __init__(self, timeout: float | timedelta) -> None:
        self._timeout = check_seconds(type(self).__name__, "timeout", timeout)
        self._elapsed = 0.0
        self._latest = -math.inf

    def __call__(self, trial_id: str, result: Row) -> bool:
        now = time_in(self, result, TIMESTAMP)
        trained = max(0.0, time_in(self, result, TIME_SINCE_RESTORE))
        if math.isinf(self._latest):
            self._elapsed = trained
        elif now > self._latest:
            # One second more, since timestamps are whole seconds.
            self._elapsed += min(now - self._latest, trained + 1)
        self._latest = max(self._latest, now)
        return False

    def stop_all(self) -> bool:
        return self._elapsed >= self._timeout


class CombinedStopper(Stopper):
    """Stops a trial, or the whole run, when any of several stoppers does. Each gets every result.

    Args:
        stoppers: The stoppers, each in any form of the argument ``stop`` of a run: a stopper, a function or
            a dict of bounds.

    Raises:
        ConfigError: A stopper has none of these forms, or there is no stopper.
    """

    def __init__(
        self, *stoppers: Stopper | Callable[[str, Row], bool] | Mapping[str, float]
    ) -> None:
        name = type(self).__name__
        if not stoppers:
            raise argument_error(name, "stoppers", "at least one stopper", stoppers)
        self._stoppers = []
        for index, stopper in enumerate(stoppers):
            # make_stopper() takes None for a run without a stopper.
            if stopper is None:
                raise argument_error(
                    name,
                    f"stoppers[{index}]",
                    "a stopper, a function (trial_id, result) -> bool or a dict of bounds",
                    stopper,
                )
            with naming_argument(f"stoppers[{index}] of {name}"):
                self._stoppers.append(make_stopper(stopper))

    def __call__(self, trial_id: str, result: Row) -> bool:
        # A list, so that each stopper gets the result even if an earlier one stops the trial.
        return any([stopper(trial_id, result) for stopper in self._stoppers])  # noqa: C419

    def stop_all(self) -> bool:
        return any(stopper.stop_all() for stopper in self._stoppers)


def time_in(stopper: Stopper, result: Row, name: str) -> float:
    """Return a finite number of a result. The error for a missing key names the stopper."""
    try:
        return time_of(result, name)
    except MetricMissing as exc:
        raise MetricMissing(name, exc.found, wanted_by=type(stopper).__name__) from None
