"""Retries with full jitter, within one limit of time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from asynctune.errors import StorageError, StorageTimeout
from asynctune.storage.base import Timeouts

T = TypeVar("T")

_INITIAL_DELAY_S = 0.1
_MAX_DELAY_S = 10.0
_MAX_DOUBTFUL = 5


class Transient(Exception):
    """A failure after which a retry may succeed."""


class Doubtful(Transient):
    """A failure that is likely to repeat; five of them in a row end the call."""


class Retries:
    """Call a function until it succeeds or its time is over.

    Between two attempts the delay is a random time between zero and a bound that doubles ("full jitter":
    Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015), so that many clients that failed
    together do not retry together.

    Args:
        timeouts: The limits of time; ``operation_timeout_s`` bounds all attempts of a call together.
        deadline: The time by ``time.monotonic()`` at which all calls end at the latest.
    """

    def __init__(self, timeouts: Timeouts, deadline: float | None = None) -> None:
        self.timeouts = timeouts
        self.deadline = deadline
        self._closed = threading.Event()
        self._children: WeakSet[Retries] = WeakSet()
        self._lock = threading.Lock()

    def child(self) -> Retries:
        """Return retries for a part of the storage, which are closed together with these."""
        child = Retries(self.timeouts, self.deadline)
        with self._lock:
            self._children.add(child)
            if self._closed.is_set():
                child.close()
        return child

    def limited(self) -> Retries:
        """Return a child with one deadline for all its calls."""
        child = self.child()
        child.deadline = self.deadline or time.monotonic() + self.timeouts.operation_timeout_s
        return child

    def close(self) -> None:
        """Let running calls fail instead of retrying, and future calls fail at once."""
        with self._lock:
            self._closed.set()
            children = list(self._children)
        for child in children:
            child.close()

    def call(self, function: Callable[[float], T], operation: str) -> T:
        """Call a function until it succeeds.

        Args:
            function: The function, which gets the remaining time in seconds and raises
                :class:`Transient` to be called again.
            operation: The call and its URL, as the subject of the error message.

        Raises:
            StorageTimeout: The function has not succeeded in time; the cause is that of its last failure.
            StorageError: The retries are closed, or doubtful failures came several times in a row.
        """
        if self._closed.is_set():
            raise StorageError(f"{operation} was given up: this storage has been closed")
        deadline = time.monotonic() + self.timeouts.operation_timeout_s
        if self.deadline is not None:
            deadline = min(deadline, self.deadline)
        bound, attempts, num_doubtful = _INITIAL_DELAY_S, 0, 0
        while True:
            attempts += 1
            try:
                return function(max(0.001, deadline - time.monotonic()))
            except Transient as exc:
                num_doubtful = num_doubtful + 1 if isinstance(exc, Doubtful) else 0
                if num_doubtful == _MAX_DOUBTFUL:
                    raise StorageError(
                        f"{operation} failed {num_doubtful} times in a row: {exc}"
                    ) from exc.__cause__
                delay = random.uniform(0.0, bound)
                bound = min(2.0 * bound, _MAX_DELAY_S)
                if time.monotonic() + delay >= deadline:
                    times = f"{attempts} attempt" + "s" * (attempts > 1)
                    limit = self.timeouts.operation_timeout_s
                    raise StorageTimeout(
                        f"{operation} did not succeed within {limit:g} s, in {times}; last failure: {exc}"
                    ) from exc.__cause__
                if self._closed.wait(delay):
                    raise StorageError(f"{operation} was given up: {exc}") from exc.__cause__
