"""All that a killed driver leaves behind: nothing escapes a subreaper, however often it forks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_SET_CHILD_SUBREAPER = 36
_STEP_S = 0.01


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies, as init would be."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":  # it is dead, and only waits to be asked how it ended
                yield int(stat.parent.name), int(parent)


def descendants() -> list[int]:
    """The living processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = list(children.get(os.getpid(), ()))
    for pid in found:  # grows as it is walked
        found.extend(children.get(pid, ()))
    return found


def reap(but: int) -> None:
    """Take the exit status of every dead child, as init does, but for that of ``but``."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if int(pid) != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), os.WNOHANG)


def pause(seconds: float, driver: int) -> None:
    """Wait, and be init to the orphans meanwhile: one that stays a zombie looks alive to others."""
    end = time.monotonic() + seconds
    while True:
        reap(but=driver)
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _STEP_S))


class Watched:
    """Processes by pidfd: a number that is used again deceives nobody."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)

    def add(self, pids: list[int]) -> None:
        for pid in pids:
            if pid not in self._open or not self._lives(self._open[pid]):
                with contextlib.suppress(ProcessLookupError):
                    fd = os.pidfd_open(pid)
                    if pid in self._open:
                        os.close(self._open[pid])
                    self._open[pid] = fd

    @staticmethod
    def _lives(fd: int) -> bool:
        return not select.select([fd], [], [], 0)[0]

    def living(self) -> dict[int, str]:
        """The names of those that live, by their ids."""
        found = {}
        for pid, fd in self._open.items():
            if self._lives(fd):
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    def end(self) -> None:
        for fd in self._open.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)


def end_all(driver: int) -> None:
    """Kill every descendant, until there is none."""
    while pids := descendants():
        with Watched() as left:
            left.add(pids)
            left.end()
        pause(_STEP_S, driver)
    reap(but=driver)
