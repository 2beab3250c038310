"""An event loop whose clock jumps: hours of waiting pass at once, and always in the same order."""

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
_TURNS = 32


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with a clock of its own, which begins at 0.

    When nothing is ready, the clock jumps to the next timer. While a thread works (anyio's, or one of
    ``run_in_executor``) it stands still, and what the thread returns is taken up when all else is done
    that can be done at this time. Threads of anyio work one at a time. So the order in which things
    happen depends on nothing outside of the program.

    Use it as ``asyncio.Runner(loop_factory=VirtualLoop)``, or with :func:`run`. Processes, sockets and
    threads that are started by hand do not stop the clock: what waits for them is as slow as they are,
    while everybody else is infinitely fast.
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
        """Return the virtual time, in seconds."""
        return self._now

    def run_forever(self) -> None:
        if self._owner is None:
            self._owner = threading.get_ident()
            # It ends at once, but only inside the loop can anyio be asked.
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
        self._executing += 1  # the time limit that Python 3.12 sets itself is not to jump by
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._executing -= 1

    def _executed(self, _: asyncio.Future[Any]) -> None:
        self._executing -= 1

    def idle(self, timeout: float | None) -> bool:
        """Nothing is ready. Make something ready; tell whether that has to be waited for.

        Args:
            timeout: The seconds to the next timer, None if there is none.
        """
        if self._returned:
            while self._returned:
                handle, callback, args, context = self._returned.popleft()
                if not handle.cancelled():
                    self.call_soon(callback, *args, context=context)
            return False
        if timeout is None or self._executing or self._threads_at_work():
            return True
        # A timer that lies nearer than the clock can show is still to be reached.
        self._now = max(self._now + timeout, math.nextafter(self._now, math.inf))
        return False

    def _threads_at_work(self) -> bool:
        """Tell whether a thread of anyio's has not returned yet.

        anyio has no public word for it: who uses a limiter of his own does not show in the default one. Its
        threads know their pool, which is those that there are and those of them that are idle.
        """
        if self._pool is None:
            for thread in threading.enumerate():
                if getattr(thread, "loop", None) is self and hasattr(thread, "idle_workers"):
                    self._pool = thread.workers, thread.idle_workers  # type: ignore[attr-defined]
        return self._pool is not None and len(self._pool[0]) > len(self._pool[1])


class _Selector(selectors.DefaultSelector):
    """Asks the loop before it waits, and the system only now and then.

    The loop's own pipe, the only file that is watched in a simulation, tells of signals; what threads
    return the loop knows without it.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        found: list[tuple[selectors.SelectorKey, int]] = []
        if len(self.get_map()) > 1 or self._turns % _TURNS == 0:
            found = super().select(0)
        if not found and (timeout is None or timeout > 0) and self._loop.idle(timeout):
            found = super().select(None)
        return found


class _Unsynced(_files.FileSystem):
    """Leaves it to the system when files reach the disk: a simulation can be run again."""

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
    """Run a coroutine in virtual time, to its end; the twin of :func:`asyncio.run`.

    Experiments in it do not wait for the disk either: a crash of the machine may take them.

    Args:
        what: An ``async def`` function, or what calling one gave.
        *args: What the function is called with.
        **kwargs: The same, by name.

    Returns:
        What it returned.

    Raises:
        ConfigError: ``what`` is neither.
    """
    if (args or kwargs) and not callable(what):
        raise ConfigError("simulate.run() was given arguments, and no function that takes them")
    started: Any = what(*args, **kwargs) if callable(what) else what
    if not inspect.isawaitable(started):
        raise ConfigError(
            f"simulate.run() was given {safe_repr(what)}; an async function, or the coroutine that "
            "calling one gives, is wanted"
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
