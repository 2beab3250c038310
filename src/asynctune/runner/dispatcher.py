"""Gives each free slot to a paused trial that goes on, or to a new trial drawn for the slot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.errors import TuneError
from asynctune.executors.slots import Lease
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status, StopReason
from asynctune.resources import Resources
from asynctune.runner.context import RunContext
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.trial_factory import Candidate, TrialFactory
from asynctune.schedulers import Free
from asynctune.suggest.ask_tell import AskTell

_MOST_WAITING = 500
"""Number of notifications that may wait once the searcher is exhausted and not asked any more."""


class _Fresh(Enum):
    """Type of the value that stands for a new trial, so that ``is`` and ``isinstance`` work."""

    FRESH = "fresh"


_FRESH: Final = _Fresh.FRESH


class Dispatcher:
    """Acquires slots for its run as they become free, and gives each to the trial the scheduler chooses.

    A retry, or a trial added by the user, waits for a slot of its own with :meth:`lease`.

    Args:
        run: The run.
        factory: The factory of new trials.
        ask_tell: The suggestions of the searcher.
        usual: The resources that most trials ask for.
        begin: Called with a candidate and a slot; adds the trial and starts its task.
    """

    def __init__(
        self,
        run: RunContext,
        factory: TrialFactory,
        ask_tell: AskTell,
        usual: Resources,
        begin: Callable[[Candidate, Lease], None],
    ) -> None:
        self._run = run
        self._factory = factory
        self._ask_tell = ask_tell
        self._usual = usual
        self._begin = begin
        limit = run.plan.options.max_concurrent_trials
        self._limiter = anyio.CapacityLimiter(limit or math.inf)
        self._changed = anyio.Event()
        self._alive: dict[str, LiveTrial] = {}
        self._paused: dict[str, LiveTrial] = {}
        self._candidate: Candidate | None = None
        self._is_drawing = False
        self._declined_at = -1
        self._num_logged = 0
        self.is_over = False

    # -- notifications ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Decide again which trial gets the next slot."""
        self._changed.set()

    def trial_started(self, trial: LiveTrial) -> None:
        """Count a trial whose task has started."""
        self._alive[trial.trial_id] = trial
        if trial.status is Status.PAUSED:
            self._paused[trial.trial_id] = trial
        self._changed.set()

    def trial_paused(self, trial: LiveTrial) -> None:
        """Queue a trial that has released its slot and waits."""
        self._paused[trial.trial_id] = trial
        self._changed.set()

    def trial_ended(self, trial: LiveTrial) -> None:
        """Forget a trial whose task has ended."""
        self._alive.pop(trial.trial_id, None)
        self._paused.pop(trial.trial_id, None)
        self._changed.set()

    async def lease(self, resources: Resources) -> Lease:
        """Wait for a slot of this run."""
        holder = object()
        await self._limiter.acquire_on_behalf_of(holder)
        try:
            lease = await self._run.executor.slots.lease(resources, owner=self._run)
        except BaseException:
            self._limiter.release_on_behalf_of(holder)
            raise
        lease.then = lambda: self._limiter.release_on_behalf_of(holder)
        return lease

    # -- dispatching --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Give slots away until no trial is left and none will follow.

        Raises:
            TuneError: The searcher suggests nothing although no result can follow that would change this.
        """
        lease: Lease | None = None
        try:
            async with anyio.create_task_group() as drawing:
                while not self.is_over:
                    self._changed = anyio.Event()
                    lease = await self._dispatch_one(lease, drawing)
        finally:
            self.is_over = True
            if lease is not None:
                lease.release()

    async def _dispatch_one(
        self, lease: Lease | None, drawing: anyio.abc.TaskGroup
    ) -> Lease | None:
        """Run one dispatch step. Return the lease that is still unused, if any."""
        await self._log_notices()
        self._end_dismissed()
        self._draw_ahead(drawing)
        chosen = self._chosen()
        if chosen is None:
            if lease is not None:
                lease.release()
            await self._wait()
            return None
        resources = self._usual if isinstance(chosen, _Fresh) else chosen.resources
        if isinstance(chosen, _Fresh) and self._candidate is not None:
            resources = self._candidate.resources
        if lease is None or lease.share.resources != resources:
            if lease is not None:
                lease.release()
            return await self.lease(resources)
        if isinstance(chosen, LiveTrial):
            del self._paused[chosen.trial_id]
            chosen.wants_slot = False
            self._resume(chosen, lease)
            return None
        if self._candidate is None:
            self._draw(drawing)
            await self._changed.wait()
            return lease
        candidate, self._candidate = self._candidate, None
        self._usual = candidate.resources
        self._begin(candidate, lease)
        return None

    def _resume(self, trial: LiveTrial, lease: Lease) -> None:
        """Record that a paused trial goes on, and give it the slot."""
        self._run.record(ev.TrialResumed(trial.trial_id, time.time()))
        self._run.decider.trial_resumed(trial)
        trial.lease = lease
        trial.has_slot.set()

    def _chosen(self) -> LiveTrial | _Fresh | None:
        """Return the trial that would get a slot now, ``_FRESH`` for a new one, None for none."""
        for trial in self._paused.values():
            if trial.wants_slot:
                return trial
        held = sum(trial.is_held for trial in self._paused.values())
        free = Free(
            paused=tuple(name for name, trial in self._paused.items() if not trial.is_held),
            fresh=self._may_draw,
            running=len(self._alive) - len(self._paused) + held,
        )
        chosen = self._run.decider.choose(free) if self._paused else None
        if chosen is not None:
            return self._paused[chosen]
        if free.fresh:
            return _FRESH
        if free.is_last_chance:
            for name in free.paused:
                self._paused.pop(name).request_stop(StopReason.SCHEDULER)
        return None

    @property
    def _may_draw(self) -> bool:
        """Whether a new trial is drawn, or can be drawn."""
        if self._candidate is not None or self._is_drawing:
            return True
        ask_tell = self._ask_tell
        return not (ask_tell.is_exhausted or ask_tell.num_queued == self._declined_at)

    def _end_dismissed(self) -> None:
        """Stop the paused trials that the scheduler has given up."""
        for trial_id in list(self._run.decider.dismissed()):
            trial = self._paused.pop(trial_id, None)
            if trial is not None:
                trial.request_stop(StopReason.SCHEDULER)

    async def _wait(self) -> None:
        """Wait for a notification; if none can follow, end the dispatching."""
        if not self._alive and not self._may_draw:
            if not self._ask_tell.is_exhausted:
                name = type(self._run.plan.searcher).__name__
                raise TuneError(
                    f"{name}.suggest() must return a configuration or FINISHED when no trial runs or "
                    "waits, got None (not now)"
                )
            await anyio.to_thread.run_sync(self._ask_tell.flush)
            self.is_over = not self._alive  # the user may have added a trial meanwhile
            return
        await self._changed.wait()
        ask_tell = self._ask_tell
        if ask_tell.is_exhausted and ask_tell.num_pending > _MOST_WAITING:
            await anyio.to_thread.run_sync(ask_tell.flush)

    def _draw_ahead(self, drawing: anyio.abc.TaskGroup) -> None:
        """Draw before a slot is free, where drawing takes longer than a slot should stay empty."""
        if self._run.plan.searcher.is_slow and self._candidate is None and self._may_draw:
            self._draw(drawing)

    def _draw(self, drawing: anyio.abc.TaskGroup) -> None:
        """Start to draw the next trial in a task of its own."""
        if not self._is_drawing:
            self._is_drawing = True
            drawing.start_soon(self._draw_candidate)

    async def _draw_candidate(self) -> None:
        num_queued = self._ask_tell.num_queued
        try:
            self._candidate = await self._factory.draw()
            if self._candidate is None:  # asked again when the searcher has learned more
                self._declined_at = num_queued
        finally:
            self._is_drawing = False
            self._changed.set()

    async def _log_notices(self) -> None:
        notices = self._ask_tell.notices
        while self._num_logged < len(notices):
            self._num_logged += 1
            await log_warning("%s", notices[self._num_logged - 1])
