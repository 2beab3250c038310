"""When a trial, or the whole run, has had enough."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError, MetricMissing
from asynctune.result import Row, flatten


class Stopper:
    """Decides after each result whether its trial stops. Subclass it and override what differs."""

    def __call__(self, trial_id: str, result: Row) -> bool:
        """Tell whether this trial stops at this result.

        Args:
            trial_id: The trial.
            result: Its newest row.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define __call__")

    def stop_all(self) -> bool:
        """Tell whether the whole run stops; asked after each result."""
        return False


class NeverStops(Stopper):
    """Stops nothing."""

    def __call__(self, trial_id: str, result: Row) -> bool:
        return False


class CriteriaStopper(Stopper):
    """Stops a trial when any metric has reached its bound (``>=``).

    Args:
        criteria: Flattened metric names and their bounds, e.g. ``{"training_iteration": 10}``.
    """

    def __init__(self, criteria: Mapping[str, float]) -> None:
        for key, bound in criteria.items():
            if not isinstance(key, str):
                raise ConfigError(f"stop has the key {key!r}; names of metrics are wanted")
            if isinstance(bound, Mapping):
                raise ConfigError(
                    f"stop[{key!r}] is a dict; nested metrics are written flat, as "
                    f"{key + '/' + str(next(iter(bound), '...'))!r}"
                )
            if not _is_number(bound) or math.isnan(bound):
                raise ConfigError(f"stop[{key!r}] is {bound!r}; a number is wanted")
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
            # None: the auto-filled timesteps_total of a trial that counts none. NaN never compares.
            reached = reached or (_is_number(value) and bool(value >= bound))
        return reached


class FunctionStopper(Stopper):
    """Stops a trial when a function says so.

    Args:
        function: ``(trial_id, result) -> bool``, called with each result.

    Raises:
        ConfigError: It cannot be called so.
    """

    def __init__(self, function: Callable[[str, Row], bool]) -> None:
        if not callable(function) or inspect.isclass(function):
            raise ConfigError(
                f"function of FunctionStopper is {safe_repr(function)}; a function "
                f"(trial_id, result) -> bool "
                "is wanted"
            )
        _check_signature("function of FunctionStopper", function)
        self._function = function

    def __call__(self, trial_id: str, result: Row) -> bool:
        return bool(self._function(trial_id, result))


def _check_signature(what: str, function: Callable[[str, Row], bool]) -> None:
    try:
        inspect.signature(function).bind("trial_id", {})
    except TypeError as exc:
        raise ConfigError(
            f"{what} is a function that cannot be called with (trial_id, result): {exc}"
        ) from exc
    except ValueError:  # a builtin without a signature
        pass
    if inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"{what} is an `async def`; it decides at once, so a plain function is wanted"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def make_stopper(stop: Any) -> Stopper:
    """Turn any of the forms of ``stop`` into a Stopper.

    Raises:
        ConfigError: It is none of them, or a function of another signature.
    """
    if stop is None:
        return NeverStops()
    if isinstance(stop, Stopper):
        return stop
    if isinstance(stop, Mapping):
        return CriteriaStopper(stop)
    if not callable(stop) or inspect.isclass(stop) or hasattr(stop, "stop_all"):
        raise ConfigError(
            f"stop is {stop!r}; a dict of bounds, a function (trial_id, result) -> bool, or an "
            "instance of tune.Stopper is wanted"
        )
    _check_signature("stop", stop)
    return FunctionStopper(stop)
