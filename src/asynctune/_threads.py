"""Calls in threads from the event loop, and log records from it."""

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
    """Return a limiter for threads that are not to wait for those of others, on a loop.

    anyio's own lets 40 work at a time, for all who use it. A loop that lets one thread work at a time,
    as the simulated one does, is obeyed.
    """
    shared = anyio.to_thread.current_default_thread_limiter()
    return shared if shared.total_tokens == 1 else anyio.CapacityLimiter(threads)


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function of ours in a thread, however many the code of users keeps busy."""
    return await anyio.to_thread.run_sync(function, *args, limiter=thread_limiter(1))


async def log_warning(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a warning in a thread, since handlers may block; with the traceback of an exception if given."""
    await run_in_thread(lambda: _log.warning(message, *args, exc_info=error))


async def run_uninterrupted(
    function: Callable[..., T],
    *args: Any,
    undo: Callable[[T], object],
    hurry: Callable[[], object] | None = None,
) -> T:
    """Call a function in a thread; if the wait is cancelled, wait all the same and undo it.

    A task's own cancellation, unlike that of a scope, leaves a thread running and its result with
    nobody: a process or file that was just opened would leak.

    Args:
        function: What to call.
        *args: Its arguments.
        undo: Is given the result when nobody else takes it; runs in a thread.
        hurry: Called at each cancellation, so that the function may end sooner.
    """
    cancelled: asyncio.CancelledError | None = None
    # The shield keeps a cancelled scope around us from knocking again at each turn of the loop.
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
    """Wait for the end of a task whatever happens; return the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
            if hurry is not None:
                hurry()
    return cancelled
