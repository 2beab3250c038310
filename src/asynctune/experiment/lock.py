"""The lock of an experiment: one driver at a time, and no lock outlives its driver.

The lock is a kernel lock on a file that is never removed. The kernel releases the lock when the driver
dies, however it dies. A child process that the driver forks inherits the lock, so the child closes its
copy right after the fork.

A user may remove the lock file all the same. So a second lock, on the journal itself, keeps other drivers
out: two drivers would ruin the journal. A user who removes the journal too begins another experiment.
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
_LOCKED_OFFSET = 1 << 30
"""Offset of the byte that Windows locks: far behind the text, so that other processes can read the text."""


class ExperimentLock:
    """The lock of one experiment, held from :meth:`acquire` to :meth:`release`.

    Args:
        directory: The directory of the experiment.
        files: The file calls.
        journal: The file name of the journal; :meth:`acquire` creates a missing file.
    """

    def __init__(self, directory: str, files: FileSystem, journal: str) -> None:
        self.path = Path(directory, FILE_NAME)
        self._paths = [self.path, Path(directory, journal)]
        self._files = files
        self._descriptors: list[int] = []

    def acquire(self) -> None:
        """Acquire the lock, or fail at once.

        Raises:
            ExperimentLocked: Another driver holds the lock; the error names its process and machine.
            OSError: A file cannot be opened.
        """
        try:
            for path in self._paths[:_NUM_FILES]:
                descriptor = self._files.open(path, os.O_RDWR | os.O_CREAT)
                self._descriptors.append(descriptor)
                _HELD.add(self)
                try:
                    _lock(descriptor)
                except (BlockingIOError, PermissionError):
                    raise _locked_error(self.path) from None
        except BaseException:
            self.release()
            raise
        # The text serves people and the message of another driver; only the kernel lock decides.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptors[0], 0)
            os.write(self._descriptors[0], f"{os.getpid()} {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Release the lock, if it is held."""
        descriptors, self._descriptors = self._descriptors, []
        _HELD.discard(self)
        for descriptor in descriptors:
            os.close(descriptor)


_HELD: weakref.WeakSet[ExperimentLock] = weakref.WeakSet()
"""The locks of this process. Global, because a fork duplicates the whole process: the child closes all."""


def _close_in_child() -> None:
    for lock in list(_HELD):
        # Close, never unlock: parent and child share the lock, so unlocking would end the parent's.
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _locked_error(path: Path) -> ExperimentLocked:
    words: list[str] = []
    with contextlib.suppress(OSError):
        words = path.read_text(encoding="utf-8", errors="replace").split()
    pid = int(words[0]) if words and words[0].isdigit() else None
    host = words[1] if len(words) > 1 else None
    return ExperimentLocked(
        f"{path.parent} is being run by process {pid or '?'} on {host or 'an unknown machine'}; wait "
        "for that process, end it, or choose another name",
        pid=pid,
        host=host,
    )


if sys.platform == "win32":
    import msvcrt

    _NUM_FILES = 1  # Windows removes no open file, so one lock is enough

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    _NUM_FILES = 2

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
