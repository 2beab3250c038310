"""Stoppers for what is asked for most: a limit, or several stoppers at once.

Each is told of the rows in the order of the journal and knows nothing else, so that a resume, which tells
it the same again, finds it where it was. Rows that a retry reports again count once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta

from asynctune._checks import check_int, check_number, naming_argument
from asynctune.errors import ConfigError, MetricMissing
from asynctune.result import TIME_SINCE_RESTORE, TIMESTAMP, TRAINING_ITERATION, Row
from asynctune.schedulers.base import time_of
from asynctune.schedulers.stoppers.base import Stopper, make_stopper


class MaximumIterationStopper(Stopper):
    """Stops a trial at a ``training_iteration``.

    Args:
        max_iter: Which.

    Raises:
        ConfigError: It is no int of at least 1.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = check_int(type(self).__name__, "max_iter", max_iter, 1)

    def __call__(self, trial_id: str, result: Row) -> bool:
        return time_in(self, result, TRAINING_ITERATION) >= self._max_iter


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
        self._timeout = check_number(type(self).__name__, "timeout", given, above=0)
        self._elapsed = 0.0
        self._latest = -math.inf

    def __call__(self, trial_id: str, result: Row) -> bool:
        now = time_in(self, result, TIMESTAMP)
        trained = max(0.0, time_in(self, result, TIME_SINCE_RESTORE))
        if math.isinf(self._latest):
            self._elapsed = trained
        elif now > self._latest:
            # Timestamps are whole seconds.
            self._elapsed += min(now - self._latest, trained + 1)
        self._latest = max(self._latest, now)
        return False

    def stop_all(self) -> bool:
        return self._elapsed >= self._timeout


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
            with naming_argument(f"stoppers[{place}] of {name}"):
                self._stoppers.append(make_stopper(stopper))

    def __call__(self, trial_id: str, result: Row) -> bool:
        return any([stopper(trial_id, result) for stopper in self._stoppers])  # noqa: C419

    def stop_all(self) -> bool:
        return any(stopper.stop_all() for stopper in self._stoppers)


def time_in(stopper: Stopper, result: Row, name: str) -> float:
    """Return a number of a result that is no metric."""
    try:
        return time_of(result, name)
    except MetricMissing as exc:
        raise MetricMissing(name, exc.found, wanted_by=type(stopper).__name__) from None
