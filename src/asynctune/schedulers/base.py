"""The base class of schedulers: pure objects that are notified of events and return decisions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeAlias

from asynctune._checks import as_float, bind_objective, check_metric_and_mode
from asynctune.errors import MetricMissing
from asynctune.experiment.trial import Trial
from asynctune.result import Row


class Decision(StrEnum):
    """The next action for a trial after a result."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"
    PAUSE = "PAUSE"
    """Save the trial and release its slot, until :meth:`TrialScheduler.choose` returns the trial's id."""
    SAVE = "SAVE"
    """Save the trial, which goes on: other trials may later begin from this checkpoint."""


@dataclass(frozen=True, slots=True)
class Exploit:
    """A decision: the trial goes on from the newest checkpoint of a donor, with a new configuration.

    Args:
        donor: The id of the donor, which has a complete checkpoint; or the id of the trial itself.
        config: The complete new configuration.
    """

    donor: str
    config: dict[str, Any]


Verdict: TypeAlias = Decision | Exploit
"""The return value of :meth:`TrialScheduler.on_trial_result`."""


@dataclass(frozen=True, slots=True)
class Free:
    """A free slot, and the trials that could get it.

    Args:
        paused: The ids of the paused trials, in the order in which they paused.
        fresh: Whether a new trial could get the slot instead.
        running: The number of trials that are running now, or are held by their user and may go on.
    """

    paused: tuple[str, ...]
    fresh: bool
    running: int

    @property
    def is_last_chance(self) -> bool:
        """Whether the run ends unless a paused trial goes on."""
        return not self.fresh and self.running == 0


class TrialScheduler:
    """Decides how trials go on. A scheduler never waits, reads a clock, or touches an executor.

    A scheduler depends only on the calls of its methods, and all their arguments are in the journal: a
    resume repeats the same calls to a new instance, in the same order, and so restores its state. All
    randomness comes from the seed of :meth:`begin`.

    Rows may be repeated: after a retry or a resume a trial reports again what followed its last checkpoint.

    Args:
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
    """

    CONTINUE: ClassVar[Decision] = Decision.CONTINUE
    STOP: ClassVar[Decision] = Decision.STOP
    PAUSE: ClassVar[Decision] = Decision.PAUSE
    SAVE: ClassVar[Decision] = Decision.SAVE

    needs_metric: ClassVar[bool] = False
    """Whether the scheduler needs an objective."""

    log_config: bool = False
    """Whether each exploit is written into policy files; see :mod:`asynctune.schedulers.policies`."""

    def __init__(self, metric: str | None = None, mode: str | None = None) -> None:
        check_metric_and_mode(type(self).__name__, metric, mode)
        self.metric = metric
        self.mode = mode
        self._used = False

    @property
    def needs_checkpoints(self) -> bool:
        """Whether the scheduler pauses or clones trials, which takes checkpoints."""
        return False

    def bind(self, metric: str | None, mode: str | None) -> Self:
        """Take over the objective of the run, unless the scheduler has its own. The run calls this once.

        Raises:
            ConfigError: Another run has used this instance, or a needed objective is missing.
        """
        bind_objective(self, metric, mode)
        return self

    def begin(self, seed: int) -> None:
        """Prepare for a run. The run calls this once, before its first trial or before a replay.

        Args:
            seed: The seed from which all randomness is derived.
        """

    def on_trial_add(self, trial: Trial) -> None:
        """Handle a new trial, before it starts."""

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        """Decide how a trial goes on after a result.

        Args:
            trial: The trial, whose ``last_result`` is this result.
            result: The flattened row.
        """
        return Decision.CONTINUE

    def on_trial_resume(self, trial: Trial) -> None:
        """Handle a paused trial that goes on, since it was chosen or its user resumed it."""

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        """Handle a trial that completed or was stopped.

        Args:
            trial: The trial.
            result: The last flattened row of the trial, perhaps empty.
        """

    def on_trial_error(self, trial: Trial) -> None:
        """Handle a trial that failed and is not retried."""

    def on_trial_remove(self, trial: Trial) -> None:
        """Handle a trial that was stopped before it started."""

    def choose(self, free: Free) -> str | None:
        """Return the paused trial that goes on in a free slot. The call does not change the scheduler.

        Args:
            free: The free slot, and the trials that could get it.

        Returns:
            One of ``free.paused``; or None for a new trial, or for none if there is no new trial. If no
            trial is chosen although this is the last chance, the paused trials are ended.
        """
        return None if free.fresh or not free.paused else free.paused[0]

    def dismissed(self) -> Collection[str]:
        """Return the ids of paused trials to end, since they never go on. The call changes nothing."""
        return ()

    def debug_string(self) -> str:
        """Return a description of the state, in one or a few lines."""
        return f"Using {type(self).__name__}."


class FIFOScheduler(TrialScheduler):
    """Runs trials in the order in which they were added, each to its end."""


def score_of(result: Mapping[str, Any], metric: str, mode: str) -> float:
    """Return the objective of a result as a score, of which higher is better; NaN becomes ``-inf``.

    Args:
        result: A flattened row.
        metric: The objective.
        mode: ``"min"`` or ``"max"``.

    Raises:
        MetricMissing: The row lacks the metric, or its value is no number.
    """
    number = as_float(result.get(metric))
    if number is None:
        raise MetricMissing(metric, result)
    if math.isnan(number):
        return -math.inf
    return number if mode == "max" else -number


def time_of(result: Mapping[str, Any], time_attr: str) -> float:
    """Return the time of a result, in units of ``time_attr``.

    Raises:
        MetricMissing: The row lacks the key, or its value is no finite number.
    """
    number = as_float(result.get(time_attr))
    if number is None or not math.isfinite(number):
        raise MetricMissing(time_attr, result)
    return number
