"""Who gets a free slot: a paused trial that goes on, or a new one that is drawn for it."""

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

_MANY_TELLINGS = 500


class _Fresh(Enum):
    """Stands for a new trial."""

    FRESH = "fresh"


_FRESH: Final = _Fresh.FRESH


class Dispatcher:
    """Takes slots for its run as they become free, and gives each to whom the scheduler names.

    A retry, or a trial that was added by hand, waits for a slot of its own with :meth:`lease`.

    Args:
        run: The run.
        maker: Makes the next trial.
        ask_tell: The searcher's suggestions.
        usual: What most trials ask for.
        begin: Adds a trial and starts it with a slot.
    """

    def __init__(
        self,
        run: RunContext,
        maker: TrialFactory,
        ask_tell: AskTell,
        usual: Resources,
        begin: Callable[[Candidate, Lease], None],
    ) -> None:
        self._run = run
        self._maker = maker
        self._ask_tell = ask_tell
        self._usual = usual
        self._begin = begin
        limit = run.plan.options.max_concurrent_trials
        self._limiter = anyio.CapacityLimiter(limit or math.inf)
        self._news = anyio.Event()
        self._alive: dict[str, LiveTrial] = {}
        self._paused: dict[str, LiveTrial] = {}
        self._candidate: Candidate | None = None
        self._is_drawing = False
        self._declined_at = -1
        self._said: int = 0
        self.is_over = False

    # -- what happens ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something happened that may change who can go on."""
        self._news.set()

    def add_trial_task(self, trial: LiveTrial) -> None:
        """A trial has a task from now on."""
        self._alive[trial.trial_id] = trial
        if trial.status is Status.PAUSED:
            self._paused[trial.trial_id] = trial
        self._news.set()

    def paused(self, trial: LiveTrial) -> None:
        """A trial gives its slot back and waits."""
        self._paused[trial.trial_id] = trial
        self._news.set()

    def left(self, trial: LiveTrial) -> None:
        """A trial's task is over."""
        self._alive.pop(trial.trial_id, None)
        self._paused.pop(trial.trial_id, None)
        self._news.set()

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

    # -- what follows ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Give slots away until no trial is left, and none will come.

        Raises:
            TuneError: The searcher waits for something that will never happen.
        """
        lease: Lease | None = None
        try:
            async with anyio.create_task_group() as drawing:
                while not self.is_over:
                    self._news = anyio.Event()
                    lease = await self._turn(lease, drawing)
        finally:
            self.is_over = True
            if lease is not None:
                lease.release()

    async def _turn(self, lease: Lease | None, drawing: anyio.abc.TaskGroup) -> Lease | None:
        """Do the next thing that is to be done; return the slot that is at hand after it."""
        await self._log_notices()
        self._end_dismissed()
        self._draw_ahead(drawing)
        chosen = self._chosen()
        if chosen is None:
            if lease is not None:
                lease.release()
            await self._wait()
            return None
        wanted = self._usual if isinstance(chosen, _Fresh) else chosen.resources
        if isinstance(chosen, _Fresh) and self._candidate is not None:
            wanted = self._candidate.resources
        if lease is None or lease.share.resources != wanted:
            if lease is not None:
                lease.release()
            return await self.lease(wanted)
        if isinstance(chosen, LiveTrial):
            del self._paused[chosen.trial_id]
            chosen.wants_slot = False
            self._resume(chosen, lease)
            return None
        if self._candidate is None:
            self._draw(drawing)
            await self._news.wait()
            return lease
        candidate, self._candidate = self._candidate, None
        self._usual = candidate.resources
        self._begin(candidate, lease)
        return None

    def _resume(self, trial: LiveTrial, lease: Lease) -> None:
        """Let a paused trial go on with the slot."""
        self._run.record(ev.TrialResumed(trial.trial_id, time.time()))
        self._run.decider.resumed(trial)
        trial.lease = lease
        trial.has_slot.set()

    def _chosen(self) -> LiveTrial | _Fresh | None:
        """Say who would get a slot now."""
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
        """Whether there is a new trial, or will be one as soon as it is drawn."""
        if self._candidate is not None or self._is_drawing:
            return True
        ask_tell = self._ask_tell
        return not (ask_tell.is_exhausted or ask_tell.noted == self._declined_at)

    def _end_dismissed(self) -> None:
        for trial_id in list(self._run.decider.dismissed()):
            trial = self._paused.pop(trial_id, None)
            if trial is not None:
                trial.request_stop(StopReason.SCHEDULER)

    async def _wait(self) -> None:
        """Wait until something happens; if nothing can, it is over."""
        if not self._alive and not self._may_draw:
            if not self._ask_tell.is_exhausted:
                name = type(self._run.plan.searcher).__name__
                raise TuneError(
                    f"{name}.suggest() answered None, not now, although no trial runs or waits; it has "
                    "to suggest something then, or to answer FINISHED"
                )
            await anyio.to_thread.run_sync(self._ask_tell.flush)
            self.is_over = not self._alive  # one may have been added by hand meanwhile
            return
        await self._news.wait()
        ask_tell = self._ask_tell
        if ask_tell.is_exhausted and ask_tell.num_waiting > _MANY_TELLINGS:
            await anyio.to_thread.run_sync(ask_tell.flush)

    def _draw_ahead(self, drawing: anyio.abc.TaskGroup) -> None:
        if self._run.plan.searcher.is_slow and self._candidate is None and self._may_draw:
            self._draw(drawing)

    def _draw(self, drawing: anyio.abc.TaskGroup) -> None:
        """Ask for the next trial, beside everything else."""
        if not self._is_drawing:
            self._is_drawing = True
            drawing.start_soon(self._drawing)

    async def _drawing(self) -> None:
        noted = self._ask_tell.noted
        try:
            self._candidate = await self._maker.draw()
            if self._candidate is None:  # it is asked again as soon as there is something to tell
                self._declined_at = noted
        finally:
            self._is_drawing = False
            self._news.set()

    async def _log_notices(self) -> None:
        notices = self._ask_tell.notices
        while self._said < len(notices):
            self._said += 1
            await log_warning("%s", notices[self._said - 1])
