"""The answer of an ``on_failure`` function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from asynctune._checks import check_seconds
from asynctune.errors import TrialError
from asynctune.experiment.trial import Trial
from asynctune.resources import Resources


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry the trial from its newest checkpoint, whatever ``max_failures`` says.

    Args:
        resources: The resources of the trial from now on, such as ``{"cpu": 1, "gpu": 2}``; None: those
            that the trial had.
        delay: The wait before the next attempt, in seconds or as a timedelta; the slot is free meanwhile.

    Raises:
        ConfigError: An argument is wrong.
    """

    resources: Mapping[str, Any] | Resources | None = None
    delay: float | timedelta = 0.0

    def __post_init__(self) -> None:
        if self.resources is not None:
            Resources.from_mapping(self.resources, "resources of Retry")
        check_seconds("Retry", "delay", self.delay, zero=True)

    @property
    def seconds(self) -> float:
        """The delay in seconds."""
        return check_seconds("Retry", "delay", self.delay, zero=True)


OnFailure: TypeAlias = Callable[[Trial, TrialError], Retry | Awaitable[Retry | None] | None]
