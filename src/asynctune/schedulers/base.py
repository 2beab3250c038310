"""What a scheduler is: a pure object that is told of events and answers with a decision."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Self

from asynctune.errors import ConfigError
from asynctune.result import Row
from asynctune.trial import Trial


class Decision(StrEnum):
    """What becomes of a trial after a result."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"


class TrialScheduler:
    """Decides how trials go on. It never waits, reads a clock, or touches an executor.

    Args:
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
    """

    CONTINUE: ClassVar[Decision] = Decision.CONTINUE
    STOP: ClassVar[Decision] = Decision.STOP

    def __init__(self, metric: str | None = None, mode: str | None = None) -> None:
        if mode not in (None, "min", "max"):
            raise ConfigError(
                f"mode of {type(self).__name__} is {mode!r}; 'min' or 'max' is wanted"
            )
        self.metric = metric
        self.mode = mode
        self._used = False

    def bind(self, metric: str | None, mode: str | None) -> Self:
        """Take over the run's objective where none was given; called once, by the run.

        Raises:
            ConfigError: Another run has used this instance.
        """
        if getattr(self, "_used", False):
            raise ConfigError(
                f"this {type(self).__name__} was already used by another run; make a new one"
            )
        self._used = True
        if getattr(self, "metric", None) is None:
            self.metric, self.mode = metric, mode
        return self

    def on_trial_add(self, trial: Trial) -> None:
        """A trial was drawn."""

    def on_trial_result(self, trial: Trial, result: Row) -> Decision:
        """A trial reported; decide.

        Args:
            trial: The trial, whose ``last_result`` is this one.
            result: The flattened row.
        """
        return Decision.CONTINUE

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        """A trial has ended well; ``result`` is its last flattened row, perhaps empty."""

    def on_trial_error(self, trial: Trial) -> None:
        """A trial has failed for good."""

    def on_trial_remove(self, trial: Trial) -> None:
        """A trial was stopped before it started."""


class FIFOScheduler(TrialScheduler):
    """Runs trials in the order in which they were drawn, each to its end."""
