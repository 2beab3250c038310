"""The file calls on which an experiment's safety rests, as one object that tests can put faults into.

The journal, the lock and the checkpoints go through it; logs, which are a view of the journal, do not.
:mod:`asynctune.testing` has the twins that fail, crash, or forget what was not synced.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

from asynctune.errors import StorageError, StorageFull

AnyPath: TypeAlias = str | os.PathLike[str]

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)
BROKEN = frozenset({*_FULL, errno.EIO, errno.EROFS})
"""What a disk says that is full or broken, whatever was asked of it."""


class FileSystem:
    """The real calls. Each blocks for as long as the disk takes."""

    __slots__: tuple[str, ...] = ()

    def open(self, path: AnyPath, flags: int, mode: int = 0o600) -> int:
        """Open a file and return its descriptor, which children do not inherit."""
        # O_BINARY is Windows'; O_NOFOLLOW keeps us from writing through a link that somebody planted.
        extra = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        return os.open(path, flags | extra, mode)

    def write(self, descriptor: int, data: bytes) -> int:
        """Write once; return how many bytes were taken."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(descriptor, size)

    def datasync(self, descriptor: int) -> None:
        """Make the content of a file durable."""
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def sync_file(self, path: AnyPath) -> None:
        """Make the content of a file that somebody else wrote durable."""
        # Windows syncs only what is open for writing.
        descriptor = self.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            self.datasync(descriptor)
        finally:
            self.close(descriptor)

    def sync_directory(self, path: AnyPath) -> None:
        """Make the names in a directory durable."""
        if os.name == "nt":  # which cannot open a directory
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: AnyPath) -> None:
        """Create a directory for its owner alone."""
        os.mkdir(path, 0o700)

    def rename(self, source: AnyPath, target: AnyPath) -> None:
        """Give a directory its name."""
        os.rename(source, target)

    def unlink(self, path: AnyPath) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_tree(self, path: AnyPath) -> None:
        """Remove a directory and all in it, as far as that is possible."""
        shutil.rmtree(path, ignore_errors=True)


current: ContextVar[FileSystem] = ContextVar("asynctune_files", default=FileSystem())  # noqa: B039 - it has no state
"""The calls of a run: a run takes them when it starts, so a test can hand it others."""


def write_whole(files: FileSystem, descriptor: int, data: bytes) -> None:
    """Write all of it; a call may take only a part, as a full disk does before it refuses the rest."""
    written = files.write(descriptor, data)
    while written < len(data):
        written += files.write(descriptor, data[written:])


def make_directories(files: FileSystem, path: AnyPath) -> bool:
    """Create a directory and its parents, for their owner alone, durably; tell whether it is new."""
    target = Path(path)
    if target.is_dir():
        return False
    if target.parent != target:
        make_directories(files, target.parent)
    try:
        files.make_directory(target)
    except FileExistsError:
        if not target.is_dir():
            raise
        return False
    files.sync_directory(target.parent)
    return True


def storage_error(error: OSError, doing: str) -> StorageError:
    """Turn an error of the system into ours.

    Args:
        error: What the system said.
        doing: What was tried and where, as the beginning of a sentence.
    """
    if isinstance(error, StorageError):
        return error
    text = f"{doing}: {error.strerror or error}"
    if error.errno in _FULL:
        made: StorageError = StorageFull(f"{text}; make room, then resume")
    elif error.errno in _OUT_OF_FILES:
        made = StorageError(f"{text}; raise the limit of open files (ulimit -n), then resume")
    else:
        made = StorageError(text)
    made.errno = error.errno
    made.__cause__ = error
    return made
