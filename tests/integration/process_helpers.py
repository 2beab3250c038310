"""Tools of the tests of worker processes: processes in /proc, and waits for them by pidfd."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

from asynctune.executors import Actor, ProcessExecutor


def children(of: int) -> set[int]:
    """Return the children of a process, zombies included."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[1]) == of:
                    found.add(int(entry))
    return found


def family(of: int) -> set[int]:
    """Return the children of a process, their children, and so on."""
    direct = children(of)
    return direct.union(*map(family, direct))


class Watch:
    """Processes by their pidfds, which stay valid if a pid is used again."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}

    def add(self, *pids: int) -> None:
        for pid in pids:
            self._pids[os.pidfd_open(pid)] = pid

    async def all_end(self, within_s: float = 10.0) -> bool:
        """Wait until all processes have ended."""
        with anyio.move_on_after(within_s) as scope:
            for descriptor in self._pids:
                await anyio.wait_readable(descriptor)
        return not scope.cancelled_caught

    def close(self) -> None:
        """Kill the processes that are alive, and close the pidfds."""
        for descriptor in self._pids:
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


@contextmanager
def watching(*pids: int) -> Iterator[Watch]:
    watch = Watch()
    watch.add(*pids)
    try:
        yield watch
    finally:
        watch.close()


class Fifo:
    """A FIFO to which processes write their pids, for a test that neither blocks nor sleeps."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._open = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def numbers(self, count: int) -> list[int]:
        """Wait for a number of pids, each with a blank after it."""
        text = b""
        with anyio.fail_after(30):
            while text.count(b" ") < count:
                await anyio.wait_readable(self._open)
                text += os.read(self._open, 4096)
        return list(map(int, text.split()))

    def close(self) -> None:
        os.close(self._open)


async def pid_of(pool: ProcessExecutor, **kwargs: Any) -> int:
    """Return the pid of the worker of a new trial."""
    from process_trainables import pid

    async with pool.actor(pid, **kwargs) as actor:
        return int((await actor.train())["pid"])


@asynccontextmanager
async def busy(
    pool: ProcessExecutor, trainable: Any, fifo: Fifo, grace_s: float = 10.0
) -> AsyncIterator[tuple[Actor, asyncio.Future[Any], int]]:
    """Yield an actor whose ``train()`` has begun, with this call and the pid of the worker."""
    async with pool.actor(trainable, {"fifo": fifo.path}, grace_s=grace_s) as actor:
        train = asyncio.ensure_future(actor.train())
        try:
            (worker,) = await fifo.numbers(1)
            yield actor, train, worker
        finally:
            train.cancel()
            await asyncio.wait([train])
