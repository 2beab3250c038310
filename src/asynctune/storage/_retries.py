"""Trying again: full jitter, inside one limit of time."""

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

_FIRST_S = 0.1
_LONGEST_S = 10.0
_DOUBTS = 5


class Transient(Exception):
    """What failed may work if it is tried again."""


class Doubtful(Transient):
    """What failed is likely to fail again: a few times in a row are enough."""


class Retries:
    """Calls a function until it works, or its time is over.

    Between two attempts it waits for a random time between zero and a bound that doubles ("full jitter":
    Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015), so that many clients that failed
    together do not come back together.

    Args:
        timeouts: How long all attempts together may take.
        deadline: When they have to be over at the latest, by ``time.monotonic()``.
    """

    def __init__(self, timeouts: Timeouts, deadline: float | None = None) -> None:
        self.timeouts = timeouts
        self.deadline = deadline
        self._closed = threading.Event()
        self._parts: WeakSet[Retries] = WeakSet()
        self._lock = threading.Lock()

    def part(self) -> Retries:
        """Return the same for a part of the place; closing the whole closes it, too."""
        made = Retries(self.timeouts, self.deadline)
        with self._lock:
            self._parts.add(made)
            if self._closed.is_set():
                made.close()
        return made

    def limited(self) -> Retries:
        """Return a part with one deadline for all calls."""
        made = self.part()
        made.deadline = self.deadline or time.monotonic() + self.timeouts.operation_timeout_s
        return made

    def close(self) -> None:
        """Let nothing be tried again."""
        with self._lock:
            self._closed.set()
            parts = list(self._parts)
        for part in parts:
            part.close()

    def call(self, function: Callable[[float], T], what: str) -> T:
        """Call until it works.

        Args:
            function: Is given how many seconds are left; raises :class:`Transient` to be called again.
            what: What it does and where, as the subject of a sentence.

        Raises:
            StorageTimeout: It has not worked in time; what happened last is the cause.
            StorageError: This is closed, or what failed was doubtful and failed a few times in a row.
        """
        if self._closed.is_set():
            raise StorageError(f"{what} was given up: this storage has been closed")
        deadline = time.monotonic() + self.timeouts.operation_timeout_s
        if self.deadline is not None:
            deadline = min(deadline, self.deadline)
        bound, attempts, doubts = _FIRST_S, 0, 0
        while True:
            attempts += 1
            try:
                return function(max(0.001, deadline - time.monotonic()))
            except Transient as exc:
                doubts = doubts + 1 if isinstance(exc, Doubtful) else 0
                if doubts == _DOUBTS:
                    raise StorageError(
                        f"{what} failed, {doubts} times in a row: {exc}"
                    ) from exc.__cause__
                delay = random.uniform(0.0, bound)
                bound = min(2.0 * bound, _LONGEST_S)
                if time.monotonic() + delay >= deadline:
                    times = f"{attempts} attempt" + "s" * (attempts > 1)
                    limit = self.timeouts.operation_timeout_s
                    raise StorageTimeout(
                        f"{what} did not succeed within {limit:g} s, in {times}; the last time: {exc}"
                    ) from exc.__cause__
                if self._closed.wait(delay):
                    raise StorageError(f"{what} was given up: {exc}") from exc.__cause__
