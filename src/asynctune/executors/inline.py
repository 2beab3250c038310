"""Trials in this process: asynchronous code on the caller's loop, synchronous code in threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread

from asynctune._checks import check_int
from asynctune._threads import log_warning, thread_limiter
from asynctune.executors.actor import Actor, ActorSpec
from asynctune.executors.base import Executor
from asynctune.executors.host import TrainableHost, trainable_context
from asynctune.executors.pool import ResourcePool
from asynctune.executors.serialization import SerializedTrainable, serialize
from asynctune.storage.filesystem import storage_error
from asynctune.trainable.base import Trainable
from asynctune.trainable.function import AsyncFunctionTrainable
from asynctune.trainable.session import session
from asynctune.trainable.worker.calls import (
    Answer,
    AnswerKind,
    build,
    class_session,
    describe,
    perform,
)

_T = TypeVar("_T")
_CANCEL_S = 1.0
_THREADS = 256
"""The least number of threads for the synchronous hooks of asynchronous trainables."""


class InlineExecutor(Executor):
    """Trains in this process; nothing is pickled.

    A function or class with ``async def`` runs on the caller's loop, with thousands of others; its
    synchronous hooks run in threads. A trainable without ``async def`` runs in a thread of its own.
    CPUs are not counted, the working directory is that of the process, and output is not captured.
    Synchronous code cannot be killed: if it exceeds a time limit, the executor abandons the thread and
    logs a warning.

    Args:
        max_concurrency: The maximum number of trials at once; None for no limit.

    Raises:
        ConfigError: ``max_concurrency`` is not a positive int.
    """

    def __init__(self, max_concurrency: int | None = None) -> None:
        if max_concurrency is not None:
            max_concurrency = check_int("InlineExecutor", "max_concurrency", max_concurrency, 1)
        super().__init__(ResourcePool(math.inf, slots=max_concurrency))
        self._threads = max(_THREADS, max_concurrency or 0)
        self._limiter: anyio.CapacityLimiter | None = None

    async def __aenter__(self) -> Self:
        self._limiter = thread_limiter(self._threads)
        return await super().__aenter__()

    def prepare(self, trainable: Any) -> SerializedTrainable:
        return serialize(trainable, pickled=False)

    async def _start(self, spec: ActorSpec) -> Actor:
        try:
            await anyio.to_thread.run_sync(lambda: os.makedirs(spec.logdir, 0o700, exist_ok=True))
        except OSError as exc:
            raise storage_error(exc, f"{spec.logdir} cannot be created") from exc
        assert self._limiter is not None, "an open executor has a limiter"
        if spec.serialized.is_async:
            return _LoopActor(spec, LoopHookCaller(self._limiter))
        return _ThreadActor(spec)


class LoopHookCaller:
    """Calls the hooks of a trainable on the caller's loop; functions that may block run in threads.

    Args:
        limiter: The limiter of the threads for code of the user, so that asynctune's own never wait for it.
    """

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def hook(self, function: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        if getattr(function, "__module__", "").startswith("asynctune.trainable."):
            value = function(*args)  # the default of a hook, which does not block
        else:
            value = await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)
        return await value if inspect.isawaitable(value) else value

    async def blocking(self, function: Callable[..., _T], *args: Any) -> _T:
        return await anyio.to_thread.run_sync(function, *args)

    def close(self) -> None:
        pass


class _LoopActor(Actor):
    """An asynchronous trainable on the caller's loop.

    One task serves all calls, so that one hook may close a cancel scope or context manager that another
    hook opened. The task lives as long as the actor, over many calls from other tasks, so the actor owns
    the task; a task group could not.
    """

    def __init__(self, spec: ActorSpec, hooks: LoopHookCaller) -> None:
        super().__init__(spec)
        self._hooks = hooks
        self._requests: asyncio.Queue[tuple[str, tuple[Any, ...], asyncio.Future[Answer]]] = (
            asyncio.Queue()
        )
        self._trainable: Trainable | None = None
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _kill(self) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_S)
            if not self._task.done():
                await log_warning(
                    "%s swallows its cancellation; its task is abandoned", self._label()
                )
        if isinstance(self._trainable, AsyncFunctionTrainable):
            await self._trainable.abandon()
        if self._pending is not None and not self._pending.done():
            self._pending.cancel()

    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait((method, args, future))
        return future

    async def _serve(self) -> None:
        context = trainable_context(self.spec, self._hooks, setup_later=True)
        session.set(class_session(context))
        while True:
            method, args, future = await self._requests.get()
            try:
                if self._trainable is None:
                    self._trainable = build(self.spec.serialized.cls, self.spec.config, context)
                    await self._trainable._run_setup()
                    answer = Answer(AnswerKind.VALUE, b"null")
                else:
                    answer = await perform(self._trainable, method, args)
            except asyncio.CancelledError as exc:
                if self._is_ended:
                    raise
                answer = describe(exc)  # raised by code of the user
            except BaseException as exc:  # a SystemExit of the user ends the trial, not the loop
                answer = describe(exc)
            if not future.done():
                future.set_result(answer)


class _ThreadActor(Actor):
    """A synchronous trainable in a thread of its own."""

    def __init__(self, spec: ActorSpec) -> None:
        super().__init__(spec)
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[
            tuple[str, tuple[Any, ...], asyncio.Future[Answer]] | None
        ] = queue.SimpleQueue()
        self._ended = anyio.Event()
        self._abandoned = False
        self._host = TrainableHost(spec)
        self._thread = threading.Thread(
            target=self._serve,
            name=f"asynctune trial {spec.trial_id or ''}",
            daemon=True,
        )
        self._thread.start()

    async def _kill(self) -> None:
        if self._abandoned:
            return
        self._requests.put(None)
        if self._pending is None or self._pending.done():
            await self._ended.wait()
            await anyio.to_thread.run_sync(self._thread.join)
            return
        self._abandoned = True
        await log_warning(
            "%s is still in %s(), and its thread is abandoned, since a thread cannot be killed. The "
            "thread ends when the call returns. ProcessExecutor can kill",
            self._label(),
            self._pending_method,
        )

    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._requests.put((method, args, future))
        return future

    def _serve(self) -> None:
        """Serve requests in the thread until the actor is killed."""
        while (request := self._requests.get()) is not None:
            method, args, future = request
            self._post(_settle, future, self._host.perform(method, args))
        try:
            self._host.close()
        finally:  # the kill waits for this event, also if a task of the user's raises when it is cancelled
            self._post(self._ended.set)

    def _post(self, function: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits for the answer
            self._loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
