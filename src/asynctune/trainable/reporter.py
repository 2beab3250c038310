"""StatusReporter: an asynchronous queue with a continue-semaphore that raises when stop is signalled.

A report is a rendezvous. The function puts its metrics into a queue that holds one, then waits at a
semaphore. Nothing of it runs while it is being decided how its trial goes on, and a stop is a flag and
a permit, never an exception that travels through a future.
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

_STOPPED = "the trial was told to stop"


class StatusReporter:
    """What a function reports through.

    One class over threaded primitives (``queue.Queue(1)``, ``threading.Semaphore(0)``), for plain
    functions, and over asyncio's (``asyncio.Queue(1)``, ``asyncio.Semaphore(0)``), for ``async def``.
    Whoever reads the queue releases the semaphore to let the function go on, or calls :meth:`stop`.

    Args:
        result_queue: Takes one dict a report.
        continue_semaphore: Gives one permit a report.
        trial_name: The name of the trial.
        trial_id: Its id.
        logdir: Its directory.
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
                "StatusReporter was given a queue and a semaphore of different kinds; both come from "
                "asyncio, or from queue and threading"
            )
        self._queue = result_queue
        self._semaphore = continue_semaphore
        self._trial_name = trial_name
        self._trial_id = trial_id
        self._logdir = logdir
        self._checkpoint: Checkpoint | None = None
        self._stopped = False
        self._last_report = time.monotonic()
        self._unawaited: list[_Pending] = []

    def __call__(self, /, **metrics: Any) -> Awaitable[None] | None:
        """Report metrics, and wait until it was decided how to go on.

        Args:
            **metrics: The metrics; ``done=True`` ends the trial with this report. ``checkpoint`` is a
                dict or the path of a directory to begin from later.

        Returns:
            None, or in ``async def`` an awaitable, which must be awaited.

        Raises:
            TrialStopped: The trial was told to stop: a ``StopIteration``, or over asyncio primitives
                a ``StopAsyncIteration``.
        """
        if isinstance(self._queue, asyncio.Queue):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                raise TuneError(
                    "an `async def` function reported from a thread; report from its own loop"
                ) from None
            self.refuse_unawaited()
            pending = _Pending(lambda: self._report_async(metrics))
            self._unawaited.append(pending)
            return pending
        self._report(metrics)
        return None

    def stop(self) -> None:
        """Signal the stop: the pending report raises it, and so does each later one."""
        self._stopped = True
        self._semaphore.release()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint to begin from: a dict, or the path of a directory; None at first."""
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
        """Begin: time counts from here, and a function finds this checkpoint."""
        self._checkpoint = checkpoint
        self._last_report = time.monotonic()

    def _report(self, metrics: Mapping[str, Any]) -> None:
        assert isinstance(self._queue, queue.Queue)
        self._raise_if_stopped(TrialStopIteration)
        self._queue.put(self._timed(metrics))
        self._semaphore.acquire()
        self._last_report = time.monotonic()
        self._raise_if_stopped(TrialStopIteration)

    async def _report_async(self, metrics: Mapping[str, Any]) -> None:
        assert isinstance(self._queue, asyncio.Queue)
        assert isinstance(self._semaphore, asyncio.Semaphore)
        self._raise_if_stopped(TrialStopAsyncIteration)
        await self._queue.put(self._timed(metrics))
        await self._semaphore.acquire()
        self._last_report = time.monotonic()
        self._raise_if_stopped(TrialStopAsyncIteration)

    def _timed(self, metrics: Mapping[str, Any]) -> Row:
        row = dict(metrics)
        if row.get(_result.TIME_THIS_ITER_S) is None:
            row[_result.TIME_THIS_ITER_S] = time.monotonic() - self._last_report
        return row

    def _raise_if_stopped(self, kind: type[TrialStopped]) -> None:
        if self._stopped:
            self._semaphore.release()  # for another thread or task of the same function that waits
            raise kind(_STOPPED)

    def refuse_unawaited(self, *, at_end: bool = False) -> None:
        """Raise if a report was made and forgotten.

        ``gather(reporter(a=1), reporter(a=2))`` makes two before it awaits either, so a report is
        forgotten only once the loop has come round after it, or the function has ended.
        """
        self._unawaited = [pending for pending in self._unawaited if not pending.started]
        if any(at_end or pending.loop_came_round for pending in self._unawaited):
            self._unawaited.clear()
            raise TuneError(
                "a report was not awaited; in `async def` write `await reporter(...)`, "
                "`await tune.report(...)` or `await track.log(...)`"
            )


class _Pending(Coroutine[Any, Any, None]):
    """A report in ``async def``: a coroutine that knows whether it was awaited.

    The coroutine behind it is made when it is awaited, so that one that is forgotten is told of once,
    by the reporter, and not by the interpreter too.
    """

    def __init__(self, report: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._report = report
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self.loop_came_round = False
        loop = asyncio.get_running_loop()
        # Twice: a task that was made for this report right after it starts in between.
        loop.call_soon(lambda: loop.call_soon(self._mark))

    @property
    def started(self) -> bool:
        return self._coroutine is not None

    def _mark(self) -> None:
        self.loop_came_round = True

    def _begun(self) -> Coroutine[Any, Any, None]:
        if self._coroutine is None:
            self._coroutine = self._report()
        return self._coroutine

    def send(self, value: Any) -> Any:
        return self._begun().send(value)

    def throw(self, *args: Any) -> Any:
        return self._begun().throw(*args)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._begun().__await__()
