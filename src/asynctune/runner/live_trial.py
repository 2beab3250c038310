"""A trial that is being run: its state, and the wires to its task."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import anyio

from asynctune.errors import ConfigError
from asynctune.executors.slots import Lease
from asynctune.experiment import events as ev
from asynctune.experiment.retention import Retention
from asynctune.experiment.status import Status, StopReason
from asynctune.experiment.trial import Trial
from asynctune.result import Row, copy_row, flatten
from asynctune.runner.decisions import NOTHING, RowDecision
from asynctune.schedulers import Decision, Verdict
from asynctune.space.codec import decode_config


class OneShotEvent:
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
        kept: Retention,
    ) -> None:
        super().__init__(event, directory=directory, read_rows=read_rows, config=config)
        self.is_rebuildable = config is not None
        self.kept = kept
        self.requested_stop: StopReason | None = None
        self.pauses_next = False
        """Whether its user wants it to pause at its next report."""
        self.is_held = False
        """Whether its user paused it, so that only its user lets it go on."""
        self.wants_slot = False
        """Whether its user has said that it goes on."""
        self.next_config: dict[str, Any] | None = None
        """What an exploit gives it, objects and all; the event has only what JSON can hold."""
        self.lease: Lease | None = None
        """The slot that it was given and has not yet begun to use."""
        self._decided_at: tuple[int, RowDecision] = (-1, NOTHING)
        self.shutdown_note: str | None = None
        self.run_error: BaseException | None = None
        self._is_wired = False
        self.scope: anyio.CancelScope
        self.grace: anyio.CancelScope
        self.has_slot: anyio.Event | OneShotEvent
        self.is_over: OneShotEvent
        self._is_ready: Callable[[], None]
        self._why_not_pausable = ""

    def wire(self, is_ready: Callable[[], None], why_not_pausable: str = "") -> None:
        """Make what its task needs. On the loop: the state itself may be replayed in a thread.

        Args:
            is_ready: Called when its user lets it go on.
            why_not_pausable: Why it cannot be paused, "" if it can.
        """
        self._is_ready = is_ready
        self._why_not_pausable = why_not_pausable
        self.scope = anyio.CancelScope()
        self.grace = anyio.CancelScope(shield=True)
        self.has_slot = OneShotEvent()
        self.is_over = OneShotEvent()  # it stays, for each of perhaps many thousands of trials
        self._is_wired = True
        if self.status.is_final:
            self.has_slot.set()
            self.is_over.set()

    @property
    def decided_stop(self) -> StopReason | None:
        """Why the trial ends at its last row, if that was decided; after a rewind it is another row."""
        return self._last_decision.stop_reason

    @property
    def decision(self) -> Verdict:
        """What the scheduler said at its last row."""
        return self._last_decision.decision

    @property
    def should_pause(self) -> bool:
        """Whether it is to pause at its last row."""
        return self.pauses_next or self.decision == Decision.PAUSE

    @property
    def _last_decision(self) -> RowDecision:
        sequence, decision = self._decided_at
        return decision if self.last_sequence == sequence else NOTHING

    def set_decision(self, decision: RowDecision) -> None:
        """Take note of what was decided at the last row."""
        self._decided_at = self.last_sequence, decision

    def apply(self, event: ev.Event, place: int) -> None:
        decision = self._last_decision
        super().apply(event, place)
        match event:
            case ev.TrialPaused():
                self.is_held, self.pauses_next = event.by_hand, False
                self.has_slot = OneShotEvent()
            case ev.TrialResumed():
                self.is_held = False
                # What was said at this row is done with.
                self._decided_at = self.last_sequence, RowDecision(decision.stop_reason)
            case ev.Exploited():
                self._decided_at = self.last_sequence, NOTHING
                self._take_config(event)
            case ev.Checkpointed():
                self.kept.add(self.checkpoint_of(event), flatten(self.last_result))
            case ev.CheckpointDropped() | ev.CheckpointRejected():
                self.kept.remove(self.path_of(event.path))
            case ev.TrialEnded() if self._is_wired:
                # Its task has left both scopes, and its slot is in no doubt any more. They would be a
                # third of what an ended trial holds, and a run may have many thousands of those.
                self.grace, self.has_slot = self.scope, self.is_over

    def _take_config(self, event: ev.Exploited) -> None:
        config = self.next_config if self.next_config is not None else decode_config(event.given)
        self.next_config = None
        self.is_rebuildable = config is not None
        if config is not None:
            self.config = config

    def pin(self, path: str) -> None:
        self.kept.pin(path)

    def unpin(self, path: str) -> None:
        self.kept.unpin(path)

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
        if self.run_error is not None:
            raise self.run_error
        if self.error is not None:
            raise self.error
        return copy_row(self.last_result)

    def stop(self) -> None:
        """Stop this trial at its next report; at once if it has not started."""
        self.request_stop(StopReason.USER)

    def cancel(self) -> None:
        """Stop this trial now: it may clean up for ``grace_s``, then its worker is killed."""
        self.request_stop(StopReason.CANCELLED, now=True)

    def pause(self) -> None:
        """Pause this trial at its next report: it is saved and gives its slot back.

        It goes on from there when :meth:`resume` is called. A trial that a scheduler has paused stays so
        until then, too.

        Raises:
            ConfigError: The trainable cannot be saved.
        """
        if self._why_not_pausable:
            raise ConfigError(f"{self.name} cannot be paused: {self._why_not_pausable}")
        if self.status is Status.PAUSED:
            self.is_held = True
        elif not self.status.is_final:
            self.pauses_next = True

    def resume(self) -> None:
        """Let this trial go on: it gets the next slot that is free."""
        self.pauses_next = False
        if self.status is Status.PAUSED and not self.is_over.is_set():
            self.is_held = False
            self.wants_slot = True
            self._is_ready()

    def request_stop(self, reason: StopReason, *, now: bool = False) -> None:
        """Order the end.

        Args:
            reason: Why.
            now: Not only at the next report.
        """
        if self.is_over.is_set():
            return
        if self.requested_stop is None:
            self.requested_stop = reason
        if now or not self.has_slot.is_set():
            self.scope.cancel()
