"""A trial as a value over time: its state is a fold over its events. No I/O, no tasks."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from asynctune import events as ev
from asynctune.errors import TrialError
from asynctune.resources import Resources
from asynctune.result import Row


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


_MOVES = {
    Status.PENDING: {Status.RUNNING, Status.TERMINATED, Status.ERROR},
    Status.RUNNING: {Status.PENDING, Status.PAUSED, Status.TERMINATED, Status.ERROR},
    Status.PAUSED: {Status.RUNNING, Status.TERMINATED, Status.ERROR},
    Status.TERMINATED: set(),
    Status.ERROR: set(),
}


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A handle on a complete checkpoint.

    Args:
        path: Where it is, for ``restore``.
        iteration: The ``training_iteration`` that it covers.
        sequence: The number of the last row that it covers.
    """

    path: str
    iteration: int | None
    sequence: int


class Trial:
    """One configuration and what became of it.

    Attributes:
        trial_id: Its id; also the name of its directory.
        config: Its configuration; from disk: as JSON, objects as their ``repr``.
        status: ``PENDING``, ``RUNNING``, ``PAUSED``, ``TERMINATED`` or ``ERROR``.
        last_result: The newest row, empty before the first.
        logdir: Its directory.
        checkpoint: The newest complete checkpoint, or None.
        error: Why it failed, or None.
        stop_reason: Why it ended, or None while it has not.
        num_failures: How many attempts failed.
        resources: What it asks for.
        exported: What ``export_model`` wrote, format -> path.
    """

    _STATE = frozenset(
        {
            "trial_id",
            "index",
            "name",
            "tag",
            "config",
            "resources",
            "logdir",
            "status",
            "last_result",
            "checkpoint",
            "checkpoints",
            "error",
            "stop_reason",
            "num_failures",
            "exported",
            "note",
            "started_at",
            "ended_at",
            "_read_rows",
            "_next_sequence",
        }
    )

    def __init__(
        self,
        event: ev.TrialAdded,
        *,
        directory: str,
        read_rows: Callable[[Sequence[int]], list[Row]],
        config: dict[str, Any] | None = None,
    ) -> None:
        self.trial_id = event.trial_id
        self.index = event.index
        self.name = event.name
        self.tag = event.tag
        self.config = event.config if config is None else config
        self.resources = Resources(**event.resources)
        self.logdir = os.path.join(directory, event.trial_id)
        self.status = Status.PENDING
        self.last_result: Row = {}
        self.checkpoint: CheckpointRef | None = None
        self.checkpoints: tuple[CheckpointRef, ...] = ()
        self.error: TrialError | None = None
        self.stop_reason: StopReason | None = None
        self.num_failures = 0
        self.exported: dict[str, str] = {}
        self.note: str | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self._read_rows = read_rows
        # The rows that count: numbers and places in the journal, 16 bytes a row.
        self._sequences = array("q")
        self._places = array("q")
        self._next_sequence = 0

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Trial {self.name} {self.status}>"

    @property
    def results(self) -> list[Row]:
        """Every row that counts, read from the journal: after a retry no iteration comes twice."""
        return self._read_rows(self._places)

    @property
    def num_results(self) -> int:
        """How many rows count."""
        return len(self._places)

    @property
    def next_sequence(self) -> int:
        """The number of the next row."""
        return self._next_sequence

    @property
    def attempt(self) -> int:
        """The number of the current attempt, from 0."""
        return self.num_failures

    def snapshot(self) -> Trial:
        """Return the trial as it is now; what happens later does not change it."""
        copied = Trial.__new__(Trial)
        vars(copied).update(
            {name: value for name, value in vars(self).items() if name in self._STATE}
        )
        copied._sequences, copied._places = self._sequences[:], self._places[:]
        return copied

    def apply(self, event: ev.Event, place: int) -> None:
        """Take over what happened.

        Args:
            event: An event of this trial.
            place: Where the journal holds it.
        """
        match event:
            case ev.TrialStarted():
                self._move(Status.RUNNING)
                if self.started_at is None:
                    self.started_at = event.wall_time
            case ev.Reported():
                self._sequences.append(event.sequence)
                self._places.append(place)
                self._next_sequence = event.sequence + 1
                self.last_result = event.row
            case ev.Checkpointed():
                self.checkpoint = CheckpointRef(event.path, event.iteration, event.sequence)
                self.checkpoints = (*self.checkpoints, self.checkpoint)
            case ev.CheckpointDropped():
                self.checkpoints = tuple(c for c in self.checkpoints if c.path != event.path)
                self.checkpoint = self.checkpoints[-1] if self.checkpoints else None
            case ev.TrialFailed():
                self.num_failures = event.attempt + 1
                self.error = TrialError(
                    event.error, trial_id=event.trial_id, traceback=event.traceback
                )
                if self.status is Status.RUNNING:
                    self._move(Status.PENDING)
                self._rewind(event.resume_sequence)
            case ev.TrialEnded():
                self._move(Status(event.status))
                self.stop_reason = StopReason(event.reason)
                self.exported = event.exported
                self.note = event.note
                self.ended_at = event.wall_time
                if self.status is Status.TERMINATED:
                    self.error = None

    def _rewind(self, sequence: int) -> None:
        """Drop the rows behind a number: a retry begins there again."""
        keep = bisect_right(self._sequences, sequence)
        if keep < len(self._sequences):
            del self._sequences[keep:], self._places[keep:]
            self.last_result = self._read_rows(self._places[-1:])[0] if keep else {}

    def _move(self, status: Status) -> None:
        if status not in _MOVES[self.status]:
            raise AssertionError(f"trial {self.trial_id} cannot go from {self.status} to {status}")
        self.status = status
