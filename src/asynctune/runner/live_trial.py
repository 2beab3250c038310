"""A trial of a live run: its state, and the signals between user, dispatcher and the task of the trial."""

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
    """One-shot event; allocates an ``anyio.Event`` only when a task waits.

    A run may have many thousands of trials with two of these each.
    """

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: anyio.Event | None = None

    def set(self) -> None:
        """Set the event and wake all waiters."""
        self._is_set = True
        if self._waiters is not None:
            self._waiters.set()
            self._waiters = None

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until the event is set."""
        if not self._is_set:
            if self._waiters is None:
                self._waiters = anyio.Event()
            await self._waiters.wait()


class LiveTrial(Trial):
    """A trial of a live run. Await the trial for its last result.

    Args:
        event: The event that added the trial.
        directory: The directory of the experiment.
        read_rows: Reads rows of the journal at their offsets.
        config: The configuration; None if a resume could not rebuild the configuration, so that the trial
            cannot run.
        kept: The retention of the trial's checkpoints.
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
        """Whether the user has asked for a pause at the next report."""
        self.is_held = False
        """Whether the user paused the trial, so that only the user resumes the trial."""
        self.wants_slot = False
        """Whether the user has resumed the trial, so that the dispatcher gives it the next slot."""
        self.next_config: dict[str, Any] | None = None
        """The configuration of an exploit, with its objects; the event holds only what JSON can."""
        self.lease: Lease | None = None
        """The slot that the dispatcher has given to the trial and its task does not yet use."""
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
        """Create the events and scopes that the task of the trial needs.

        Called on the event loop, whereas a replay may construct the trial in a thread.

        Args:
            is_ready: Called when the user resumes the trial.
            why_not_pausable: The reason why the trial cannot be paused, "" if it can.
        """
        self._is_ready = is_ready
        self._why_not_pausable = why_not_pausable
        self.scope = anyio.CancelScope()
        self.grace = anyio.CancelScope(shield=True)
        self.has_slot = OneShotEvent()
        self.is_over = OneShotEvent()
        self._is_wired = True
        if self.status.is_final:
            self.has_slot.set()
            self.is_over.set()

    @property
    def decided_stop(self) -> StopReason | None:
        """The reason to end the trial at its last row, None for none or after a rewind to another row."""
        return self._last_decision.stop_reason

    @property
    def decision(self) -> Verdict:
        """The decision of the scheduler at the last row."""
        return self._last_decision.decision

    @property
    def should_pause(self) -> bool:
        """Whether user or scheduler pauses the trial at its last row."""
        return self.pauses_next or self.decision == Decision.PAUSE

    @property
    def _last_decision(self) -> RowDecision:
        sequence, decision = self._decided_at
        return decision if self.last_sequence == sequence else NOTHING

    def set_decision(self, decision: RowDecision) -> None:
        """Keep the decision about the last row."""
        self._decided_at = self.last_sequence, decision

    def apply(self, event: ev.Event, offset: int) -> None:
        decision = self._last_decision
        super().apply(event, offset)
        match event:
            case ev.TrialPaused():
                self.is_held, self.pauses_next = event.by_hand, False
                self.has_slot = OneShotEvent()
            case ev.TrialResumed():
                self.is_held = False
                # The pause is over; only a stop that was decided at this row still holds.
                self._decided_at = self.last_sequence, RowDecision(decision.stop_reason)
            case ev.Exploited():
                self._decided_at = self.last_sequence, NOTHING
                self._take_config(event)
            case ev.Checkpointed():
                self.kept.add(self.checkpoint_of(event), flatten(self.last_result))
            case ev.CheckpointDropped() | ev.CheckpointRejected():
                self.kept.remove(self.path_of(event.path))
            case ev.TrialEnded() if self._is_wired:
                # The task has left both scopes and needs no slot any more. Both objects would be a third of
                # the memory of an ended trial, and a run may have many thousands of those.
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
        """Wait for the end of the trial.

        Returns:
            The last result; empty if the trial reported none.

        Raises:
            TrialError: The trial failed.
            Exception: The error that ended the whole run, if this trial raised it.
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
        """Stop this trial now: the trial may clean up for ``grace_s``, then the run kills its worker."""
        self.request_stop(StopReason.CANCELLED, now=True)

    def pause(self) -> None:
        """Pause this trial at its next report: the run saves the trial and releases its slot.

        :meth:`resume` continues the trial from there. A trial that a scheduler has paused then stays paused
        until :meth:`resume`, too.

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
        """Resume this trial: the trial gets the next free slot."""
        self.pauses_next = False
        if self.status is Status.PAUSED and not self.is_over.is_set():
            self.is_held = False
            self.wants_slot = True
            self._is_ready()

    def request_stop(self, reason: StopReason, *, now: bool = False) -> None:
        """Stop the trial at its next report, or at once if the trial has no slot.

        Args:
            reason: The stop reason. The first request counts.
            now: Whether to cancel the task of the trial instead of waiting for the next report.
        """
        if self.is_over.is_set():
            return
        if self.requested_stop is None:
            self.requested_stop = reason
        if now or not self.has_slot.is_set():
            self.scope.cancel()
