"""StatusReporter: a queue of results and a semaphore that raises when a stop is signalled.

A report is a rendezvous. The function puts its metrics into a queue of size one, then waits at a
semaphore, so the function does not run while the scheduler decides. A stop is a flag and a permit,
never an exception passed through a future.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any

from asynctune import result as _result
from asynctune.errors import (
    TrialStopAsyncIteration,
    TrialStopIteration,
    TrialStopped,
    TuneError,
)
from asynctune.result import Row
from asynctune.trainable.session import Checkpoint

_STOPPED = "the trial was stopped"


class StatusReporter:
    """The object through which a function reports its results.

    The same class works with threading primitives (``queue.Queue(1)``, ``threading.Semaphore(0)``), for
    plain functions, and with asyncio primitives (``asyncio.Queue(1)``, ``asyncio.Semaphore(0)``), for
    ``async def``. The reader of the queue releases the semaphore to continue the function, or calls
    :meth:`stop`.

    Args:
        result_queue: The queue that receives one dict per report.
        continue_semaphore: The semaphore that grants one permit per report.
        trial_name: The name of the trial.
        trial_id: The id of the trial.
        logdir: The directory of the trial.

    Raises:
        TypeError: One of queue and semaphore is of asyncio and the other is not.
    """

    def __init__(
        self,
        result_queue: queue.Queue[Any] | asyncio.Queue[Any],
        continue_semaphore: threading.Semaphore | asyncio.Semaphore,
        trial_name: str | None = None,
        trial_id: str | None = None,
        logdir: str | None = None,
    ) -> None:
        if isinstance(result_queue, asyncio.Queue) != isinstance(
            continue_semaphore, asyncio.Semaphore
        ):
            raise TypeError(
                "result_queue and continue_semaphore of StatusReporter must both be of asyncio, or of "
                f"queue and threading, got {_class_name(result_queue)} and "
                f"{_class_name(continue_semaphore)}"
            )
        self._queue = result_queue
        self._semaphore = continue_semaphore
        self._trial_name = trial_name
        self._trial_id = trial_id
        self._logdir = logdir
        self._checkpoint: Checkpoint | None = None
        self._stopped = False
        self._last_report = time.monotonic()
        self._unawaited: list[_PendingReport] = []

    def __call__(self, /, **metrics: Any) -> Awaitable[None] | None:
        """Report metrics, and wait for the decision of the scheduler.

        Args:
            **metrics: The metrics; ``done=True`` ends the trial with this report. ``checkpoint`` is a
                dict or the path of a directory, from which the function can continue later.

        Returns:
            None, or in ``async def`` an awaitable, which must be awaited.

        Raises:
            TrialStopped: The trial was stopped: a ``StopIteration``, or with asyncio primitives a
                ``StopAsyncIteration``.
            TuneError: An ``async def`` function reported from a thread, or did not await a report.
        """
        if isinstance(self._queue, asyncio.Queue):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                raise TuneError(
                    "an `async def` function reported from a thread; report from the loop of the function"
                ) from None
            self.refuse_unawaited()
            pending = _PendingReport(lambda: self._report_async(metrics))
            self._unawaited.append(pending)
            return pending
        self._report(metrics)
        return None

    def stop(self) -> None:
        """Signal the stop. The pending report and each later one raise ``TrialStopped``."""
        self._stopped = True
        self._semaphore.release()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint to begin from: a dict or the path of a directory; None if there is none."""
        return self._checkpoint

    @property
    def trial_name(self) -> str | None:
        """The name of the trial."""
        return self._trial_name

    @property
    def trial_id(self) -> str | None:
        """The id of the trial."""
        return self._trial_id

    @property
    def logdir(self) -> str | None:
        """The directory of the trial."""
        return self._logdir

    def start(self, checkpoint: Checkpoint | None = None) -> None:
        """Set the checkpoint, and start to measure the time until the first report."""
        self._checkpoint = checkpoint
        self._last_report = time.monotonic()

    def _report(self, metrics: Mapping[str, Any]) -> None:
        assert isinstance(self._queue, queue.Queue)
        self._raise_if_stopped(TrialStopIteration)
        self._queue.put(self._with_time(metrics))
        self._semaphore.acquire()
        self._last_report = time.monotonic()
        self._raise_if_stopped(TrialStopIteration)

    async def _report_async(self, metrics: Mapping[str, Any]) -> None:
        assert isinstance(self._queue, asyncio.Queue)
        assert isinstance(self._semaphore, asyncio.Semaphore)
        self._raise_if_stopped(TrialStopAsyncIteration)
        await self._queue.put(self._with_time(metrics))
        await self._semaphore.acquire()
        self._last_report = time.monotonic()
        self._raise_if_stopped(TrialStopAsyncIteration)

    def _with_time(self, metrics: Mapping[str, Any]) -> Row:
        row = dict(metrics)
        if row.get(_result.TIME_THIS_ITER_S) is None:
            row[_result.TIME_THIS_ITER_S] = time.monotonic() - self._last_report
        return row

    def _raise_if_stopped(self, kind: type[TrialStopped]) -> None:
        if self._stopped:
            self._semaphore.release()  # wake the next waiting thread or task of the same function
            raise kind(_STOPPED)

    def refuse_unawaited(self, *, at_end: bool = False) -> None:
        """Raise if a report was never awaited.

        ``gather(reporter(a=1), reporter(a=2))`` creates two reports before it awaits either, so a report
        counts as forgotten only after the loop has run once more, or after the function has ended.

        Args:
            at_end: Whether the function has ended.

        Raises:
            TuneError: A report was not awaited.
        """
        self._unawaited = [pending for pending in self._unawaited if not pending.started]
        if any(at_end or pending.loop_has_run for pending in self._unawaited):
            self._unawaited.clear()
            raise TuneError(
                "a report was not awaited; in `async def` write `await reporter(...)`, "
                "`await tune.report(...)` or `await track.log(...)`"
            )


class _PendingReport(Coroutine[Any, Any, None]):
    """A report in ``async def``: a coroutine that records whether it was awaited.

    The inner coroutine is created on the first await. So a forgotten report is an error of the reporter
    only, without an additional warning of the interpreter.
    """

    def __init__(self, report: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._report = report
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self.loop_has_run = False
        loop = asyncio.get_running_loop()
        # Twice, since a task that the caller creates now to await this report starts in between.
        loop.call_soon(lambda: loop.call_soon(self._mark))

    @property
    def started(self) -> bool:
        return self._coroutine is not None

    def _mark(self) -> None:
        self.loop_has_run = True

    def _start(self) -> Coroutine[Any, Any, None]:
        if self._coroutine is None:
            self._coroutine = self._report()
        return self._coroutine

    def send(self, value: Any) -> Any:
        return self._start().send(value)

    def throw(self, *args: Any) -> Any:
        return self._start().throw(*args)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._start().__await__()


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
