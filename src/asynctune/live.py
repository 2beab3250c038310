"""A trial that is being run: its state, and the wires to its task."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import anyio

from asynctune import events as ev
from asynctune.checkpoints import CheckpointManager
from asynctune.result import Row, copy_row, flatten
from asynctune.trial import StopReason, Trial


class Once:
    """An event that happens once and weighs little, as long as nobody waits for it."""

    __slots__ = ("_happened", "_waited_for")

    def __init__(self) -> None:
        self._happened = False
        self._waited_for: anyio.Event | None = None

    def set(self) -> None:
        """It has happened."""
        self._happened = True
        if self._waited_for is not None:
            self._waited_for.set()
            self._waited_for = None

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        return self._happened

    async def wait(self) -> None:
        """Wait until it has happened."""
        if not self._happened:
            if self._waited_for is None:
                self._waited_for = anyio.Event()
            await self._waited_for.wait()


class LiveTrial(Trial):
    """A trial of a run that is alive. Await it for its last result.

    Args:
        event: How it was drawn.
        directory: That of the experiment.
        read_rows: Reads rows of the journal.
        config: Its configuration; None if it could not be made again, so that it cannot be run.
        kept: Which of its checkpoints are kept.
    """

    def __init__(
        self,
        event: ev.TrialAdded,
        *,
        directory: str,
        read_rows: Callable[[Sequence[int]], list[Row]],
        config: dict[str, Any] | None,
        kept: CheckpointManager,
    ) -> None:
        super().__init__(event, directory=directory, read_rows=read_rows, config=config)
        self.is_rebuildable = config is not None
        self.kept = kept
        self.order: StopReason | None = None
        self._judged: tuple[int, StopReason | None] = (-1, None)
        self.left_behind: str | None = None
        self.ended_run: BaseException | None = None
        self._is_wired = False
        self.scope: anyio.CancelScope
        self.grace: anyio.CancelScope
        self.has_slot: anyio.Event | Once
        self.is_over: Once

    def wire(self) -> None:
        """Make what its task needs. On the loop: the state itself may be replayed in a thread."""
        self.scope = anyio.CancelScope()
        self.grace = anyio.CancelScope(shield=True)
        self.has_slot = Once()
        self.is_over = Once()  # it stays, for each of perhaps many thousands of trials
        self._is_wired = True
        if self.status.is_final:
            self.has_slot.set()
            self.is_over.set()

    @property
    def verdict(self) -> StopReason | None:
        """Why the trial ends at its last row, if that was decided; after a rewind it is another row."""
        sequence, reason = self._judged
        return reason if self.last_sequence == sequence else None

    def judged(self, reason: StopReason | None) -> None:
        """Take note of what was decided at the last row."""
        self._judged = self.last_sequence, reason

    def apply(self, event: ev.Event, place: int) -> None:
        super().apply(event, place)
        match event:
            case ev.Checkpointed():
                self.kept.add(self.checkpoint_of(event), flatten(self.last_result))
            case ev.CheckpointDropped() | ev.CheckpointRejected():
                self.kept.remove(self.path_of(event.path))
            case ev.TrialEnded() if self._is_wired:
                # Its task has left both scopes, and its slot is in no doubt any more. They would be a
                # third of what an ended trial holds, and a run may have many thousands of those.
                self.grace, self.has_slot = self.scope, self.is_over

    def __await__(self) -> Generator[Any, Any, Row]:
        return self._outcome().__await__()

    async def _outcome(self) -> Row:
        """Wait for the end.

        Returns:
            The last result; empty if there was none.

        Raises:
            TrialError: The trial failed.
            Exception: What ended the whole run, if it happened in this trial.
        """
        await self.is_over.wait()
        if self.ended_run is not None:
            raise self.ended_run
        if self.error is not None:
            raise self.error
        return copy_row(self.last_result)

    def stop(self) -> None:
        """Stop this trial at its next report; at once if it has not started."""
        self.end(StopReason.USER)

    def cancel(self) -> None:
        """Stop this trial now: it may clean up for ``grace_s``, then its worker is killed."""
        self.end(StopReason.CANCELLED, now=True)

    def end(self, reason: StopReason, *, now: bool = False) -> None:
        """Order the end.

        Args:
            reason: Why.
            now: Not only at the next report.
        """
        if self.is_over.is_set():
            return
        if self.order is None:
            self.order = reason
        if now or not self.has_slot.is_set():
            self.scope.cancel()
