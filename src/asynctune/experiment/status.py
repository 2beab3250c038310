"""Where a trial stands, why a trial ended, and which experiment a run works on."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """Where a trial is. Each equals its plain string."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self in (Status.TERMINATED, Status.ERROR)

    def may_become(self, status: Status) -> bool:
        """Tell whether a trial may go from this status to another."""
        return status in _MOVES[self]


_MOVES = MappingProxyType(
    {
        Status.PENDING: frozenset(Status),
        # To itself: a trial is built again after an exploit.
        Status.RUNNING: frozenset(Status),
        Status.PAUSED: frozenset({Status.PENDING, Status.RUNNING, Status.TERMINATED, Status.ERROR}),
        # Only a resume continues a trial that has ended.
        Status.TERMINATED: frozenset({Status.PENDING}),
        Status.ERROR: frozenset({Status.PENDING}),
    }
)


class StopReason(StrEnum):
    """Why a trial ended."""

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
        """Whether the end of the run ended the trial, so that a resume continues the trial."""
        return self in (StopReason.EXPERIMENT, StopReason.TIME_BUDGET, StopReason.CANCELLED)

    @property
    def is_cut_short(self) -> bool:
        """Whether the trial may have ended before a retry reported again what was shown before."""
        return self.is_interruption or self in (StopReason.USER, StopReason.FAILED)


class Resume(StrEnum):
    """Which experiment a run works on."""

    NEW = "new"
    """One that does not exist."""
    MUST_EXIST = "True"
    IF_EXISTS = "AUTO"
    ERRORED = "errored"
    """One that exists; its failed trials are tried again."""
