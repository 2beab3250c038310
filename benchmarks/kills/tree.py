"""All processes that a killed driver leaves behind: no descendant escapes a subreaper."""

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
    """Make this process the parent of every descendant whose own parent dies, in place of init."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":  # a zombie, which waits for its parent to read the exit status
                yield int(stat.parent.name), int(parent)


def descendants() -> list[int]:
    """Return the living descendants of this process."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = list(children.get(os.getpid(), ()))
    for pid in found:  # the list grows during the loop
        found.extend(children.get(pid, ()))
    return found


def reap(but: int) -> None:
    """Read the exit status of every dead child, as init does, except that of ``but``."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if int(pid) != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), os.WNOHANG)


def pause(seconds: float, driver: int) -> None:
    """Wait, and reap orphans meanwhile, since a zombie looks alive to other processes."""
    end = time.monotonic() + seconds
    while True:
        reap(but=driver)
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _STEP_S))


class Watched:
    """Processes by their pidfds, which stay valid if a pid is used again."""

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
        """Return the names of the living processes, by pid."""
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
    """Kill descendants until none is left."""
    while pids := descendants():
        with Watched() as left:
            left.add(pids)
            left.end()
        pause(_STEP_S, driver)
    reap(but=driver)
