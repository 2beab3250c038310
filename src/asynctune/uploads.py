"""Uploads in the background: training never waits for one."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from asynctune import events as ev
from asynctune.errors import ExperimentLocked, Fenced, StorageError, TuneError
from asynctune.executors._shipping import Shipment
from asynctune.journal import Follower, Journal
from asynctune.lanes import Lane, UploadStats, checkpoint_of, incomplete, is_down
from asynctune.mirror import Mirror, Stored
from asynctune.notices import warn
from asynctune.opening import Opened
from asynctune.options import Plan
from asynctune.progress.terminal import say, say_nothing
from asynctune.segments import read_new
from asynctune.state import ExperimentState

_T = TypeVar("_T")

_AT_ONCE = 4
_RESULTS_EVERY = 24
"""Half intervals between two uploads of what a running trial logs; its rows are in the journal."""
_JOURNAL = "journal"


class Uploads:
    """Uploads what a run writes: its journal at short intervals, checkpoints and results as they come.

    Of a trial, at most one checkpoint is on its way and one waits; a newer one takes the place of the one
    that waits, which is counted. So the last of a trial is never passed over. What fails is tried again at
    the next interval; what fails after the end of the run is not there, and the run says so.

    Args:
        mirror: The place.
        journal: The journal of the run.
        state: Its state.
        plan: What the run does.
        itself: Whether the trainable uploads its checkpoints itself.
        say: Told what people should know.
        is_unsure: Whether logs of earlier drivers may not be there.
    """

    def __init__(
        self,
        mirror: Mirror,
        journal: Journal,
        state: ExperimentState[Any],
        plan: Plan,
        *,
        itself: bool,
        say: Callable[[str], Awaitable[None]],
        is_unsure: bool = False,
    ) -> None:
        self._mirror = mirror
        self._journal = journal
        self._state = state
        self._directory = plan.directory
        self._interval_s = plan.upload_interval_s
        self._itself = itself
        self._say = say
        self._is_unsure = is_unsure
        self._lanes: dict[str, Lane] = {}
        self._dropped: deque[tuple[int, str, str]] = deque()
        self._failed: dict[str, Exception] = {}
        self._committed = self._skipped = 0
        self._watched = self._sent_last = self._is_down = self._has_failed = False
        self._gone: set[tuple[str, str]] = set()
        self._closing = anyio.Event()
        self._changed = anyio.Event()
        self._drain = anyio.CancelScope(shield=True)
        self._limiter = anyio.CapacityLimiter(_AT_ONCE + 1)
        self._send, self._receive = anyio.create_memory_object_stream[str](math.inf)

    @classmethod
    def of(
        cls, plan: Plan, shipment: Shipment, opened: Opened, state: ExperimentState[Any]
    ) -> Uploads | None:
        """Return the uploads of an experiment, None if it is kept nowhere but here."""
        if opened.mirror is None:
            return None
        return cls(
            opened.mirror,
            opened.journal,
            state,
            plan,
            itself=shipment.is_durable,
            say=say if plan.options.verbose else say_nothing,
            is_unsure=opened.is_behind,
        )

    @property
    def stats(self) -> UploadStats:
        """How far they have come."""
        error = next(iter(self._failed.values()), None)
        return UploadStats(
            url=self._mirror.url,
            committed=self._committed,
            skipped=self._skipped,
            waiting=sum(lane.waiting for lane in self._lanes.values()),
            journal_bytes=self._mirror.segments.end,
            error=str(error) if error is not None else None,
        )

    def hurry(self, seconds: float) -> None:
        """Let what is left at the end of the run take so long at most."""
        self._drain.deadline = min(self._drain.deadline, anyio.current_time() + seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Upload while the block runs, and then what is left.

        Raises:
            ExperimentLocked: Another driver has taken the experiment over; this ends the block.
            Fenced: Somebody else has saved to the place of one of its trials.
            StorageError: Not all could be uploaded; it is all in the local directory.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_end, self._watch, self._journal.follow_on())
                tasks.start_soon(self._tell_end, self._send_journal)
                for _ in range(_AT_ONCE):
                    tasks.start_soon(self._tell_end, self._work)
                self._catch_up()
                try:
                    yield
                except BaseException:
                    self._has_failed = True
                    raise
                finally:
                    try:
                        if not tasks.cancel_scope.cancel_called:  # else one of ours has failed
                            await self._finish()
                    finally:
                        tasks.cancel_scope.cancel()
        finally:
            self._mirror.close()
            self._send.close()
            self._receive.close()
        if not self._is_complete:
            raise self._incomplete()

    # -- the end ----------------------------------------------------------------------------------

    async def _tell_end(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run one of our tasks; if it fails, nobody is to wait for the others, behind a shield."""
        try:
            await function(*args)
        except BaseException:
            self._drain.cancel()
            raise

    async def _finish(self) -> None:
        with self._drain:
            while self._journal.ended and not self._watched:
                await self._changed.wait()
            self._failed.clear()
            self._is_down = False
            self._closing.set()
            if (waiting := self.stats.waiting) > 0:
                await self._say(f"waiting for {waiting} checkpoints to be uploaded")
            for trial_id, lane in self._lanes.items():
                lane.results = True
                self._queue(trial_id)
            for lane in list(self._lanes.values()):  # each once: there may be many thousands
                while not (lane.is_idle or self._gave_up):
                    await self._changed.wait()
            while not (self._is_complete or self._gave_up):
                await self._changed.wait()
            await self._say(f"uploads: {self.stats}")
        if self._has_failed and not self._is_complete:  # otherwise it is raised
            await warn("%s", self._incomplete())

    @property
    def _is_complete(self) -> bool:
        behind = self._mirror.segments.end < self._journal.shown_end or self._dropped
        return not (behind or self._failed) and all(lane.is_idle for lane in self._lanes.values())

    @property
    def _gave_up(self) -> bool:
        lanes = self._lanes.values()
        return bool(self._failed) and self._sent_last and not any(x.busy or x.queued for x in lanes)

    def _incomplete(self) -> StorageError:
        return incomplete(self.stats, self._directory, next(iter(self._failed.values()), None))

    # -- what happens -----------------------------------------------------------------------------

    async def _watch(self, events: Follower) -> None:
        async for event in events:
            match event:
                case ev.Checkpointed():
                    self._keep(event.trial_id, event.path)
                    if self._itself:
                        self._committed += 1
                    else:
                        self._offer(event.trial_id, event.path)
                case ev.Exploited() if not self._itself:
                    owner = event.checkpoint.partition("/")[0]
                    self._lane(owner).wanted.append(self._path(event.checkpoint))
                    self._queue(owner)
                case ev.CheckpointDropped() if (event.trial_id, event.path) in self._gone:
                    self._gone.discard((event.trial_id, event.path))
                case ev.CheckpointDropped():
                    # Whoever resumes from there has to know that it is not needed before it is gone.
                    self._dropped.append((self._journal.shown_end, event.trial_id, event.path))
                case ev.TrialEnded() | ev.TrialPaused():
                    # At the next interval: logs lag a little.
                    self._lane(event.trial_id).results = True
                case ev.TrialAdded() | ev.TrialStarted():
                    self._lane(event.trial_id)
                case _:
                    pass
        self._watched = True
        self._notify()

    def _catch_up(self) -> None:
        """Look after what earlier drivers may have left: the newest checkpoint of each trial, and logs."""
        for trial in self._state.trials.values():
            self._lane(trial.trial_id).results = self._is_unsure or not trial.status.is_final
            if trial.checkpoint is not None and not self._itself:
                owner = trial.stored_path(trial.checkpoint.path).partition("/")[0]
                self._lane(owner).wanted.append(trial.checkpoint.path)
                self._queue(owner)

    def _offer(self, trial_id: str, path: str) -> None:
        lane = self._lane(trial_id)
        self._skipped += lane.newest is not None
        lane.newest = self._path(path)
        self._queue(trial_id)

    def expect_gone(self, trial_id: str, path: str) -> None:
        """Be told of a checkpoint that is neither here nor there: its drop removes nothing.

        What is called so from now on is a new one.
        """
        self._gone.add((trial_id, path))

    def _keep(self, trial_id: str, path: str) -> None:
        """Take the removal of a checkpoint back: it was saved again under its name."""
        root = checkpoint_of(path)
        self._dropped = deque(item for item in self._dropped if checkpoint_of(item[2]) != root)
        self._lane(trial_id).keep(self._path(root))

    def _path(self, stored: str) -> str:
        return os.path.join(self._directory, stored)

    def _lane(self, trial_id: str) -> Lane:
        return self._lanes.setdefault(trial_id, Lane())

    def _queue(self, trial_id: str) -> None:
        lane = self._lanes[trial_id]
        if not lane.queued:
            lane.queued = True
            self._send.send_nowait(trial_id)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # -- the work ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        async for trial_id in self._receive:
            lane = self._lanes[trial_id]
            lane.queued = False
            if lane.busy:  # who works on it looks again before it leaves
                continue
            lane.busy = True
            try:
                await self._empty(trial_id, lane)
            except Fenced as exc:
                segments = self._mirror.segments
                raise await self._in_thread(segments.taken_over) or exc from exc
            except (TuneError, OSError) as exc:
                await self._take_note(trial_id, exc)
            finally:
                lane.busy = False
                self._notify()

    async def _empty(self, trial_id: str, lane: Lane) -> None:
        """Do what there is to do for a trial."""
        # After the end of the run nothing is tried again, nor begun when the place does not answer.
        while not (self._closing.is_set() and (self._is_down or trial_id in self._failed)):
            attempt = self._state.trials[trial_id].attempt
            if lane.wanted:
                stored = await self._in_thread(
                    partial(self._mirror.store, look_first=True), lane.wanted[0], attempt
                )
                del lane.wanted[0]
                self._committed += stored is Stored.COMMITTED
            elif lane.newest is not None:
                await self._send_newest(lane, attempt)
            elif lane.dropped:
                dropped = lane.dropped.pop(0)
                if not lane.is_behind:
                    try:
                        await self._in_thread(self._mirror.delete, dropped, attempt, self._itself)
                    except BaseException:
                        lane.dropped.insert(0, dropped)
                        raise
            elif lane.results:
                lane.results = False
                await self._send_results(trial_id, lane)
            else:
                self._failed.pop(trial_id, None)
                return

    async def _send_newest(self, lane: Lane, attempt: int) -> None:
        path = lane.take_newest()
        try:
            stored = await self._in_thread(self._mirror.store, path, attempt)
        except BaseException:
            if lane.newest is None:
                lane.newest = path
            else:
                self._skipped += 1
            raise
        self._committed += stored is Stored.COMMITTED
        # Dropped before it was linked: one that came after it is on its way here.
        lane.is_behind = stored is Stored.GONE
        self._skipped += lane.is_behind

    async def _send_results(self, trial_id: str, lane: Lane) -> None:
        trial = self._state.trials[trial_id]
        exported, final = list(trial.exported.values()), trial.status.is_final
        try:
            await self._in_thread(self._mirror.send_files, trial_id, exported, final)
        except BaseException:
            lane.results = True
            raise
        if final and lane.is_done:
            self._mirror.forget(trial_id)

    async def _send_journal(self) -> None:
        """Upload the journal at short intervals, and at the end; look after what is to be tried again."""
        ticks = 0
        while True:
            # Twice in the time that a row may wait, so that it is there before that is over.
            with anyio.move_on_after(self._interval_s / 2):
                await self._closing.wait()
            is_last = self._closing.is_set()
            try:
                while self._mirror.segments.end < self._journal.shown_end:
                    await self._in_thread(self._send_segment, self._journal.shown_end)
                self._failed.pop(_JOURNAL, None)
                self._let_go()
            except ExperimentLocked:
                raise
            except (TuneError, OSError) as exc:
                await self._take_note(_JOURNAL, exc)
            self._sent_last = is_last
            self._notify()
            if is_last:
                return
            ticks += 1
            for trial_id, lane in self._lanes.items():
                if ticks % _RESULTS_EVERY == 0 and not self._state.trials[trial_id].status.is_final:
                    lane.results = True
                if not lane.is_idle:
                    self._queue(trial_id)

    def _let_go(self) -> None:
        """Have those checkpoints removed of which the journal there says that nothing needs them."""
        while self._dropped and self._dropped[0][0] <= self._mirror.segments.end:
            _, trial_id, path = self._dropped.popleft()
            self._lane(trial_id).dropped.append(self._path(checkpoint_of(path)))
            self._queue(trial_id)

    def _send_segment(self, end: int) -> None:
        segments = self._mirror.segments
        segments.append(read_new(self._journal.path, segments.end, end))

    async def _take_note(self, what: str, error: Exception) -> None:
        is_first = not self._failed
        self._failed[what] = error
        self._is_down |= is_down(error)
        if is_first and not self._closing.is_set():
            await warn("an upload failed and is tried again; training goes on: %s", error)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await anyio.to_thread.run_sync(
            function, *args, limiter=self._limiter, abandon_on_cancel=True
        )
