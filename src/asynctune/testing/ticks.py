"""Cancelling at any turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What came of a cancellation.

    Args:
        ticks: At which turn of the loop it came, or how many there were if it came too late.
        finished: Whether it came too late.
        error: What came out, None if nothing.
        left: The tasks that were left.
    """

    ticks: int
    finished: bool
    error: BaseException | None
    left: frozenset[asyncio.Task[Any]]


async def cancelled_at(start: Callable[[], Awaitable[Any]], tick: int) -> Cancelled:
    """Start something in a task, and cancel it after so many turns of the event loop.

    Args:
        start: Gives what is awaited.
        tick: How many turns.
    """

    async def run() -> Any:
        return await start()

    before = asyncio.all_tasks()
    task = asyncio.create_task(run())
    ticks = 0
    while ticks < tick and not task.done():
        await asyncio.sleep(0)
        ticks += 1
    finished = task.done()
    task.cancel()
    await asyncio.wait([task])
    error: BaseException | None
    try:
        error = task.exception()
    except asyncio.CancelledError as exc:
        error = exc
    return Cancelled(ticks, finished, error, frozenset(asyncio.all_tasks() - before))
