"""A trial as a value over time: its state is a fold over its events. No I/O, no tasks."""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asynctune.errors import TrialError, UnsafePath
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status, StopReason
from asynctune.resources import Resources
from asynctune.result import Row

_FEW = 16


@dataclass(frozen=True, slots=True)
class Descent:
    """Where a trial took over the state of another.

    Args:
        donor: The id of the other one.
        iteration: The ``training_iteration`` of the state.
        target_iteration: Where the trial itself was then.
    """

    donor: str
    iteration: int | None
    target_iteration: int | None


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
        initial_config: The one that it began with; an exploit gives it another.
        lineage: Whose state it took over, oldest first.
        status: ``PENDING``, ``RUNNING``, ``PAUSED``, ``TERMINATED`` or ``ERROR``.
        last_result: The newest row, empty before the first.
        logdir: Its directory.
        checkpoint: The newest complete checkpoint, or None.
        error: Why it failed, or None.
        stop_reason: Why it ended, or None while it has not.
        num_failures: How many attempts failed.
        num_forgiven: How many of them lie before a resume that took the failed trial up again.
        attempt: How many attempts came before the current one, also those that a driver left.
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
            "initial_config",
            "lineage",
            "resources",
            "logdir",
            "status",
            "last_result",
            "checkpoint",
            "checkpoints",
            "error",
            "stop_reason",
            "num_failures",
            "num_forgiven",
            "has_failed",
            "_rejected",
            "attempt",
            "exported",
            "note",
            "started_at",
            "ended_at",
            "_directory",
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
        self.trial_id, self.index = event.trial_id, event.index
        self.name, self.tag = event.name, event.tag
        self.config = event.config if config is None else config
        self.initial_config = self.config
        self.lineage: tuple[Descent, ...] = ()
        self.resources = Resources(**event.resources)
        self._directory = directory
        if "/" in event.trial_id:
            raise UnsafePath(
                f"a journal names the trial {event.trial_id!r}, which is no plain name"
            )
        self.logdir = os.path.join(directory, inside_experiment(event.trial_id))
        self.status = Status.PENDING
        self.last_result: Row = {}
        self.checkpoint: CheckpointRef | None = None
        self.checkpoints: tuple[CheckpointRef, ...] = ()
        self.error: TrialError | None = None
        self.stop_reason: StopReason | None = None
        self.num_failures = 0
        self.num_forgiven = 0
        self.attempt = 0
        self.has_failed = False
        self._rejected: tuple[CheckpointRef, ...] = ()
        self.exported: dict[str, str] = {}
        self.note: str | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self._read_rows = read_rows
        # The rows that count: numbers and places in the journal, 16 bytes a row.
        self._sequences = array("q")
        self._places = array("q")
        # Behind them those that were shown, and that an attempt has not yet come to report again.
        self._shown = array("q")
        self._next_sequence = 0

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Trial {self.name} {self.status}>"

    @property
    def results(self) -> list[Row]:
        """Every row that counts, read from the journal: after a retry no iteration comes twice.

        A row that has to be repeated stays until it is, or the trial has come to its own end without it.
        """
        return self._read_rows([*self._places, *self._shown])

    @property
    def num_results(self) -> int:
        """How many rows count."""
        return len(self._places) + len(self._shown)

    @property
    def has_tail(self) -> bool:
        """Whether the last of its rows are some that it had still to repeat."""
        return bool(self._shown)

    @property
    def last_sequence(self) -> int:
        """The number of the last row that counts, -1 if there is none."""
        return self._sequences[-1] if self._sequences else -1

    @property
    def next_sequence(self) -> int:
        """The number of the next row."""
        return self._next_sequence

    def has_row(self, number: int) -> bool:
        """Tell whether the row of a number counts; -1 stands for the beginning."""
        return number == -1 or number in self._sequences

    def results_to(self, sequence: int) -> list[Row]:
        """Return the rows that count up to a number, included."""
        return self._read_rows(self._places[: bisect_right(self._sequences, sequence)])

    def last_sequence_to(self, iteration: int) -> int:
        """Return the number of the last row that counts up to a ``training_iteration``, -1 for none."""
        rows = self._read_rows(self._places[-_FEW:])
        for number in range(len(self._places) - 1, -1, -1):
            at = number - len(self._places)  # from the end, which is what is read first
            row = rows[at] if -at <= len(rows) else self._read_rows(self._places[number:][:1])[0]
            reached = row.get("training_iteration")
            if not isinstance(reached, int) or reached <= iteration:
                return self._sequences[number]
        return -1

    def path_of(self, stored: str) -> str:
        """Return where something is that the journal names, relative to the experiment.

        Raises:
            UnsafePath: It would be elsewhere.
        """
        return os.path.join(self._directory, inside_experiment(stored))

    def snapshot(self, before: int) -> Trial:
        """Return the trial as it is now; what happens later does not change it.

        Args:
            before: The place in the journal behind what may be shown.
        """
        copied = Trial.__new__(Trial)
        vars(copied).update({name: vars(self)[name] for name in self._STATE})
        copied._sequences, copied._places = self._sequences[:], self._places[:]
        copied._shown = self._shown[:]
        if copied._places and copied._places[-1] >= before:
            known = bisect_left(copied._places, before)
            del copied._sequences[known:], copied._places[known:]
            rows = self._read_rows([*copied._places, *copied._shown][-1:]) or [{}]
            copied.last_result = rows[0]
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
                self._rejected = ()  # one of them was good, or there is a new beginning
                if event.resume_sequence is not None:
                    self._rewind(event.resume_sequence)
                if self.started_at is None:
                    self.started_at = event.wall_time
            case ev.Reported():
                assert event.sequence == self._next_sequence, f"row {event.sequence} comes twice"
                self._sequences.append(event.sequence)
                self._places.append(place)
                del self._shown[:1]
                self._next_sequence = event.sequence + 1
                self.last_result = event.row
            case ev.Checkpointed():
                self.checkpoint = self.checkpoint_of(event)
                self.checkpoints = (*self.checkpoints, self.checkpoint)
            case ev.CheckpointDropped() | ev.CheckpointRejected():
                self._drop(event)
            case ev.TrialPaused():
                self._move(Status.PAUSED)
                self._rewind(event.resume_sequence)
            case ev.TrialResumed():
                self._move(Status.PENDING)
            case ev.Exploited():
                self._exploit(event)
            case ev.TrialFailed():
                self._fail(event)
            case ev.TrialReopened():
                self._reopen(event)
            case ev.TrialEnded():
                self._end(event)

    def pin(self, path: str) -> None:
        """Another trial begins from a checkpoint of this one."""

    def unpin(self, path: str) -> None:
        """The other trial has one of its own now."""

    def stored_path(self, path: str) -> str:
        """Return how the journal names a path: relative to the experiment if it lies in there."""
        return path.removeprefix(os.path.join(self._directory, ""))

    def checkpoint_of(self, event: ev.Checkpointed) -> CheckpointRef:
        """Return the handle on the checkpoint of an event."""
        return CheckpointRef(self.path_of(event.path), event.iteration, event.sequence)

    def _drop(self, event: ev.CheckpointDropped | ev.CheckpointRejected) -> None:
        path = self.path_of(event.path)
        if isinstance(event, ev.CheckpointRejected):
            self._rejected = tuple(c for c in self.checkpoints if c.path == path) + self._rejected
        self.checkpoints = tuple(c for c in self.checkpoints if c.path != path)
        self.checkpoint = self.checkpoints[-1] if self.checkpoints else None

    def _fail(self, event: ev.TrialFailed) -> None:
        self.num_failures += 1
        self.attempt = event.attempt + 1
        self.error = ev.error_of(event)
        self.has_failed = not event.again
        if event.resources is not None:
            self.resources = Resources(**event.resources)
        self._move(Status.PENDING)
        self._rewind(event.resume_sequence)

    def _reopen(self, event: ev.TrialReopened) -> None:
        if self.has_failed:
            self.num_forgiven = self.num_failures
            self.has_failed = False
        self.checkpoints += self._rejected  # what was wrong may be mended
        self._rejected = ()
        self.checkpoint = self.checkpoints[-1] if self.checkpoints else None
        self.attempt = event.attempt
        self.error = self.stop_reason = self.ended_at = None
        self._move(Status.PENDING)
        self._rewind(event.resume_sequence)

    @property
    def known_checkpoints(self) -> tuple[CheckpointRef, ...]:
        """All that may be needed: those that count, and those that could not be restored."""
        return self.checkpoints + self._rejected

    def _end(self, event: ev.TrialEnded) -> None:
        self._move(Status(event.status))
        self.stop_reason = StopReason(event.reason)
        self.exported = event.exported
        self.note = event.note
        self.ended_at = event.wall_time
        # All trials report the same names, and each decoded row brought its own copies of them.
        self.last_result = {sys.intern(key): value for key, value in self.last_result.items()}
        if self.status is Status.TERMINATED:
            self.error = None
        if not self.stop_reason.is_cut_short:
            del self._shown[:]  # it came to its end without them
        elif self._shown:
            self.last_result = self._read_rows(self._shown[-1:])[0]

    def _exploit(self, event: ev.Exploited) -> None:
        self._rewind(event.resume_sequence)
        path = self.path_of(event.checkpoint)
        self.checkpoint = CheckpointRef(path, event.iteration, self.last_sequence)
        self.checkpoints = (*self.checkpoints, self.checkpoint)
        self.config, self.tag = event.config, event.tag
        descent = Descent(event.donor, event.iteration, event.target_iteration)
        self.lineage = (*self.lineage, descent)

    def _rewind(self, sequence: int) -> None:
        """Go back to a row: a retry begins behind it, and repeats those that follow."""
        keep = bisect_right(self._sequences, sequence)
        if keep < len(self._sequences):
            self._shown = self._places[keep:] + self._shown
            del self._sequences[keep:], self._places[keep:]
            self.last_result = self._read_rows(self._places[-1:])[0] if keep else {}

    def _move(self, status: Status) -> None:
        if not self.status.may_become(status):
            raise AssertionError(f"trial {self.trial_id} cannot go from {self.status} to {status}")
        self.status = status


def inside_experiment(name: str) -> str:
    """Return a relative path of a journal, if it stays inside.

    Raises:
        UnsafePath: It would not.
    """
    parts = name.split("/")
    if not name or name[0] == "/" or "\0" in name or ".." in parts or "." in parts:
        raise UnsafePath(f"a journal names {name!r}, which is no plain path inside its experiment")
    return name
