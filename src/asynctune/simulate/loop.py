"""An event loop in virtual time: the clock jumps to the next timer, and the order of events is fixed."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import selectors
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio.to_thread

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError
from asynctune.storage import filesystem as _files

T = TypeVar("T")
_SELECT_INTERVAL = 32
"""The number of turns of the loop between two calls of the system's ``select``."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """The selector loop of asyncio with a virtual clock, which starts at 0.

    When no callback is ready, the clock jumps to the next timer. While a thread works (one of anyio or of
    ``run_in_executor``) the clock stands still, and the loop handles the result of the thread after all
    other callbacks that are ready at this time. Threads of anyio work one at a time. So the order of events
    depends only on the program.

    Use the loop as ``asyncio.Runner(loop_factory=VirtualLoop)``, or with :func:`run`. Processes, sockets
    and threads that the program starts by hand do not stop the clock: a task that waits for them waits in
    real time, while the timers of all other tasks expire at once.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._selected = _Selector(self)
        self._returned: deque[
            tuple[asyncio.Handle, Callable[..., Any], tuple[Any, ...], contextvars.Context]
        ] = deque()
        self._executing = 0
        self._owner: int | None = None
        self._pool: tuple[set[Any], deque[Any]] | None = None
        super().__init__(self._selected)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def run_forever(self) -> None:
        if self._owner is None:
            self._owner = threading.get_ident()
            # A task, since anyio has limiters only inside a running loop.
            self._limiting = self.create_task(_one_thread_at_a_time())
        super().run_forever()

    def call_soon_threadsafe(  # type: ignore[override] # typeshed's wants a TypeVarTuple
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if threading.get_ident() == self._owner:
            return super().call_soon_threadsafe(callback, *args, context=context)
        # From another thread: idle() runs the callback, once the loop has nothing else to do.
        context = context or contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._returned.append((handle, callback, args, context))
        super().call_soon_threadsafe(_nothing)  # wakes the loop, or raises if it is closed
        return handle

    def run_in_executor(  # type: ignore[override] # the same
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._executing += 1
        future.add_done_callback(self._executed)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._executing += 1  # else the clock would jump over the time limit of Python 3.12
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._executing -= 1

    def _executed(self, _: asyncio.Future[Any]) -> None:
        self._executing -= 1

    def idle(self, timeout: float | None) -> bool:
        """Advance the loop while no callback is ready. Return whether the caller has to wait in real time.

        Schedules the callbacks of threads, or else moves the clock to the next timer.

        Args:
            timeout: The seconds to the next timer; None if there is none.
        """
        if self._returned:
            while self._returned:
                handle, callback, args, context = self._returned.popleft()
                if not handle.cancelled():
                    self.call_soon(callback, *args, context=context)
            return False
        if timeout is None or self._executing or self._threads_at_work():
            return True
        # At least one step of a float, or a timer that is nearer than that would never expire.
        self._now = max(self._now + timeout, math.nextafter(self._now, math.inf))
        return False

    def _threads_at_work(self) -> bool:
        """Return whether a thread of anyio is at work.

        anyio offers no public way to ask: its default limiter does not count threads of other limiters. But
        each thread has the collections of all threads of its loop and of the idle ones among them.
        """
        if self._pool is None:
            for thread in threading.enumerate():
                if getattr(thread, "loop", None) is self and hasattr(thread, "idle_workers"):
                    self._pool = thread.workers, thread.idle_workers  # type: ignore[attr-defined]
        return self._pool is not None and len(self._pool[0]) > len(self._pool[1])


class _Selector(selectors.DefaultSelector):
    """Lets the loop advance instead of waiting, and calls the system's ``select`` only now and then.

    In a simulation the only watched file is the loop's own pipe, which reports signals and the callbacks of
    threads; the loop has the callbacks of threads without it.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        found: list[tuple[selectors.SelectorKey, int]] = []
        if len(self.get_map()) > 1 or self._turns % _SELECT_INTERVAL == 0:
            found = super().select(0)
        if not found and (timeout is None or timeout > 0) and self._loop.idle(timeout):
            found = super().select(None)
        return found


class _Unsynced(_files.FileSystem):
    """A file system without syncs: a simulation that a power loss destroys can be run again."""

    __slots__ = ()

    def datasync(self, descriptor: int) -> None:
        pass

    def sync_file(self, path: _files.AnyPath) -> None:
        pass

    def sync_directory(self, path: _files.AnyPath) -> None:
        pass


def run(
    what: Callable[..., Coroutine[Any, Any, T]] | Awaitable[T], /, *args: Any, **kwargs: Any
) -> T:
    """Run a coroutine in virtual time to its end, as :func:`asyncio.run` does in real time.

    Experiments of the coroutine do not wait for the disk either: a crash of the machine may destroy them.

    Args:
        what: An ``async def`` function, or the coroutine that a call of one returned.
        *args: The positional arguments of the function.
        **kwargs: The keyword arguments of the function.

    Returns:
        The return value of the coroutine.

    Raises:
        ConfigError: ``what`` is neither a function nor an awaitable.
    """
    if (args or kwargs) and not callable(what):
        raise ConfigError(
            f"what of simulate.run() must be an async function if arguments follow, got {safe_repr(what)}"
        )
    started: Any = what(*args, **kwargs) if callable(what) else what
    if not inspect.isawaitable(started):
        raise ConfigError(
            "what of simulate.run() must be an async function or the coroutine that a call of one returns, "
            f"got {safe_repr(what)}"
        )
    context = contextvars.copy_context()
    context.run(_files.current.set, _Unsynced())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result: T = runner.run(_awaited(started), context=context)
    return result


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _one_thread_at_a_time() -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1


def _nothing() -> None:
    pass
