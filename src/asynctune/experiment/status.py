"""The statuses and stop reasons of trials, and the values of the argument ``resume``."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """Status of a trial. Each member equals its plain string."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"

    @property
    def is_final(self) -> bool:
        """Whether the trial has ended."""
        return self in (Status.TERMINATED, Status.ERROR)

    def may_become(self, status: Status) -> bool:
        """Return whether a trial may change from this status to another."""
        return status in _MOVES[self]


_MOVES = MappingProxyType(
    {
        Status.PENDING: frozenset(Status),
        # RUNNING to RUNNING: an exploit builds the trial again.
        Status.RUNNING: frozenset(Status),
        Status.PAUSED: frozenset({Status.PENDING, Status.RUNNING, Status.TERMINATED, Status.ERROR}),
        # Only a resume reopens a trial that has ended.
        Status.TERMINATED: frozenset({Status.PENDING}),
        Status.ERROR: frozenset({Status.PENDING}),
    }
)


class StopReason(StrEnum):
    """Reason why a trial ended."""

    DONE = "done"
    CRITERION = "stop criterion"
    SCHEDULER = "scheduler"
    USER = "stopped by hand"
    EXPERIMENT = "experiment stopped"
    TIME_BUDGET = "time budget"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_interruption(self) -> bool:
        """Whether the run, and not the trial, came to an end, so that a resume continues the trial."""
        return self in (StopReason.EXPERIMENT, StopReason.TIME_BUDGET, StopReason.CANCELLED)

    @property
    def is_cut_short(self) -> bool:
        """Whether the trial may have ended before a retry repeated the rows that were shown before."""
        return self.is_interruption or self in (StopReason.USER, StopReason.FAILED)


class Resume(StrEnum):
    """Which experiment a run works on: the meaning of the argument ``resume``."""

    NEW = "new"
    """A new one; an existing one is an error."""
    MUST_EXIST = "True"
    """An existing one; a missing one is an error."""
    IF_EXISTS = "AUTO"
    """The existing one, or a new one."""
    ERRORED = "errored"
    """An existing one, whose failed trials are retried."""

    @property
    def argument(self) -> bool | str:
        """The value of the argument ``resume`` that means this."""
        return {Resume.NEW: False, Resume.MUST_EXIST: True}.get(self, str(self))
