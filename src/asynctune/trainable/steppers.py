"""Steppers run a function from one report to the next; one class for each form of function.

A stepper returns the reports of the function one by one, then one :class:`FunctionEnd`.
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
    """The call of a function in a trial, as a stepper needs it.

    Args:
        call: A callable that passes the config and, if the function takes one, the reporter.
        checkpoint: The checkpoint from which the function begins.
        trial_id: The id of the trial.
        trial_name: The name of the trial.
        logdir: The directory of the trial.
        own_process: Whether no other trial runs in this process, so that threads of the function can
            belong only to this trial.
    """

    call: Callable[[Session], Any]
    checkpoint: Checkpoint | None
    trial_id: str | None
    trial_name: str | None
    logdir: str
    own_process: bool = False

    def reporter(self, results: Any, permits: Any) -> StatusReporter:
        """Create and start the reporter of this call."""
        reporter = StatusReporter(results, permits, self.trial_name, self.trial_id, self.logdir)
        reporter.start(self.checkpoint)
        if self.own_process:
            ProcessSession.current = reporter
        return reporter

    def no_reports(self) -> Session:
        """Create the session of a generator, which yields its results."""
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
    """Runs a plain function in its own thread."""

    def __init__(self, function_call: FunctionCall) -> None:
        self._results: queue.Queue[Any] = queue.Queue(1)
        self._permits = threading.Semaphore(0)
        self._reporter = function_call.reporter(self._results, self._permits)
        self._function_call = function_call
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
                name=f"asynctune function {self._function_call.trial_id or ''}",
                daemon=True,  # a function that ignores its stop must not keep the process alive
            ).start()
        return self._results.get()

    def stop(self, grace_s: float) -> FunctionEnd | None:
        self._reporter.stop()
        deadline = time.monotonic() + grace_s
        while True:  # other threads of the function may still put reports before the end
            try:
                item = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(item, FunctionEnd):
                return item

    def _run(self) -> None:
        try:
            end = FunctionEnd(value=self._function_call.call(self._reporter))
        except BaseException as exc:  # a thread would otherwise swallow the user's SystemExit
            end = FunctionEnd(error=exc)
        self._results.put(end)


class GeneratorStepper:
    """Runs a generator in the thread that calls ``train()``."""

    def __init__(self, function_call: FunctionCall) -> None:
        no_reports = function_call.no_reports()
        self._context = contextvars.copy_context()
        self._context.run(session.set, no_reports)
        self._generator: Generator[Any, None, Any] = self._context.run(
            function_call.call, no_reports
        )

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
    """Runs a coroutine function in its own task.

    The task lives from the first ``train()`` to the end of the function or ``stop()``, over several
    calls of the trainable. So the stepper owns the task; a task group cannot.
    """

    def __init__(self, function_call: FunctionCall) -> None:
        self._results: asyncio.Queue[Any] = asyncio.Queue(1)
        self._permits = asyncio.Semaphore(0)
        self._reporter = function_call.reporter(self._results, self._permits)
        self._function_call = function_call
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
        """Cancel the function. A function that swallows its cancellation is abandoned."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_S)

    async def _run(self) -> None:
        try:
            value = await self._function_call.call(self._reporter)
            self._reporter.refuse_unawaited(at_end=True)
            self._finish(FunctionEnd(value=value))
        except asyncio.CancelledError as exc:
            self._finish(FunctionEnd(error=exc))
            raise
        except BaseException as exc:
            self._finish(FunctionEnd(error=exc))

    def _finish(self, outcome: FunctionEnd) -> None:
        self._outcome = outcome
        # Never wait for room: next() and stop() return the outcome from the attribute too.
        if not self._results.full():
            self._results.put_nowait(outcome)


class AsyncGeneratorStepper:
    """Runs an async generator in the task that calls ``train()``."""

    def __init__(self, function_call: FunctionCall) -> None:
        self._session = function_call.no_reports()
        self._generator: AsyncGenerator[Any, None] = function_call.call(self._session)

    async def next(self) -> Any:
        return await self._await_in_session(anext(self._generator))

    async def stop(self, grace_s: float) -> FunctionEnd | None:
        try:
            async with asyncio.timeout(grace_s):
                end = await self._await_in_session(self._generator.aclose())
        except TimeoutError:
            return None
        return end or FunctionEnd()

    async def _await_in_session(self, awaitable: Awaitable[Any]) -> Any:
        """Await a step of the generator in the session of its trial."""
        token = session.set(self._session)
        try:
            return await awaitable
        except StopAsyncIteration:
            return FunctionEnd()
        except BaseException as exc:
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the task was cancelled from outside; the generator did not raise by itself
            return FunctionEnd(error=exc)
        finally:
            session.reset(token)
