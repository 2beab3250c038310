"""Slots: the queue in which several runs wait for shares of one resource pool."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from asynctune.executors.pool import ResourcePool, Share
from asynctune.resources import Resources


class Lease:
    """A share that is held until the lease is released, by hand or by leaving a ``with`` block.

    Args:
        slots: The queue that granted the lease.
        share: The leased share.
        owner: The run that holds the lease.
    """

    __slots__ = ("_owner", "_slots", "is_released", "share", "then")

    def __init__(self, slots: Slots, share: Share, owner: object) -> None:
        self.share = share
        self.is_released = False
        self.then: Callable[[], None] | None = None
        """A function that the release calls at its end."""
        self._slots = slots
        self._owner = owner

    def release(self) -> None:
        """Return the share to the pool. A second release does nothing."""
        if not self.is_released:
            self.is_released = True
            self._slots.release(self.share, self._owner)
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
    """Leases of a pool's resources. A free share goes to the run that holds the fewest.

    Args:
        pool: The resource pool.
    """

    def __init__(self, pool: ResourcePool) -> None:
        self.pool = pool
        self._held: dict[object, int] = {}
        self._waiting: dict[object, deque[tuple[Resources, asyncio.Future[Share]]]] = {}

    async def lease(self, resources: Resources, owner: object) -> Lease:
        """Wait for a share and return its lease, which the caller has to release.

        Args:
            resources: The amounts that the share must have.
            owner: The run that asks; any hashable object.
        """
        future: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        entry = (resources, future)
        self._waiting.setdefault(owner, deque()).append(entry)
        self._grant()
        try:
            # Not `await future`: a cancellation in the same turn as a grant would lose the share.
            await asyncio.wait([future])
            share = future.result()
        except BaseException:
            if future.done():
                self.release(future.result(), owner)
            else:
                self._waiting[owner].remove(entry)
                self._forget(owner)
                self._grant()
            raise
        return Lease(self, share, owner)

    def release(self, share: Share, owner: object) -> None:
        """Return a share to the pool and grant waiting requests."""
        self.pool.release(share)
        self._held[owner] -= 1
        self._grant()
        self._forget(owner)

    def _grant(self) -> None:
        while self._grant_one():
            pass

    def _grant_one(self) -> bool:
        """Grant the first request of the owner that holds fewest. Return whether a request was granted.

        If that request does not fit, owners that hold more are granted nothing: otherwise their small
        requests could keep a large one waiting for ever.
        """
        limit: float = math.inf
        for owner in sorted(self._waiting, key=lambda owner: self._held.get(owner, 0)):
            held, queue = self._held.get(owner, 0), self._waiting[owner]
            if held > limit:
                return False
            if not queue:
                continue
            share = self.pool.acquire(queue[0][0])
            if share is None:
                limit = held
                continue
            _, future = queue.popleft()
            self._held[owner] = held + 1
            future.set_result(share)
            return True
        return False

    def _forget(self, owner: object) -> None:
        """Drop an owner that neither waits nor holds, so that a finished run is not kept alive."""
        if not self._waiting.get(owner):
            self._waiting.pop(owner, None)
            if not self._held.get(owner):
                self._held.pop(owner, None)
