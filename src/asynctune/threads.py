"""A call in a thread whose result is never lost, whatever cancels the wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


async def run_whole(function: Callable[..., T], *args: Any, undo: Callable[[T], object]) -> T:
    """Call a function in a thread; if the wait is cancelled, wait all the same and undo it.

    A task's own cancellation, unlike that of a scope, leaves a thread running and its result with
    nobody: a process or file that was just opened would leak.

    Args:
        function: What to call.
        *args: Its arguments.
        undo: Is given the result when nobody else takes it; runs in a thread.
    """
    cancelled: asyncio.CancelledError | None = None
    # The shield keeps a cancelled scope around us from knocking again at each turn of the loop.
    with anyio.CancelScope(shield=True):
        task = asyncio.ensure_future(anyio.to_thread.run_sync(function, *args))
        cancelled = await _wait_out(task)
        if cancelled is None:
            return task.result()
        if task.exception() is None:
            undone = asyncio.ensure_future(anyio.to_thread.run_sync(undo, task.result()))
            await _wait_out(undone)
            undone.result()
    assert cancelled is not None, "otherwise the result was returned"
    raise cancelled


async def _wait_out(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for the end of a task whatever happens; return the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    return cancelled
