"""Cancellation at any turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The outcome of a cancellation.

    Args:
        ticks: The turn of the loop at which the task was cancelled; the number of all turns if the task
            ended before.
        finished: Whether the task ended before the cancellation.
        error: The exception of the task, or None.
        left: The tasks that are still pending.
    """

    ticks: int
    finished: bool
    error: BaseException | None
    left: frozenset[asyncio.Task[Any]]


class TickLoop(asyncio.SelectorEventLoop):
    """The loop of asyncio, which counts its turns and can call a function before one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0
        self._before: tuple[int, Callable[[], object]] | None = None

    def before(self, tick: int, function: Callable[[], object]) -> None:
        """Call a function before the turn with this number."""
        self._before = tick, function

    def _run_once(self) -> None:
        if self._before is not None and self.ticks >= self._before[0]:
            _, function = self._before
            self._before = None
            function()
        self.ticks += 1
        super()._run_once()  # type: ignore[misc] # asyncio's own, which typeshed leaves out


async def cancelled_at(start: Callable[[], Awaitable[Any]], tick: int | None) -> Cancelled:
    """Start a task, and cancel it after a number of turns of the event loop.

    In a :class:`TickLoop` these are the turns that the loop takes by itself. In any other loop this
    function makes the loop turn all the time, so many turns pass while a thread or process works.

    Args:
        start: A function that returns the awaitable of the task.
        tick: The number of turns; None for no cancellation.
    """

    async def run() -> Any:
        return await start()

    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    task = loop.create_task(run())
    if isinstance(loop, TickLoop):
        first, in_time = loop.ticks, list[bool]()
        if tick is not None:
            loop.before(first + tick, lambda: in_time.append(task.cancel()))
        await asyncio.wait([task])
        loop.before(0, lambda: None)
        ticks, finished = loop.ticks - first, in_time != [True]
    else:
        ticks = await _turn(task, tick)
        finished = task.done()
        task.cancel()
        await asyncio.wait([task])
    error: BaseException | None
    try:
        error = task.exception()
    except asyncio.CancelledError as exc:
        error = exc
    return Cancelled(ticks, finished, error, frozenset(asyncio.all_tasks() - before))


async def _turn(task: asyncio.Task[Any], most: int | None) -> int:
    ticks = 0
    while not task.done() and (most is None or ticks < most):
        await asyncio.sleep(0)
        ticks += 1
    return ticks
