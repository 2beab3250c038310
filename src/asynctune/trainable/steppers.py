"""Steppers: how a function is run from one report to the next, one class for each form of function.

A stepper returns what the function reports, item by item, then one :class:`FunctionEnd`.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

from asynctune.trainable.reporter import StatusReporter
from asynctune.trainable.session import Checkpoint, NoReports, ProcessSession, Session, session

_CANCEL_S = 0.5


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """What a feed needs to know of its trainable.

    Args:
        call: Calls the function with its config and, if it takes one, the given reporter.
        checkpoint: What the function begins from.
        trial_id: The trial.
        trial_name: Its name.
        logdir: Its directory.
        own_process: Whether threads that the function starts can mean no other trial.
    """

    call: Callable[[Session], Any]
    checkpoint: Checkpoint | None
    trial_id: str | None
    trial_name: str | None
    logdir: str
    own_process: bool = False

    def reporter(self, results: Any, permits: Any) -> StatusReporter:
        made = StatusReporter(results, permits, self.trial_name, self.trial_id, self.logdir)
        made.start(self.checkpoint)
        if self.own_process:
            ProcessSession.current = made
        return made

    def no_reports(self) -> Session:
        return NoReports(
            self.trial_id,
            self.trial_name,
            self.logdir,
            self.checkpoint,
            instead="a generator yields its results",
        )


@dataclass(frozen=True, slots=True)
class FunctionEnd:
    """The end of a function: the exception that it raised, or the value that it returned."""

    error: BaseException | None = None
    value: Any = None


class ThreadStepper:
    """A plain function in a thread of its own."""

    def __init__(self, feeding: FunctionCall) -> None:
        self._results: queue.Queue[Any] = queue.Queue(1)
        self._permits = threading.Semaphore(0)
        self._reporter = feeding.reporter(self._results, self._permits)
        self._feeding = feeding
        self._started = False

    def next(self) -> Any:
        if self._started:
            self._permits.release()
        else:
            self._started = True
            context = contextvars.copy_context()
            context.run(session.set, self._reporter)
            threading.Thread(
                target=context.run,
                args=(self._run,),
                name=f"asynctune function {self._feeding.trial_id or ''}",
                daemon=True,
            ).start()
        return self._results.get()

    def stop(self, grace_s: float) -> FunctionEnd | None:
        self._reporter.stop()
        deadline = time.monotonic() + grace_s
        while True:  # a thread of the user's that was already reporting comes before the end
            try:
                item = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(item, FunctionEnd):
                return item

    def _run(self) -> None:
        try:
            ended = FunctionEnd(value=self._feeding.call(self._reporter))
        except BaseException as exc:  # also the user's SystemExit: it is delivered, not lost
            ended = FunctionEnd(error=exc)
        self._results.put(ended)


class GeneratorStepper:
    """A generator, driven from the thread that calls ``train()``."""

    def __init__(self, feeding: FunctionCall) -> None:
        no_reports = feeding.no_reports()
        self._context = contextvars.copy_context()
        self._context.run(session.set, no_reports)
        self._generator: Generator[Any, None, Any] = self._context.run(feeding.call, no_reports)

    def next(self) -> Any:
        try:
            return self._context.run(next, self._generator)
        except StopIteration as stop:
            return FunctionEnd(value=stop.value)
        except BaseException as exc:
            return FunctionEnd(error=exc)

    def stop(self, grace_s: float) -> FunctionEnd:
        try:
            self._context.run(self._generator.close)
        except BaseException as exc:
            return FunctionEnd(error=exc)
        return FunctionEnd()


class TaskStepper:
    """A coroutine function in a task of its own.

    The task lives from the first ``train()`` to the end of the function or ``stop()``, over several
    calls of the trainable, so this object owns it and no task group can.
    """

    def __init__(self, feeding: FunctionCall) -> None:
        self._results: asyncio.Queue[Any] = asyncio.Queue(1)
        self._permits = asyncio.Semaphore(0)
        self._reporter = feeding.reporter(self._results, self._permits)
        self._feeding = feeding
        self._task: asyncio.Task[None] | None = None
        self._outcome: FunctionEnd | None = None

    async def next(self) -> Any:
        if self._task is None:
            context = contextvars.copy_context()
            context.run(session.set, self._reporter)
            self._task = asyncio.get_running_loop().create_task(self._run(), context=context)
        elif self._outcome is not None and self._results.empty():
            return self._outcome
        else:
            self._permits.release()
        return await self._results.get()

    async def stop(self, grace_s: float) -> FunctionEnd | None:
        assert self._task is not None
        self._reporter.stop()
        done, _ = await asyncio.wait([self._task], timeout=grace_s)
        if not done:
            await self.cancel()
            return None
        return self._outcome

    async def cancel(self) -> None:
        """Cancel the function. One that swallows its cancellation as well is left behind."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_S)

    async def _run(self) -> None:
        try:
            value = await self._feeding.call(self._reporter)
            self._reporter.refuse_unawaited(at_end=True)
            self._end(FunctionEnd(value=value))
        except asyncio.CancelledError as exc:
            self._end(FunctionEnd(error=exc))
            raise
        except BaseException as exc:
            self._end(FunctionEnd(error=exc))

    def _end(self, outcome: FunctionEnd) -> None:
        self._outcome = outcome
        if not self._results.full():
            self._results.put_nowait(outcome)


class AsyncGeneratorStepper:
    """An async generator, driven from the task that calls ``train()``."""

    def __init__(self, feeding: FunctionCall) -> None:
        self._session = feeding.no_reports()
        self._generator: AsyncGenerator[Any, None] = feeding.call(self._session)

    async def next(self) -> Any:
        return await self._within(anext(self._generator))

    async def stop(self, grace_s: float) -> FunctionEnd | None:
        try:
            async with asyncio.timeout(grace_s):
                ended = await self._within(self._generator.aclose())
        except TimeoutError:
            return None
        return ended or FunctionEnd()

    async def _within(self, awaitable: Awaitable[Any]) -> Any:
        """Await a step of the generator in the session of its trial."""
        token = session.set(self._session)
        try:
            return await awaitable
        except StopAsyncIteration:
            return FunctionEnd()
        except BaseException as exc:
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            return FunctionEnd(error=exc)
        finally:
            session.reset(token)
