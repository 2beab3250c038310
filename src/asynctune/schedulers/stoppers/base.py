"""The base class of stoppers, and the forms of the argument ``stop``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from asynctune._checks import argument_error, check_callable
from asynctune.errors import MetricMissing
from asynctune.result import Row, flatten

_FUNCTION = "a plain function (trial_id, result) -> bool"


class Stopper:
    """Decides after each result whether a trial, or the run, stops. Subclasses define ``__call__``."""

    def __call__(self, trial_id: str, result: Row) -> bool:
        """Return whether a trial stops at a result.

        Args:
            trial_id: The id of the trial.
            result: The newest row of the trial.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define __call__")

    def stop_all(self) -> bool:
        """Return whether the whole run stops. The run calls this after each result."""
        return False


class NeverStops(Stopper):
    """Stops no trial."""

    def __call__(self, trial_id: str, result: Row) -> bool:
        return False


class CriteriaStopper(Stopper):
    """Stops a trial when any metric has reached its bound (``>=``).

    Args:
        criteria: The bounds by flattened name of the metric, e.g. ``{"training_iteration": 10}``.

    Raises:
        ConfigError: A key is no str, or a bound is no number.
    """

    def __init__(self, criteria: Mapping[str, float]) -> None:
        for key, bound in criteria.items():
            if not isinstance(key, str):
                raise argument_error("", "each key of stop", "the name of a metric", key)
            if isinstance(bound, Mapping):
                flat = f"{key}/{next(iter(bound), '...')}"
                hint = f"write nested metrics flat, as {flat!r}"
                raise argument_error("", f"stop[{key!r}]", "a number", bound, hint)
            if not _is_number(bound) or math.isnan(bound):
                raise argument_error("", f"stop[{key!r}]", "a number other than NaN", bound)
        self._criteria = dict(criteria)

    def __call__(self, trial_id: str, result: Row) -> bool:
        if not self._criteria:
            return False
        flat = flatten(result)
        reached = False
        for key, bound in self._criteria.items():
            if key not in flat:
                raise MetricMissing(key, flat, wanted_by="stop")
            value = flat[key]
            # None is the timesteps_total of a trial that counts none. NaN never reaches a bound.
            reached = reached or (_is_number(value) and bool(value >= bound))
        return reached


class FunctionStopper(Stopper):
    """Stops a trial when a function returns True.

    Args:
        function: A function ``(trial_id, result) -> bool``, called with each result.

    Raises:
        ConfigError: The function cannot be called with these arguments.
    """

    def __init__(self, function: Callable[[str, Row], bool]) -> None:
        self._function = check_callable(
            "FunctionStopper", "function", function, "trial_id", "result", what=_FUNCTION
        )

    def __call__(self, trial_id: str, result: Row) -> bool:
        return bool(self._function(trial_id, result))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def make_stopper(stop: Any) -> Stopper:
    """Return a stopper for any form of the argument ``stop``.

    Raises:
        ConfigError: The argument has none of the forms, or is a function of another signature.
    """
    if stop is None:
        return NeverStops()
    if isinstance(stop, Stopper):
        return stop
    if isinstance(stop, Mapping):
        return CriteriaStopper(stop)
    what = f"a dict of bounds, {_FUNCTION}, or an instance of tune.Stopper"
    # The class of a stopper, or a stopper that is not derived from Stopper.
    if hasattr(stop, "stop_all"):
        raise argument_error("", "stop", what, stop)
    return FunctionStopper(check_callable("", "stop", stop, "trial_id", "result", what=what))
