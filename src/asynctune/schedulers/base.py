"""What a scheduler is: a pure object that is told of events and answers with a decision."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeAlias

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError, MetricMissing
from asynctune.experiment.trial import Trial
from asynctune.result import Row


class Decision(StrEnum):
    """What becomes of a trial after a result."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"
    PAUSE = "PAUSE"
    """It is saved, gives its slot back, and waits until :meth:`TrialScheduler.choose` names it."""
    SAVE = "SAVE"
    """It is saved, and goes on: others may want to begin from here."""


@dataclass(frozen=True, slots=True)
class Exploit:
    """A decision: the trial goes on from the newest checkpoint of another, with another configuration.

    Args:
        donor: The id of the other trial, which has a complete checkpoint; or the trial's own id.
        config: The whole new configuration.
    """

    donor: str
    config: dict[str, Any]


Verdict: TypeAlias = Decision | Exploit


@dataclass(frozen=True, slots=True)
class Free:
    """A slot is free: who could have it.

    Args:
        paused: The ids of the trials that are paused, in the order in which they were.
        fresh: Whether a new trial could have it instead.
        running: How many trials are running now, or are held by their user and may go on.
    """

    paused: tuple[str, ...]
    fresh: bool
    running: int

    @property
    def is_last_chance(self) -> bool:
        """Whether nothing happens any more unless a paused trial goes on."""
        return not self.fresh and self.running == 0


class TrialScheduler:
    """Decides how trials go on. It never waits, reads a clock, or touches an executor.

    All that it knows it was told, and all that it is told is in the journal: a resume tells a new
    instance the same again, in the same order, and finds it in the same state. What is random in it
    comes from the seed of :meth:`begin` alone.

    Rows may come again: after a retry or a resume a trial repeats what followed its last checkpoint.

    Args:
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
    """

    CONTINUE: ClassVar[Decision] = Decision.CONTINUE
    STOP: ClassVar[Decision] = Decision.STOP
    PAUSE: ClassVar[Decision] = Decision.PAUSE
    SAVE: ClassVar[Decision] = Decision.SAVE

    needs_metric: ClassVar[bool] = False
    """Whether it cannot work without an objective."""

    log_config: bool = False
    """Whether each exploit is written into policy files; see :mod:`asynctune.schedulers._policies`."""

    def __init__(self, metric: str | None = None, mode: str | None = None) -> None:
        name = type(self).__name__
        if mode is not None and not (isinstance(mode, str) and mode in ("min", "max")):
            raise ConfigError(f"mode of {name} is {safe_repr(mode)}; 'min' or 'max' is wanted")
        if metric is not None and not (isinstance(metric, str) and metric):
            raise ConfigError(f"metric of {name} is {safe_repr(metric)}; a metric's name is wanted")
        if metric is not None and mode is None:
            raise ConfigError(f"metric of {name} is {metric!r} but mode is not given; min or max?")
        self.metric = metric
        self.mode = mode
        self._used = False

    @property
    def needs_checkpoints(self) -> bool:
        """Whether it pauses or clones trials, which have to be saved for that."""
        return False

    def bind(self, metric: str | None, mode: str | None) -> Self:
        """Take over the run's objective where none was given; called once, by the run.

        Raises:
            ConfigError: Another run has used this instance, or there is no objective and it needs one.
        """
        name = type(self).__name__
        if getattr(self, "_used", False):
            raise ConfigError(f"this {name} was already used by another run; make a new one")
        self._used = True
        if getattr(self, "metric", None) is None:
            own = getattr(self, "mode", None)
            self.metric, self.mode = metric, own or mode
        if self.needs_metric and (self.metric is None or self.mode is None):
            raise ConfigError(f"{name} needs an objective; give metric and mode to it or to run()")
        return self

    def begin(self, seed: int) -> None:
        """The run begins, or is about to be replayed.

        Args:
            seed: What everything random is derived from.
        """

    def on_trial_add(self, trial: Trial) -> None:
        """A trial was drawn."""

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        """A trial reported; decide.

        Args:
            trial: The trial, whose ``last_result`` is this one.
            result: The flattened row.
        """
        return Decision.CONTINUE

    def on_trial_resume(self, trial: Trial) -> None:
        """A paused trial goes on: it was chosen, or its user said so."""

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        """A trial has ended well or was stopped; ``result`` is its last flattened row, perhaps empty."""

    def on_trial_error(self, trial: Trial) -> None:
        """A trial has failed for good."""

    def on_trial_remove(self, trial: Trial) -> None:
        """A trial was stopped before it started."""

    def choose(self, free: Free) -> str | None:
        """Say which paused trial goes on now that a slot is free. Asking changes nothing.

        Args:
            free: Who could have the slot.

        Returns:
            One of ``free.paused``; None: a new trial, if there is one, else nobody. If nobody is chosen
            although it is the last chance, the paused trials are ended.
        """
        return None if free.fresh or not free.paused else free.paused[0]

    def dismissed(self) -> Collection[str]:
        """Return the ids of paused trials that will never go on; they are ended. Asking changes nothing."""
        return ()

    def debug_string(self) -> str:
        """Say in a line or a few what state it is in."""
        return f"Using {type(self).__name__}."


class FIFOScheduler(TrialScheduler):
    """Runs trials in the order in which they were drawn, each to its end."""


def score_of(result: Mapping[str, Any], metric: str, mode: str) -> float:
    """Return a result's objective as a number of which more is better; NaN is the worst there is.

    Args:
        result: A flattened row.
        metric: The objective.
        mode: ``"min"`` or ``"max"``.

    Raises:
        MetricMissing: The row lacks it, or it is no number.
    """
    value = result.get(metric)
    if not isinstance(value, numbers.Real):
        raise MetricMissing(metric, result)
    number = _as_float(value)
    if math.isnan(number):
        return -math.inf
    return number if mode == "max" else -number


def time_of(result: Mapping[str, Any], time_attr: str) -> float:
    """Return how far a result is, in units of ``time_attr``.

    Raises:
        MetricMissing: The row lacks it, or it is no finite number.
    """
    value = result.get(time_attr)
    number = _as_float(value) if isinstance(value, numbers.Real) else math.nan
    if not math.isfinite(number):
        raise MetricMissing(time_attr, result)
    return number


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond what floats hold
        return math.inf if value > 0 else -math.inf
