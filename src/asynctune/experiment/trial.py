"""The state of one trial: a fold over its events. No tasks; the only I/O is the injected ``read_rows``."""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from asynctune.errors import TrialError, UnsafePath
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status, StopReason
from asynctune.resources import Resources
from asynctune.result import Row

_NEWEST_ROWS = 16
"""Number of rows that a search from the end reads at once; most searches end among them."""


@dataclass(frozen=True, slots=True)
class Descent:
    """One exploit in the lineage of a trial.

    Args:
        donor: The id of the trial whose checkpoint was taken.
        iteration: The ``training_iteration`` of the checkpoint.
        target_iteration: The ``training_iteration`` that the exploiting trial had reached.
    """

    donor: str
    iteration: int | None
    target_iteration: int | None


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A handle on a complete checkpoint.

    Args:
        path: The path of the checkpoint, for ``restore``.
        iteration: The ``training_iteration`` that the checkpoint covers.
        sequence: The number of the last row that the checkpoint covers.
    """

    path: str
    iteration: int | None
    sequence: int


class Trial:
    """A trial: one configuration, and the state, rows and checkpoints of its attempts.

    Attributes:
        trial_id: The id of the trial; also the name of its directory.
        config: The configuration; of a trial read from disk: as JSON, objects as their ``repr``.
        initial_config: The first configuration; an exploit replaces ``config``.
        lineage: The exploits of the trial, oldest first.
        status: ``PENDING``, ``RUNNING``, ``PAUSED``, ``TERMINATED`` or ``ERROR``.
        last_result: The newest row, empty before the first.
        logdir: The directory of the trial.
        checkpoint: The newest complete checkpoint, or None.
        checkpoints: The complete checkpoints that are neither dropped nor rejected, oldest first.
        error: The error of the last failed attempt; None if no attempt failed, or since the trial was
            reopened or terminated.
        stop_reason: The reason why the trial ended, or None before its end.
        num_failures: The number of failed attempts.
        num_forgiven: The number of failed attempts before a resume reopened the failed trial.
        has_failed: Whether the last attempt failed, and the trial is not retried.
        attempt: The number of attempts before the current one, those of previous runs included.
        resources: The resources that the trial requests.
        exported: The files that ``export_model`` wrote, format -> path.
        note: The errors during the shutdown of the trial, as text, or None.
        started_at: The time of the first start, in seconds since 1970, or None.
        ended_at: The time of the end, in seconds since 1970, or None.
    """

    # The attributes that snapshot() shares with its copy. The arrays change in place, so they are copied.
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
                f"trial_id in a journal must be a plain name without '/', got {event.trial_id!r}"
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
        # The current rows: their numbers and offsets. Arrays, for 16 bytes a row instead of a dict.
        self._sequences = array("q")
        self._offsets = array("q")
        # The tail: offsets of rows from before a rewind that no attempt has repeated yet. Users have
        # seen these rows, so they stay in the results until an attempt reports them again.
        self._tail = array("q")
        self._next_sequence = 0

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Trial {self.name} {self.status}>"

    @property
    def results(self) -> list[Row]:
        """The current rows, read from the journal: after a retry no iteration comes twice.

        A row from before a rewind stays until an attempt repeats it, or until the trial ends by itself
        without that row.
        """
        return self._read_rows([*self._offsets, *self._tail])

    @property
    def num_results(self) -> int:
        """The number of rows in :attr:`results`."""
        return len(self._offsets) + len(self._tail)

    @property
    def has_tail(self) -> bool:
        """Whether rows from before a rewind are still shown because no attempt has repeated them."""
        return bool(self._tail)

    @property
    def last_sequence(self) -> int:
        """The number of the last row, without the tail; -1 if there is none."""
        return self._sequences[-1] if self._sequences else -1

    @property
    def next_sequence(self) -> int:
        """The number of the next row."""
        return self._next_sequence

    def has_row(self, number: int) -> bool:
        """Return whether a row exists and was not rewound; True for -1, which stands for the beginning."""
        return number == -1 or number in self._sequences

    def results_to(self, sequence: int) -> list[Row]:
        """Return the rows up to a row number, included, without the tail."""
        return self._read_rows(self._offsets[: bisect_right(self._sequences, sequence)])

    def last_sequence_to(self, iteration: int) -> int:
        """Return the number of the last row up to a ``training_iteration``, included; -1 for none."""
        rows = self._read_rows(self._offsets[-_NEWEST_ROWS:])
        for number in range(len(self._offsets) - 1, -1, -1):
            at = number - len(self._offsets)  # from the end, like the rows read above
            row = rows[at] if -at <= len(rows) else self._read_rows(self._offsets[number:][:1])[0]
            reached = row.get("training_iteration")
            if not isinstance(reached, int) or reached <= iteration:
                return self._sequences[number]
        return -1

    def path_of(self, stored: str) -> str:
        """Return the absolute path of a path that the journal stores relative to the experiment.

        Raises:
            UnsafePath: The path leads outside the experiment.
        """
        return os.path.join(self._directory, inside_experiment(stored))

    def snapshot(self, before: int) -> Trial:
        """Return a copy of the trial that later events do not change.

        Args:
            before: The offset at which the visible part of the journal ends; later rows are left out.
        """
        copied = Trial.__new__(Trial)
        vars(copied).update({name: vars(self)[name] for name in self._STATE})
        copied._sequences, copied._offsets = self._sequences[:], self._offsets[:]
        copied._tail = self._tail[:]
        if copied._offsets and copied._offsets[-1] >= before:
            visible = bisect_left(copied._offsets, before)
            del copied._sequences[visible:], copied._offsets[visible:]
            rows = self._read_rows([*copied._offsets, *copied._tail][-1:]) or [{}]
            copied.last_result = rows[0]
        return copied

    def apply(self, event: ev.Event, offset: int) -> None:
        """Apply an event of this trial to its state.

        Args:
            event: The event.
            offset: The offset of its record in the journal.
        """
        match event:
            case ev.TrialStarted():
                self._move(Status.RUNNING)
                self._rejected = ()  # the attempt restored another one, or began anew
                if event.resume_sequence is not None:
                    self._rewind(event.resume_sequence)
                if self.started_at is None:
                    self.started_at = event.wall_time
            case ev.Reported():
                self._report(event, offset)
            case ev.Checkpointed():
                self._save(event)
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
            case ev.TrialAdded() | ev.RunStarted() | ev.RunEnded():
                pass  # ExperimentState applies these
            case _:
                assert_never(event)

    def pin(self, path: str) -> None:
        """Keep a checkpoint from which another trial begins. A trial that runs overrides this."""

    def unpin(self, path: str) -> None:
        """Release a pinned checkpoint: the other trial has a checkpoint of its own."""

    def stored_path(self, path: str) -> str:
        """Return a path as the journal stores it: relative to the experiment if it lies inside."""
        return path.removeprefix(os.path.join(self._directory, ""))

    def checkpoint_of(self, event: ev.Checkpointed) -> CheckpointRef:
        """Return a handle on the checkpoint of an event."""
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
        self.checkpoints += self._rejected  # the user may have repaired the cause meanwhile
        self._rejected = ()
        self.checkpoint = self.checkpoints[-1] if self.checkpoints else None
        self.attempt = event.attempt
        self.error = self.stop_reason = self.ended_at = None
        self._move(Status.PENDING)
        self._rewind(event.resume_sequence)

    @property
    def known_checkpoints(self) -> tuple[CheckpointRef, ...]:
        """The complete and the rejected checkpoints: all that the trial may still need."""
        return self.checkpoints + self._rejected

    def _report(self, event: ev.Reported, offset: int) -> None:
        # Not by assertions, here and below: python -O would read a damaged journal without a word.
        if event.sequence != self._next_sequence:
            raise ValueError(f"row {event.sequence} follows row {self._next_sequence - 1}")
        self._sequences.append(event.sequence)
        self._offsets.append(offset)
        del self._tail[:1]
        self._next_sequence = event.sequence + 1
        self.last_result = event.row

    def _save(self, event: ev.Checkpointed) -> None:
        if event.sequence >= self._next_sequence:
            raise ValueError(f"{event.path} is of row {event.sequence}, which is missing")
        self.checkpoint = self.checkpoint_of(event)
        self.checkpoints = (*self.checkpoints, self.checkpoint)

    def _end(self, event: ev.TrialEnded) -> None:
        if event.num_reported not in (None, self._next_sequence):
            raise ValueError(f"it ended with {event.num_reported} rows, not {self._next_sequence}")
        self._move(Status(event.status))
        self.stop_reason = StopReason(event.reason)
        self.exported = event.exported
        self.note = event.note
        self.ended_at = event.wall_time
        # All trials report the same keys, but each decoded row has its own copies. Interned keys save
        # memory in runs of many thousands of trials.
        self.last_result = {sys.intern(key): value for key, value in self.last_result.items()}
        if self.status is Status.TERMINATED:
            self.error = None
        if not self.stop_reason.is_cut_short:
            del self._tail[:]  # the trial ended by itself without repeating these rows
        elif self._tail:
            self.last_result = self._read_rows(self._tail[-1:])[0]

    def _exploit(self, event: ev.Exploited) -> None:
        self._rewind(event.resume_sequence)
        path = self.path_of(event.checkpoint)
        self.checkpoint = CheckpointRef(path, event.iteration, self.last_sequence)
        self.checkpoints = (*self.checkpoints, self.checkpoint)
        self.config, self.tag = event.config, event.tag
        descent = Descent(event.donor, event.iteration, event.target_iteration)
        self.lineage = (*self.lineage, descent)

    def _rewind(self, sequence: int) -> None:
        """Move the rows behind ``sequence`` to the tail: the next attempt repeats them."""
        keep = bisect_right(self._sequences, sequence)
        if keep < len(self._sequences):
            self._tail = self._offsets[keep:] + self._tail
            del self._sequences[keep:], self._offsets[keep:]
            self.last_result = self._read_rows(self._offsets[-1:])[0] if keep else {}

    def _move(self, status: Status) -> None:
        if not self.status.may_become(status):
            raise ValueError(f"trial {self.trial_id} cannot go from {self.status} to {status}")
        self.status = status


def inside_experiment(name: str) -> str:
    """Return a path from a journal, if it is relative and stays inside the experiment.

    Raises:
        UnsafePath: The path leads outside the experiment.
    """
    parts = name.split("/")
    if not name or name[0] == "/" or "\0" in name or ".." in parts or "." in parts:
        raise UnsafePath(
            f"a path in a journal must be a plain path inside its experiment, got {name!r}"
        )
    return name
