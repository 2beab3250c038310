"""Who gets a free slot: the queue before a pool of resources that several runs share."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from asynctune.executors.pool import ResourcePool, Share
from asynctune.resources import Resources


class Lease:
    """A share that is held until it is released; releasing twice does nothing.

    Args:
        slots: Where it comes from.
        share: What is held.
        owner: The run that holds it.
    """

    __slots__ = ("_owner", "_slots", "is_released", "share", "then")

    def __init__(self, slots: Slots, share: Share, owner: object) -> None:
        self.share = share
        self.is_released = False
        self.then: Callable[[], None] | None = None
        """Called when it has been released."""
        self._slots = slots
        self._owner = owner

    def release(self) -> None:
        """Give it back."""
        if not self.is_released:
            self.is_released = True
            self._slots.give_back(self.share, self._owner)
            if self.then is not None:
                self.then()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Slots:
    """Lends a pool's resources to waiting trials: first to the run that holds fewest.

    Args:
        pool: The book of what is free.
    """

    def __init__(self, pool: ResourcePool) -> None:
        self.pool = pool
        self._held: dict[object, int] = {}
        self._waiting: dict[object, deque[tuple[Resources, asyncio.Future[Share]]]] = {}

    @asynccontextmanager
    async def lend(self, resources: Resources, owner: object) -> AsyncIterator[Share]:
        """Wait for a share and hold it.

        Args:
            resources: How much.
            owner: The run that asks; any object.
        """
        with await self.lease(resources, owner) as lease:
            yield lease.share

    async def lease(self, resources: Resources, owner: object) -> Lease:
        """Wait for a share; whoever has the lease has to release it.

        Args:
            resources: How much.
            owner: The run that asks; any object.
        """
        future: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        entry = (resources, future)
        self._waiting.setdefault(owner, deque()).append(entry)
        self._grant()
        try:
            # Not `await future`: a grant that races with a cancellation must not be lost.
            await asyncio.wait([future])
            share = future.result()
        except BaseException:
            if future.done():
                self.give_back(future.result(), owner)
            else:
                self._waiting[owner].remove(entry)
                self._forget(owner)
                self._grant()
            raise
        return Lease(self, share, owner)

    def give_back(self, share: Share, owner: object) -> None:
        """Take back what was lent."""
        self.pool.give_back(share)
        self._held[owner] -= 1
        self._grant()
        self._forget(owner)

    def _grant(self) -> None:
        while self._grant_one():
            pass

    def _grant_one(self) -> bool:
        """Lend to the owner that holds fewest; tell whether anything was lent.

        While its request does not fit, owners that hold more get nothing: what they give back is for it.
        """
        limit: float = math.inf
        for owner in sorted(self._waiting, key=lambda owner: self._held.get(owner, 0)):
            held, queue = self._held.get(owner, 0), self._waiting[owner]
            if held > limit:
                return False
            if not queue:
                continue
            share = self.pool.take(queue[0][0])
            if share is None:
                limit = held
                continue
            _, future = queue.popleft()
            self._held[owner] = held + 1
            future.set_result(share)
            return True
        return False

    def _forget(self, owner: object) -> None:
        if not self._waiting.get(owner):
            self._waiting.pop(owner, None)
            if not self._held.get(owner):
                self._held.pop(owner, None)
