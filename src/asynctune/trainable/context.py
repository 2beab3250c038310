"""Where a trainable lives: told by an executor while it is built, by itself otherwise.

The worker's side of an executor and :mod:`asynctune.trainable.base` meet here: how hooks are called, which
trial this is, which directory it has.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from asynctune.errors import ExecutorError

if TYPE_CHECKING:
    from asynctune.storage.checkpoints.commits import RemoteDir

_T = TypeVar("_T")
_CANCEL_S = 0.5


class HookCaller(Protocol):
    """How a trainable's coroutines call out: see :class:`SyncHookCaller` for the stand-alone way."""

    async def hook(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a hook of the user's and await it if it is asynchronous."""
        ...

    async def blocking(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call our own code that waits for a disk."""
        ...

    def close(self) -> None:
        """Give up what the calls needed."""
        ...


class SyncHookCaller:
    """Call directly; run what is asynchronous on an event loop that is kept between calls."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue[tuple[Awaitable[Any], asyncio.Future[Any]]] | None = None
        self._task: asyncio.Task[None] | None = None

    async def hook(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            value = function(*args)
        except StopIteration as exc:
            # Out of a coroutine it would come as "coroutine raised StopIteration" (PEP 479).
            raise RuntimeError(f"StopIteration leaked from {function.__qualname__}()") from exc
        return self._wait(value) if inspect.isawaitable(value) else value

    async def blocking(self, function: Callable[..., _T], *args: Any) -> _T:
        return function(*args)

    def close(self) -> None:
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        assert self._task is not None
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        for task in left:
            task.cancel()
        if left:  # one that swallows its cancellation is left behind
            loop.run_until_complete(asyncio.wait(left, timeout=_CANCEL_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        if _loop_is_running():
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise ExecutorError(
                "this trainable has asynchronous hooks, and an event loop is already running here; "
                "use `async with asynctune.executors.InlineExecutor() as pool, pool.actor(cls) as actor`"
            )
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._queue = asyncio.Queue()
            self._task = self._loop.create_task(self._serve(self._queue))
        assert self._queue is not None
        future = self._loop.create_future()
        self._queue.put_nowait((awaitable, future))
        value, error = self._loop.run_until_complete(future)
        if error is not None:
            raise error
        return value

    @staticmethod
    async def _serve(queue: asyncio.Queue[tuple[Awaitable[Any], asyncio.Future[Any]]]) -> None:
        """Await all hooks of one trainable in one task, so that one may close what another opened."""
        while True:
            awaitable, future = await queue.get()
            # An exception travels as a value: a future refuses StopIteration, and a loop whose future
            # holds SystemExit never stops.
            try:
                future.set_result((await awaitable, None))
            except BaseException as exc:
                future.set_result((None, exc))
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # it is this task that is cancelled, not something of the user's


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def step(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: _T = stop.value
        return value
    coroutine.close()
    raise ExecutorError("a trainable on an event loop has no synchronous face; await its actor")


@dataclass(frozen=True, slots=True)
class TrainableContext:
    """Where a trainable lives, told to it by an executor while it is built.

    Args:
        trial_id: The trial, None outside a run.
        trial_name: Its name.
        experiment_tag: What was drawn for it, as a label.
        logdir: Its directory, absolute.
        calls: How it calls hooks.
        grace_s: Seconds that a stopped function may clean up.
        setup_later: Whether the executor awaits the setup after the constructor.
        own_process: Whether the trial has this process to itself.
        remote: Where a durable trainable keeps its checkpoints.
    """

    logdir: str
    calls: HookCaller
    trial_id: str | None = None
    trial_name: str | None = None
    experiment_tag: str | None = None
    grace_s: float = 10.0
    setup_later: bool = False
    own_process: bool = False
    remote: RemoteDir | None = None


host: ContextVar[TrainableContext | None] = ContextVar("asynctune_host", default=None)
"""The host of the trainable that is being built; set by executors, around the constructor only."""


def results_dir() -> str:
    """Return the folder of results: ``$ASYNCTUNE_RESULTS_DIR``, else ``~/asynctune_results``."""
    return os.path.abspath(
        os.environ.get("ASYNCTUNE_RESULTS_DIR") or os.path.expanduser("~/asynctune_results")
    )


def new_standalone_dir(label: str) -> str:
    """Create a directory in the folder of results for something outside a run."""
    parent = results_dir()
    os.makedirs(parent, mode=0o700, exist_ok=True)
    safe = "".join(c if c.isalnum() else "-" for c in label)[-60:]
    return tempfile.mkdtemp(prefix=f"{safe}_{datetime.now():%Y-%m-%d_%H-%M-%S}_", dir=parent)


def copy_config(config: dict[str, Any]) -> dict[str, Any]:
    """Copy a configuration for the code that it is handed to."""
    try:
        return copy.deepcopy(config)
    except Exception:  # locks, sockets, modules: such a leaf is shared, the containers are not
        copied: dict[str, Any] = _containers(config)
        return copied


def _containers(value: Any) -> Any:
    if type(value) is dict:
        return {key: _containers(item) for key, item in value.items()}
    if type(value) is list:
        return [_containers(item) for item in value]
    return value
