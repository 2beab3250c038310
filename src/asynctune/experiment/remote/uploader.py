"""Uploads in the background: training never waits for one."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.errors import ExperimentLocked, Fenced, StorageError, TuneError
from asynctune.experiment import events as ev
from asynctune.experiment.journal import Follower, Journal
from asynctune.experiment.remote.queue import (
    TrialQueue,
    UploadStats,
    checkpoint_of,
    incomplete_error,
    is_down,
)
from asynctune.experiment.remote.replica import Replica, UploadOutcome
from asynctune.experiment.remote.retention import RemoteRetention
from asynctune.experiment.state import ExperimentState

_T = TypeVar("_T")

_AT_ONCE = 4
_RESULTS_EVERY = 24
"""Half intervals between two uploads of what a running trial logs; its rows are in the journal."""
_JOURNAL = "journal"


class Uploader:
    """Uploads what a run writes: its journal at short intervals, checkpoints and results as they come.

    Of a trial, at most one checkpoint is on its way and one waits; a newer one takes the place of the one
    that waits, which is counted. So the last of a trial is never passed over. What fails is tried again at
    the next interval; what fails after the end of the run is not there, and the run says so.

    Args:
        replica: The place.
        journal: The journal of the run.
        state: Its state.
        directory: The directory of the experiment.
        interval_s: How often the journal is uploaded, in seconds.
        keeps_few: Whether only some checkpoints of a trial are kept.
        itself: Whether the trainable uploads its checkpoints itself.
        say: Told what people should know.
        logs_may_lag: Whether logs of earlier drivers may not be there.
    """

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        state: ExperimentState[Any],
        *,
        directory: str,
        interval_s: float,
        keeps_few: bool,
        itself: bool,
        say: Callable[[str], Awaitable[None]],
        logs_may_lag: bool = False,
    ) -> None:
        self._replica = replica
        self._journal = journal
        self._state = state
        self._directory = directory
        self._interval_s = interval_s
        self._itself = itself
        self._keeps_few = keeps_few
        self._say = say
        self._logs_may_lag = logs_may_lag
        self._queues: dict[str, TrialQueue] = {}
        self.retention = RemoteRetention()
        self._failed: dict[str, Exception] = {}
        self._committed = self._skipped = 0
        self._watched = self._sent_last = self._is_down = self._has_failed = False
        self._closing = anyio.Event()
        self._changed = anyio.Event()
        self._drain = anyio.CancelScope(shield=True)
        self._limiter = anyio.CapacityLimiter(_AT_ONCE + 1)
        self._send, self._receive = anyio.create_memory_object_stream[str](math.inf)

    @property
    def stats(self) -> UploadStats:
        """How far they have come."""
        error = next(iter(self._failed.values()), None)
        return UploadStats(
            url=self._replica.url,
            committed=self._committed,
            skipped=self._skipped,
            waiting=sum(queue.waiting for queue in self._queues.values()),
            journal_bytes=self._replica.segments.end,
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
                tasks.start_soon(self._tell_end, self._watch, self._journal.follow_new())
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
            self._replica.close()
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
            for trial_id, queue in self._queues.items():
                queue.results = True
                self._queue(trial_id)
            for queue in list(self._queues.values()):  # each once: there may be many thousands
                while not (queue.is_idle or self._gave_up):
                    await self._changed.wait()
            self.retention.close()
            while not (self._is_complete or self._gave_up):
                await self._changed.wait()
            await self._say(f"uploads: {self.stats}")
        if self._has_failed and not self._is_complete:  # otherwise it is raised
            await log_warning("%s", self._incomplete())

    @property
    def _is_complete(self) -> bool:
        behind = self._replica.segments.end < self._journal.shown_end or self.retention
        return not (behind or self._failed) and all(
            queue.is_idle for queue in self._queues.values()
        )

    @property
    def _gave_up(self) -> bool:
        queues = self._queues.values()
        return (
            bool(self._failed) and self._sent_last and not any(x.busy or x.queued for x in queues)
        )

    def _incomplete(self) -> StorageError:
        return incomplete_error(
            self.stats, self._directory, next(iter(self._failed.values()), None)
        )

    # -- what happens -----------------------------------------------------------------------------

    async def _watch(self, events: Follower) -> None:
        async for event in events:
            match event:
                case ev.Checkpointed():
                    self.retention.saved(event.trial_id, event.path)
                    self._queue_of(event.trial_id).keep(self._path(checkpoint_of(event.path)))
                    if self._itself:
                        self._has_come(
                            event.trial_id, self._path(event.path), UploadOutcome.COMMITTED
                        )
                    else:
                        self._offer(event.trial_id, event.path)
                case ev.Exploited():
                    self.retention.began_from(event.trial_id, event.checkpoint)
                    if not self._itself:
                        self._want(self._path(event.checkpoint))
                case ev.CheckpointDropped():
                    self._queue_of(event.trial_id).skipped.pop(self._path(event.path), None)
                    self.retention.dropped(event.trial_id, event.path, self._journal.shown_end)
                case ev.TrialEnded() | ev.TrialPaused():
                    if isinstance(event, ev.TrialEnded):
                        self.retention.ended(event.trial_id)
                    # At the next interval: logs lag a little.
                    self._queue_of(event.trial_id).results = True
                case ev.TrialAdded() | ev.TrialStarted():
                    self._queue_of(event.trial_id)
                case _:
                    pass
        self._watched = True
        self._notify()

    def _catch_up(self) -> None:
        """Look after what earlier drivers may have left: the newest checkpoint of each trial, and logs."""
        for trial in self._state.trials.values():
            self._queue_of(trial.trial_id).results = self._logs_may_lag or not trial.status.is_final
            self.retention.take_up(trial, are_there=self._itself)
            kept = trial.checkpoints if self._keeps_few else trial.checkpoints[-1:]
            for checkpoint in () if self._itself else kept:
                self._want(checkpoint.path)

    def _want(self, path: str) -> None:
        owner = os.path.relpath(path, self._directory).partition(os.sep)[0]
        self._queue_of(owner).wanted.append(path)
        self._queue(owner)

    def _offer(self, trial_id: str, path: str) -> None:
        queue = self._queue_of(trial_id)
        if queue.newest is not None:
            self._pass_over(queue, queue.newest)
        queue.newest = self._path(path)
        self._queue(trial_id)

    def _pass_over(self, queue: TrialQueue, path: str) -> None:
        self._skipped += 1
        if self._keeps_few:
            queue.skipped[path] = None

    def _has_come(self, trial_id: str, path: str, stored: UploadOutcome) -> None:
        self._committed += stored is UploadOutcome.COMMITTED
        inside = os.path.relpath(path, self._directory)
        if stored is not UploadOutcome.GONE and self.retention.stored(trial_id, inside):
            self._let_go()

    def _path(self, stored: str) -> str:
        return os.path.join(self._directory, stored)

    def _queue_of(self, trial_id: str) -> TrialQueue:
        return self._queues.setdefault(trial_id, TrialQueue())

    def _queue(self, trial_id: str) -> None:
        queue = self._queues[trial_id]
        if not queue.queued:
            queue.queued = True
            self._send.send_nowait(trial_id)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # -- the work ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        async for trial_id in self._receive:
            queue = self._queues[trial_id]
            queue.queued = False
            if queue.busy:  # who works on it looks again before it leaves
                continue
            queue.busy = True
            try:
                await self._empty(trial_id, queue)
            except Fenced as exc:
                segments = self._replica.segments
                raise await self._in_thread(segments.takeover_error) or exc from exc
            except (TuneError, OSError) as exc:
                await self._take_note(trial_id, exc)
            finally:
                queue.busy = False
                self._notify()

    async def _empty(self, trial_id: str, queue: TrialQueue) -> None:
        """Do what there is to do for a trial."""
        # After the end of the run nothing is tried again, nor begun when the place does not answer.
        while not (self._closing.is_set() and (self._is_down or trial_id in self._failed)):
            trial = self._state.trials[trial_id]
            attempt = trial.attempt
            if queue.wanted:
                path = queue.wanted[0]
                stored = await self._in_thread(
                    partial(self._replica.store, look_first=True), path, attempt
                )
                del queue.wanted[0]
                self._has_come(trial_id, path, stored)
            elif queue.newest is not None:
                await self._send_newest(trial_id, queue, attempt)
            elif queue.dropped:
                dropped = queue.dropped[0]
                if not queue.is_behind:
                    await self._in_thread(self._replica.delete, dropped, attempt, self._itself)
                if dropped in queue.dropped:  # it may have been saved again meanwhile
                    queue.dropped.remove(dropped)
            elif queue.skipped and trial.status.is_final:
                kept = {checkpoint.path for checkpoint in trial.checkpoints}
                self._skipped -= queue.want_skipped(kept)
            elif queue.results:
                queue.results = False
                await self._send_results(trial_id, queue)
            else:
                self._failed.pop(trial_id, None)
                return

    async def _send_newest(self, trial_id: str, queue: TrialQueue, attempt: int) -> None:
        path = queue.take_newest()
        try:
            stored = await self._in_thread(self._replica.store, path, attempt)
        except BaseException:
            if queue.newest is None:
                queue.newest = path
            else:
                self._pass_over(queue, path)
            raise
        self._has_come(trial_id, path, stored)
        # Dropped before it was linked: one that came after it is on its way here.
        queue.is_behind = stored is UploadOutcome.GONE
        self._skipped += queue.is_behind

    async def _send_results(self, trial_id: str, queue: TrialQueue) -> None:
        trial = self._state.trials[trial_id]
        exported, final = list(trial.exported.values()), trial.status.is_final
        try:
            await self._in_thread(self._replica.send_files, trial_id, exported, final)
        except BaseException:
            queue.results = True
            raise
        if final and queue.is_done:
            self._replica.forget(trial_id)

    async def _send_journal(self) -> None:
        """Upload the journal at short intervals, and at the end; look after what is to be tried again."""
        ticks = 0
        while True:
            # Twice in the time that a row may wait, so that it is there before that is over.
            with anyio.move_on_after(self._interval_s / 2):
                await self._closing.wait()
            is_last = self._closing.is_set()
            try:
                while self._replica.segments.end < self._journal.shown_end:
                    end = self._journal.shown_end
                    await self._in_thread(self._replica.send_journal, self._journal.path, end)
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
            for trial_id, queue in self._queues.items():
                if ticks % _RESULTS_EVERY == 0 and not self._state.trials[trial_id].status.is_final:
                    queue.results = True
                if not queue.is_idle:
                    self._queue(trial_id)

    def _let_go(self) -> None:
        """Have those checkpoints removed of which the journal there says that nothing needs them."""
        for trial_id, path in self.retention.due(self._replica.segments.end):
            self._queue_of(trial_id).dropped.append(self._path(path))
            self._queue(trial_id)

    async def _take_note(self, what: str, error: Exception) -> None:
        is_first = not self._failed
        self._failed[what] = error
        self._is_down |= is_down(error)
        if is_first and not self._closing.is_set():
            await log_warning("an upload failed and is tried again; training goes on: %s", error)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await anyio.to_thread.run_sync(
            function, *args, limiter=self._limiter, abandon_on_cancel=True
        )
