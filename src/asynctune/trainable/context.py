"""The context of a trainable: its trial, its directory, and the way its hooks are called.

An executor sets the context while it builds the trainable. A stand-alone trainable has none.
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
    """Interface through which the coroutines of a trainable call hooks and blocking functions.

    :class:`SyncHookCaller` is the implementation for threads without an event loop.
    """

    async def hook(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a hook of the user, and await the result if the hook is asynchronous."""
        ...

    async def blocking(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call a function of asynctune that waits for a disk or a storage."""
        ...

    def close(self) -> None:
        """Release the event loop of the asynchronous hooks, if one was needed."""
        ...


class SyncHookCaller:
    """Calls hooks directly, and runs asynchronous hooks on an event loop kept between calls."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue[tuple[Awaitable[Any], asyncio.Future[Any]]] | None = None
        self._task: asyncio.Task[None] | None = None

    async def hook(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            value = function(*args)
        except StopIteration as exc:
            # Python would replace it by "coroutine raised StopIteration", without the name (PEP 479).
            raise RuntimeError(f"StopIteration leaked from {function.__qualname__}()") from exc
        return self._wait(value) if inspect.isawaitable(value) else value

    async def blocking(self, function: Callable[..., _T], *args: Any) -> _T:
        return function(*args)

    def close(self) -> None:
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        assert self._task is not None
        pending = [task for task in asyncio.all_tasks(loop) if not task.done()]
        for task in pending:
            task.cancel()
        if pending:  # with a timeout, since a task may swallow its cancellation
            loop.run_until_complete(asyncio.wait(pending, timeout=_CANCEL_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        if _loop_is_running():
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise ExecutorError(
                "a trainable with asynchronous hooks cannot be called while an event loop runs in this "
                "thread; use `async with asynctune.executors.InlineExecutor() as pool, pool.actor(cls) "
                "as actor`"
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
        """Await all hooks of one trainable in one task.

        A cancel scope or timeout that one hook has entered can be left only in the same task.
        """
        while True:
            awaitable, future = await queue.get()
            # Pass an exception as a value: a future refuses StopIteration, and a loop whose future
            # holds SystemExit never stops.
            try:
                future.set_result((await awaitable, None))
            except BaseException as exc:
                future.set_result((None, exc))
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # close() cancelled this task; the hook did not raise by itself


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def step(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends, and return its result.

    Raises:
        ExecutorError: The coroutine suspended, so it needs an event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: _T = stop.value
        return value
    coroutine.close()
    raise ExecutorError("a trainable on an event loop has no synchronous methods; await its actor")


@dataclass(frozen=True, slots=True)
class TrainableContext:
    """The context in which an executor builds a trainable.

    Args:
        logdir: The absolute path of the trial's directory.
        hooks: The caller of the hooks.
        trial_id: The id of the trial; None outside a run.
        trial_name: The name of the trial.
        experiment_tag: The label of the sampled parameters.
        grace_s: Seconds that a stopped function may use to clean up.
        setup_later: Whether the executor awaits the setup after the constructor.
        own_process: Whether no other trial runs in this process.
        remote: The storage directory for the checkpoints of a durable trainable.
    """

    logdir: str
    hooks: HookCaller
    trial_id: str | None = None
    trial_name: str | None = None
    experiment_tag: str | None = None
    grace_s: float = 10.0
    setup_later: bool = False
    own_process: bool = False
    remote: RemoteDir | None = None


current_context: ContextVar[TrainableContext | None] = ContextVar("asynctune_context", default=None)
"""The context of the trainable under construction; executors set it around the constructor only."""


def results_dir() -> str:
    """Return the results directory: ``$ASYNCTUNE_RESULTS_DIR``, or ``~/asynctune_results``."""
    return os.path.abspath(
        os.environ.get("ASYNCTUNE_RESULTS_DIR") or os.path.expanduser("~/asynctune_results")
    )


def new_standalone_dir(label: str) -> str:
    """Create a directory below the results directory for a trainable or session without a run."""
    parent = results_dir()
    os.makedirs(parent, mode=0o700, exist_ok=True)
    safe = "".join(c if c.isalnum() else "-" for c in label)[-60:]
    return tempfile.mkdtemp(prefix=f"{safe}_{datetime.now():%Y-%m-%d_%H-%M-%S}_", dir=parent)


def copy_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration, so that user code cannot change the original."""
    try:
        return copy.deepcopy(config)
    except Exception:  # locks, sockets and modules cannot be copied: share leaves, copy containers
        copied: dict[str, Any] = _copy_containers(config)
        return copied


def _copy_containers(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy_containers(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy_containers(item) for item in value]
    return value
