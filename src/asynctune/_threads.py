"""Calls in threads, and log records, from the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

_log = logging.getLogger("asynctune")


def thread_limiter(threads: int) -> anyio.CapacityLimiter:
    """Return a limiter for threads that must not wait for the threads of other code.

    anyio's default limiter lets 40 threads run at a time, for all users of the loop together. A default
    limiter of one thread is respected: the simulated loop sets it to run threads one at a time.

    Args:
        threads: The number of threads that may run at a time.
    """
    shared = anyio.to_thread.current_default_thread_limiter()
    return shared if shared.total_tokens == 1 else anyio.CapacityLimiter(threads)


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread, without waiting for the threads that user code keeps busy."""
    return await anyio.to_thread.run_sync(function, *args, limiter=thread_limiter(1))


async def log_warning(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a warning in a thread, since handlers may block.

    Args:
        message: The format string.
        *args: The arguments of the format string.
        error: An exception whose traceback is logged too, or None.
    """
    await run_in_thread(lambda: _log.warning(message, *args, exc_info=error))


async def run_uninterrupted(
    function: Callable[..., T],
    *args: Any,
    undo: Callable[[T], object],
    hurry: Callable[[], object] | None = None,
) -> T:
    """Call a function in a thread. If the wait is cancelled, wait for the function anyway and undo it.

    The cancellation of a task, unlike that of a cancel scope, leaves the thread running and drops its
    result: a process or file that the function has just opened would leak.

    Args:
        function: The function.
        *args: The arguments of the function.
        undo: Called in a thread with the result of the function, if the wait was cancelled.
        hurry: Called on each cancellation, so that it can make the function end sooner.

    Returns:
        The result of the function.

    Raises:
        CancelledError: The wait was cancelled; the function has ended and its effect is undone.
    """
    cancelled: asyncio.CancelledError | None = None
    # Without the shield, a cancelled scope around this call would cancel each wait in it anew.
    with anyio.CancelScope(shield=True):
        task = asyncio.ensure_future(run_in_thread(function, *args))
        cancelled = await _wait_out(task, hurry)
        if cancelled is None:
            return task.result()
        if task.exception() is None:
            undone = asyncio.ensure_future(run_in_thread(undo, task.result()))
            await _wait_out(undone)
            undone.result()
    assert cancelled is not None, "otherwise the result was returned"
    raise cancelled


async def _wait_out(
    task: asyncio.Future[Any], hurry: Callable[[], object] | None = None
) -> asyncio.CancelledError | None:
    """Wait until a task has ended, despite cancellations. Return the last of these, or None."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
            if hurry is not None:
                hurry()
    return cancelled
