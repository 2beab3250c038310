"""Trials in this process: asynchronous code on the caller's loop, synchronous code in a thread a trial."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread

from asynctune._threads import log_warning, thread_limiter
from asynctune.errors import ConfigError
from asynctune.executors.actor import Actor, ActorSpec
from asynctune.executors.base import Executor
from asynctune.executors.pool import ResourcePool
from asynctune.executors.serialization import SerializedTrainable, serialize
from asynctune.storage.filesystem import storage_error
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import SyncHookCaller, TrainableContext, step
from asynctune.trainable.function import AsyncFunctionTrainable
from asynctune.trainable.session import session
from asynctune.trainable.worker.calls import (
    HOST_GRACE_S,
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
"""So many synchronous hooks of asynchronous trainables work at once, and more if more trials may."""


class InlineExecutor(Executor):
    """Lends actors in this process; nothing is pickled.

    A function or class with ``async def`` runs on the caller's loop, thousands at once; its
    synchronous hooks run in threads. A wholly synchronous one runs in a thread of its own. CPUs are
    not counted, the working directory is the caller's, output is not captured, and synchronous code
    cannot be killed: a limit abandons its thread, and says so.

    Args:
        max_concurrency: At most this many trials at once; by default all that are asked for.

    Raises:
        ConfigError: ``max_concurrency`` is no positive int.
    """

    def __init__(self, max_concurrency: int | None = None) -> None:
        if max_concurrency is not None and (
            not isinstance(max_concurrency, int) or max_concurrency < 1
        ):
            raise ConfigError(
                f"max_concurrency is {max_concurrency!r}; an int of 1 or more is wanted"
            )
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
        assert self._limiter is not None, "an executor that is open has one"
        if spec.serialized.is_async:
            actor: _LoopActor | _ThreadActor = _LoopActor(spec, LoopHookCaller(self._limiter))
        else:
            actor = _ThreadActor(spec)
        try:
            await actor.build()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await actor.kill()
            raise
        return actor

    async def _finish(self, actor: Actor) -> None:
        await actor.kill()

    async def _close(self) -> None:
        pass


class LoopHookCaller:
    """How a trainable that lives on the caller's loop calls out: what may block goes into a thread.

    Args:
        limiter: For the threads of the user's code, so that what is ours never waits for it.
    """

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def hook(self, function: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        if getattr(function, "__module__", "").startswith("asynctune."):
            value = function(*args)  # ours, which does not block: the default of a hook
        else:
            value = await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)
        return await value if inspect.isawaitable(value) else value

    async def blocking(self, function: Callable[..., _T], *args: Any) -> _T:
        return await anyio.to_thread.run_sync(function, *args)

    def close(self) -> None:
        pass


def _host(spec: ActorSpec, calls: Any, *, setup_later: bool) -> TrainableContext:
    return TrainableContext(
        logdir=spec.logdir,
        calls=calls,
        trial_id=spec.trial_id,
        trial_name=spec.trial_name,
        experiment_tag=spec.tag,
        grace_s=spec.grace_s + HOST_GRACE_S,
        setup_later=setup_later,
        remote=spec.remote,
    )


class _LoopActor(Actor):
    """A trainable on the caller's loop.

    One task serves all its calls, so that one hook may close what another opened. The task lives as
    long as the actor, over many calls from outside, so the actor owns it and no task group can.
    """

    def __init__(self, spec: ActorSpec, calls: LoopHookCaller) -> None:
        super().__init__(spec)
        self._calls = calls
        self._requests: asyncio.Queue[tuple[str, tuple[Any, ...], asyncio.Future[Answer]]] = (
            asyncio.Queue()
        )
        self._trainable: Trainable | None = None
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def build(self) -> None:
        self._pending, self._pending_method = self._begin("_setup", ()), "_setup"
        await self._awaited()

    async def kill(self) -> None:
        self._gone = True
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_S)
            if not self._task.done():
                await log_warning(
                    "%s swallows its cancellation; its task is abandoned", self._who()
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
        place = _host(self.spec, self._calls, setup_later=True)
        session.set(class_session(place))
        while True:
            method, args, future = await self._requests.get()
            try:
                if self._trainable is None:
                    self._trainable = build(self.spec.serialized.cls, self.spec.config, place)
                    await self._trainable._run_setup()
                    answer = Answer(AnswerKind.VALUE, b"null")
                else:
                    answer = await perform(self._trainable, method, args)
            except asyncio.CancelledError as exc:
                if self._gone:
                    raise
                answer = describe(exc)  # the user's own
            except BaseException as exc:  # the user's SystemExit is to end the trial, not the loop
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
        # In the context of the run, as a task would be.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._serve,),
            name=f"asynctune trial {spec.trial_id or ''}",
            daemon=True,
        )
        self._thread.start()

    async def build(self) -> None:
        self._pending, self._pending_method = self._begin("_setup", ()), "_setup"
        await self._awaited()

    async def kill(self) -> None:
        self._gone = True
        if self._abandoned:
            return
        self._requests.put(None)
        if self._pending is None or self._pending.done():
            await self._ended.wait()
            await anyio.to_thread.run_sync(self._thread.join)
            return
        self._abandoned = True
        await log_warning(
            "%s is still in %s() and a thread cannot be killed: it is abandoned, and ends when "
            "that call returns. ProcessExecutor can kill",
            self._who(),
            self._pending_method,
        )

    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._requests.put((method, args, future))
        return future

    def _serve(self) -> None:
        """Serve requests; runs in the thread."""
        place = _host(self.spec, SyncHookCaller(), setup_later=False)
        session.set(class_session(place))
        trainable: Trainable | None = None
        while (request := self._requests.get()) is not None:
            method, args, future = request
            try:
                if trainable is None:
                    trainable = build(self.spec.serialized.cls, self.spec.config, place)
                    answer = Answer(AnswerKind.VALUE, b"null")
                else:
                    answer = step(perform(trainable, method, args))
            except BaseException as exc:  # also the user's SystemExit
                answer = describe(exc)
            self._post(_settle, future, answer)
        self._post(self._ended.set)

    def _post(self, function: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits
            self._loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
