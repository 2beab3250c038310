"""Uploads in the background; training never waits for an upload."""

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

_NUM_WORKERS = 4
_FILES_EVERY = 24
"""Half intervals between two uploads of a running trial's logs. Rare, since the journal holds the rows."""
_JOURNAL = "journal"
"""The key of the journal among the failures; the other keys are trial ids."""


class Uploader:
    """Uploader of a run: of the journal at short intervals, of checkpoints and logs as they appear.

    At most one checkpoint of a trial is being uploaded, and one waits. A newer one replaces the waiting
    one, which counts as skipped. So the last checkpoint of a trial is never skipped. A failed upload is
    retried at the next interval. After the end of the run there is no retry: the run raises the error.

    Args:
        replica: The remote copy of the experiment.
        journal: The journal of the run.
        state: The state of the run.
        directory: The directory of the experiment.
        interval_s: The longest time from a row to its upload with the journal, in seconds.
        keeps_few: Whether only some checkpoints of a trial are kept.
        self_uploading: Whether the trainable uploads its checkpoints itself.
        say: An async function that prints a line for the user.
        logs_may_lag: Whether logs of previous runs may not be uploaded yet.

    Attributes:
        retention: The pending deletions of remote checkpoints.
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
        self_uploading: bool,
        say: Callable[[str], Awaitable[None]],
        logs_may_lag: bool = False,
    ) -> None:
        self._replica = replica
        self._journal = journal
        self._state = state
        self._directory = directory
        self._interval_s = interval_s
        self._self_uploading = self_uploading
        self._keeps_few = keeps_few
        self._say = say
        self._logs_may_lag = logs_may_lag
        self._queues: dict[str, TrialQueue] = {}
        self.retention = RemoteRetention()
        self._failed: dict[str, Exception] = {}
        self._committed = self._skipped = 0
        self._has_watched_all = self._has_uploaded_last = self._is_down = self._run_failed = False
        self._closing = anyio.Event()
        self._changed = anyio.Event()
        # Shielded: a cancelled run too uploads the rest, within the deadline of limit_drain().
        self._drain = anyio.CancelScope(shield=True)
        self._limiter = anyio.CapacityLimiter(_NUM_WORKERS + 1)  # the workers and the journal
        self._send, self._receive = anyio.create_memory_object_stream[str](math.inf)

    @property
    def stats(self) -> UploadStats:
        """The statistics of the uploads so far."""
        error = next(iter(self._failed.values()), None)
        return UploadStats(
            url=self._replica.url,
            committed=self._committed,
            skipped=self._skipped,
            waiting=sum(queue.waiting for queue in self._queues.values()),
            journal_bytes=self._replica.journal.end,
            error=str(error) if error is not None else None,
        )

    def limit_drain(self, seconds: float) -> None:
        """Limit the time from now on for the remaining uploads at the end of the run."""
        self._drain.deadline = min(self._drain.deadline, anyio.current_time() + seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Upload while the block runs, and upload the rest at its end.

        Raises:
            ExperimentLocked: Another driver has taken over the experiment; this ends the block.
            Fenced: Another writer has saved checkpoints of one of the trials.
            StorageError: Not everything could be uploaded; the local directory is complete.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run_task, self._watch, self._journal.follow_new())
                tasks.start_soon(self._run_task, self._upload_journal)
                for _ in range(_NUM_WORKERS):
                    tasks.start_soon(self._run_task, self._work)
                self._catch_up()
                try:
                    yield
                except BaseException:
                    self._run_failed = True
                    raise
                finally:
                    try:
                        # A cancelled scope means that a task of the uploader has failed.
                        if not tasks.cancel_scope.cancel_called:
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

    async def _run_task(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task of the uploader. If it fails, cancel the drain, whose shield would delay the error."""
        try:
            await function(*args)
        except BaseException:
            self._drain.cancel()
            raise

    async def _finish(self) -> None:
        with self._drain:
            while self._journal.ended and not self._has_watched_all:
                await self._changed.wait()
            self._failed.clear()
            self._is_down = False
            self._closing.set()
            if (waiting := self.stats.waiting) > 0:
                await self._say(f"waiting for {waiting} checkpoints to be uploaded")
            for trial_id, queue in self._queues.items():
                queue.files_due = True
                self._enqueue(trial_id)
            # Each queue is awaited once, instead of all after every change: there may be many thousands.
            for queue in list(self._queues.values()):
                while not (queue.is_idle or self._gave_up):
                    await self._changed.wait()
            self.retention.close()
            while not (self._is_complete or self._gave_up):
                await self._changed.wait()
            await self._say(f"uploads: {self.stats}")
        # running() raises the error itself, unless the error of the run is being raised.
        if self._run_failed and not self._is_complete:
            await log_warning("%s", self._incomplete())

    @property
    def _is_complete(self) -> bool:
        behind = self._replica.journal.end < self._journal.visible_end or self.retention
        return not (behind or self._failed) and all(
            queue.is_idle for queue in self._queues.values()
        )

    @property
    def _gave_up(self) -> bool:
        queues = self._queues.values()
        return (
            bool(self._failed)
            and self._has_uploaded_last
            and not any(x.busy or x.queued for x in queues)
        )

    def _incomplete(self) -> StorageError:
        return incomplete_error(
            self.stats, self._directory, next(iter(self._failed.values()), None)
        )

    # -- the events -------------------------------------------------------------------------------

    async def _watch(self, events: Follower) -> None:
        async for event in events:
            match event:
                case ev.Checkpointed():
                    self.retention.on_saved(event.trial_id, event.path)
                    self._queue_of(event.trial_id).keep(self._path(checkpoint_of(event.path)))
                    if self._self_uploading:
                        self._on_uploaded(
                            event.trial_id, self._path(event.path), UploadOutcome.COMMITTED
                        )
                    else:
                        self._offer(event.trial_id, event.path)
                case ev.Exploited():
                    self.retention.on_exploited(event.trial_id, event.checkpoint)
                    if not self._self_uploading:
                        self._require(self._path(event.checkpoint))
                case ev.CheckpointDropped():
                    self._queue_of(event.trial_id).skipped.pop(self._path(event.path), None)
                    self.retention.on_dropped(event.trial_id, event.path, self._journal.visible_end)
                case ev.TrialEnded() | ev.TrialPaused():
                    if isinstance(event, ev.TrialEnded):
                        self.retention.on_ended(event.trial_id)
                    # Not enqueued before the next interval, since loggers write a little later.
                    self._queue_of(event.trial_id).files_due = True
                case ev.TrialAdded() | ev.TrialStarted():
                    self._queue_of(event.trial_id)
                case _:
                    pass
        self._has_watched_all = True
        self._notify()

    def _catch_up(self) -> None:
        """Enqueue the uploads that previous runs may not have finished: kept checkpoints, and logs."""
        for trial in self._state.trials.values():
            queue = self._queue_of(trial.trial_id)
            queue.files_due = self._logs_may_lag or not trial.status.is_final
            self.retention.add_trial(trial, is_uploaded=self._self_uploading)
            kept = trial.checkpoints if self._keeps_few else trial.checkpoints[-1:]
            for checkpoint in () if self._self_uploading else kept:
                self._require(checkpoint.path)

    def _require(self, path: str) -> None:
        """Enqueue a checkpoint that must not be skipped, in the queue of the trial that saved it."""
        owner = os.path.relpath(path, self._directory).partition(os.sep)[0]
        self._queue_of(owner).required.append(path)
        self._enqueue(owner)

    def _offer(self, trial_id: str, path: str) -> None:
        queue = self._queue_of(trial_id)
        if queue.newest is not None:
            self._skip(queue, queue.newest)
        queue.newest = self._path(path)
        self._enqueue(trial_id)

    def _skip(self, queue: TrialQueue, path: str) -> None:
        self._skipped += 1
        if self._keeps_few:
            queue.skipped[path] = None

    def _on_uploaded(self, trial_id: str, path: str, outcome: UploadOutcome) -> None:
        self._committed += outcome is UploadOutcome.COMMITTED
        stored = os.path.relpath(path, self._directory)
        if outcome is not UploadOutcome.DELETED and self.retention.on_uploaded(trial_id, stored):
            self._enqueue_deletions()

    def _path(self, stored: str) -> str:
        return os.path.join(self._directory, stored)

    def _queue_of(self, trial_id: str) -> TrialQueue:
        return self._queues.setdefault(trial_id, TrialQueue())

    def _enqueue(self, trial_id: str) -> None:
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
            if queue.busy:  # its worker empties the queue before it ends
                continue
            queue.busy = True
            try:
                await self._empty(trial_id, queue)
            except Fenced as exc:
                # The likely cause is another driver, whose process and machine its segment names.
                journal = self._replica.journal
                raise await self._in_thread(journal.takeover_error) or exc from exc
            except (TuneError, OSError) as exc:
                await self._record_failure(trial_id, exc)
            finally:
                queue.busy = False
                self._notify()

    async def _empty(self, trial_id: str, queue: TrialQueue) -> None:
        """Do all waiting work of a trial: uploads first, so that a failure deletes nothing."""
        # After the end of the run no upload is retried, and none begins if the storage does not answer.
        while not (self._closing.is_set() and (self._is_down or trial_id in self._failed)):
            trial = self._state.trials[trial_id]
            attempt = trial.attempt
            if queue.required:
                path = queue.required[0]
                outcome = await self._in_thread(
                    partial(self._replica.upload, check_first=True), path, attempt
                )
                del queue.required[0]
                self._on_uploaded(trial_id, path, outcome)
            elif queue.newest is not None:
                await self._upload_newest(trial_id, queue, attempt)
            elif queue.dropped:
                dropped = queue.dropped[0]
                if not queue.awaits_newer:
                    await self._in_thread(
                        self._replica.delete, dropped, attempt, self._self_uploading
                    )
                if dropped in queue.dropped:  # else the trial saved the checkpoint again
                    queue.dropped.remove(dropped)
            elif queue.skipped and trial.status.is_final:
                kept = {checkpoint.path for checkpoint in trial.checkpoints}
                self._skipped -= queue.require_skipped(kept)
            elif queue.files_due:
                queue.files_due = False
                await self._upload_files(trial_id, queue)
            else:
                self._failed.pop(trial_id, None)
                return

    async def _upload_newest(self, trial_id: str, queue: TrialQueue, attempt: int) -> None:
        path = queue.pop_newest()
        try:
            outcome = await self._in_thread(self._replica.upload, path, attempt)
        except BaseException:
            if queue.newest is None:
                queue.newest = path
            else:
                self._skip(queue, path)
            raise
        self._on_uploaded(trial_id, path, outcome)
        # The trial deleted the checkpoint before its files were linked, so the event of a newer checkpoint
        # is about to arrive.
        queue.awaits_newer = outcome is UploadOutcome.DELETED
        self._skipped += queue.awaits_newer

    async def _upload_files(self, trial_id: str, queue: TrialQueue) -> None:
        trial = self._state.trials[trial_id]
        exported, final = list(trial.exported.values()), trial.status.is_final
        try:
            await self._in_thread(self._replica.upload_files, trial_id, exported, final)
        except BaseException:
            queue.files_due = True
            raise
        if final and queue.is_done:
            self._replica.release(trial_id)

    async def _upload_journal(self) -> None:
        """Upload the journal at short intervals and at the end. Enqueue waiting work and retries."""
        ticks = 0
        while True:
            # Half the interval: the wait and the upload together stay within the interval.
            with anyio.move_on_after(self._interval_s / 2):
                await self._closing.wait()
            is_last = self._closing.is_set()
            try:
                while self._replica.journal.end < self._journal.visible_end:
                    end = self._journal.visible_end
                    await self._in_thread(self._replica.upload_journal, self._journal.path, end)
                self._failed.pop(_JOURNAL, None)
                self._enqueue_deletions()
            except ExperimentLocked:
                raise
            except (TuneError, OSError) as exc:
                await self._record_failure(_JOURNAL, exc)
            self._has_uploaded_last = is_last
            self._notify()
            if is_last:
                return
            ticks += 1
            for trial_id, queue in self._queues.items():
                if ticks % _FILES_EVERY == 0 and not self._state.trials[trial_id].status.is_final:
                    queue.files_due = True
                if not queue.is_idle:
                    self._enqueue(trial_id)

    def _enqueue_deletions(self) -> None:
        """Enqueue the deletion of the checkpoints that the uploaded journal has dropped."""
        for trial_id, path in self.retention.due(self._replica.journal.end):
            self._queue_of(trial_id).dropped.append(self._path(path))
            self._enqueue(trial_id)

    async def _record_failure(self, key: str, error: Exception) -> None:
        is_first = not self._failed
        self._failed[key] = error
        self._is_down |= is_down(error)
        if is_first and not self._closing.is_set():
            await log_warning("an upload failed and will be retried; training continues: %s", error)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await anyio.to_thread.run_sync(
            function, *args, limiter=self._limiter, abandon_on_cancel=True
        )
