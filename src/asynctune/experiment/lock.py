"""The lock of an experiment: one driver at a time, and nothing stays locked behind a dead one.

A kernel lock on a file that is never removed. The kernel gives it back when the driver dies, whatever it
was killed by. A child that the driver forked holds the same lock, so the child closes it at its birth.

Should somebody remove that file all the same, a second lock on the journal itself keeps others out: it is
the journal that two drivers would ruin, and one who removes it, too, begins another one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import weakref
from pathlib import Path

from asynctune.errors import ExperimentLocked
from asynctune.storage.filesystem import FileSystem

FILE_NAME = "lock"
_BEYOND = 1 << 30
"""Where Windows locks a byte: readers of the text in front of it are not to be shut out."""


class ExperimentLock:
    """Holds the lock of one experiment from :meth:`acquire` to :meth:`release`.

    Args:
        directory: The experiment.
        files: The file calls.
        journal: The name of its journal, which is created if it is not there.
    """

    def __init__(self, directory: str, files: FileSystem, journal: str) -> None:
        self.path = Path(directory, FILE_NAME)
        self._paths = [self.path, Path(directory, journal)]
        self._files = files
        self._descriptors: list[int] = []

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            ExperimentLocked: Another driver has it; the error says which.
            OSError: A file cannot be opened.
        """
        try:
            for path in self._paths[:_HOW_MANY]:
                descriptor = self._files.open(path, os.O_RDWR | os.O_CREAT)
                self._descriptors.append(descriptor)
                _HELD.add(self)
                try:
                    _lock(descriptor)
                except (BlockingIOError, PermissionError):
                    raise _held(self.path) from None
        except BaseException:
            self.release()
            raise
        # For people and for the message that another driver gets. The kernel knows who has it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptors[0], 0)
            os.write(self._descriptors[0], f"{os.getpid()} {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Give the lock back, if it is held."""
        descriptors, self._descriptors = self._descriptors, []
        _HELD.discard(self)
        for descriptor in descriptors:
            os.close(descriptor)


_HELD: weakref.WeakSet[ExperimentLock] = weakref.WeakSet()
"""The locks of this process: a fork is the process's, so what a child has to close is too."""


def _close_in_child() -> None:
    for lock in list(_HELD):
        lock.release()  # closed, never unlocked: unlocking would take it from the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _held(path: Path) -> ExperimentLocked:
    words: list[str] = []
    with contextlib.suppress(OSError):
        words = path.read_text(encoding="utf-8", errors="replace").split()
    pid = int(words[0]) if words and words[0].isdigit() else None
    host = words[1] if len(words) > 1 else None
    return ExperimentLocked(
        f"{path.parent} is being run by process {pid or '?'} on {host or 'an unknown machine'}; wait "
        "for it, end it, or choose another name",
        pid=pid,
        host=host,
    )


if sys.platform == "win32":
    import msvcrt

    _HOW_MANY = 1  # what is open cannot be removed there

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    _HOW_MANY = 2

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
