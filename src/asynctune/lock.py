"""The lock of an experiment: one driver at a time, and nothing stays locked behind a dead one.

A kernel lock on a file that is never removed. The kernel gives it back when the driver dies, whatever it
was killed by. A child that the driver forked holds the same lock, so the child closes it at its birth.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import weakref
from pathlib import Path

from asynctune.errors import ExperimentLocked
from asynctune.files import Files

FILE_NAME = "lock"
_BEYOND = 1 << 30
"""Where Windows locks a byte: readers of the text in front of it are not to be shut out."""


class ExperimentLock:
    """Holds the lock of one experiment from :meth:`acquire` to :meth:`release`.

    Args:
        directory: The experiment.
        files: The file calls.
    """

    def __init__(self, directory: str, files: Files) -> None:
        self.path = Path(directory, FILE_NAME)
        self._files = files
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            ExperimentLocked: Another driver has it; the error says which.
            OSError: The file cannot be opened.
        """
        descriptor = self._files.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise _held(self.path) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _HELD.add(self)
        # For people and for the message that another driver gets. The kernel knows who has it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Give the lock back, if it is held."""
        descriptor, self._descriptor = self._descriptor, -1
        _HELD.discard(self)
        if descriptor >= 0:
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

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
