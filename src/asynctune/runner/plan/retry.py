"""What an ``on_failure`` function may answer."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from asynctune.errors import ConfigError, TrialError
from asynctune.experiment.trial import Trial
from asynctune.resources import Resources


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the trial again, from its newest checkpoint, whatever ``max_failures`` says.

    Args:
        resources: What it gets from now on, such as ``{"cpu": 1, "gpu": 2}``; None: what it had.
        delay: How long to wait before, in seconds or as a timedelta; its slot is free meanwhile.
    """

    resources: Mapping[str, Any] | Resources | None = None
    delay: float | timedelta = 0.0

    def __post_init__(self) -> None:
        if self.resources is not None:
            Resources.from_mapping(self.resources, "resources of Retry")
        delay: Any = self.delay
        if isinstance(delay, timedelta):
            delay = delay.total_seconds()
        number = isinstance(delay, numbers.Real) and not isinstance(delay, bool)
        if not (number and 0 <= delay < math.inf):
            raise ConfigError(
                f"delay of Retry is {self.delay!r}; seconds or a timedelta are wanted"
            )

    @property
    def seconds(self) -> float:
        """The delay in seconds."""
        delay = self.delay
        return delay.total_seconds() if isinstance(delay, timedelta) else float(delay)


OnFailure: TypeAlias = Callable[[Trial, TrialError], Retry | Awaitable[Retry | None] | None]


def check_on_failure(given: Any) -> None:
    """Refuse what cannot be called as ``on_failure(trial, error)``.

    Raises:
        ConfigError: The message says what would be right.
    """
    wanted = "a function (trial, error) -> Retry | None is wanted"
    if given is None:
        return
    if not callable(given) or inspect.isclass(given):
        raise ConfigError(f"on_failure is {given!r}; {wanted}")
    try:
        inspect.signature(given).bind(None, None)
    except TypeError as exc:
        raise ConfigError(f"on_failure cannot be called with (trial, error): {exc}") from exc
    except ValueError:  # a builtin without a signature
        pass
