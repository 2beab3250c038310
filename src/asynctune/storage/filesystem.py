"""The file calls on which an experiment's safety rests, as one object that tests can replace.

The journal, the lock and the checkpoints use them. Logs do not: they are derived from the journal.
Tests have replacements that fail, crash, or lose unsynced data (``tests/harness/faults.py``).
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

_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
DISK_FAILURES = frozenset({*_DISK_FULL, errno.EIO, errno.EROFS})
"""The error numbers of a full or broken disk, whatever the call."""


class FileSystem:
    """The real calls. Each blocks for as long as the disk takes."""

    __slots__: tuple[str, ...] = ()

    def open(self, path: AnyPath, flags: int, mode: int = 0o600) -> int:
        """Open a file and return its descriptor, which child processes do not inherit."""
        # Without O_BINARY Windows changes line ends. O_NOFOLLOW prevents writing through a planted link.
        extra = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        return os.open(path, flags | extra, mode)

    def write(self, descriptor: int, data: bytes) -> int:
        """Make one write call and return the number of bytes written."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file to a size in bytes."""
        os.ftruncate(descriptor, size)

    def datasync(self, descriptor: int) -> None:
        """Make the content of a file durable."""
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def sync_file(self, path: AnyPath) -> None:
        """Make the content of a closed file durable."""
        # Windows syncs only files that are open for writing.
        descriptor = self.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            self.datasync(descriptor)
        finally:
            self.close(descriptor)

    def sync_directory(self, path: AnyPath) -> None:
        """Make the names in a directory durable."""
        if os.name == "nt":  # Windows cannot open a directory.
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: AnyPath) -> None:
        """Create a directory that only its owner can use."""
        os.mkdir(path, 0o700)

    def rename(self, source: AnyPath, target: AnyPath) -> None:
        """Rename a file or a directory."""
        os.rename(source, target)

    def unlink(self, path: AnyPath) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_tree(self, path: AnyPath) -> None:
        """Remove a directory with its content; skip what cannot be removed."""
        shutil.rmtree(path, ignore_errors=True)


current: ContextVar[FileSystem] = ContextVar("asynctune_files", default=FileSystem())  # noqa: B039 - it has no state
"""The file calls of the current context. A run reads the variable at its start, so tests can set it."""


def write_all(filesystem: FileSystem, descriptor: int, data: bytes) -> None:
    """Write all bytes."""
    # One call may write only a part, as a full disk does before it refuses the rest.
    written = filesystem.write(descriptor, data)
    while written < len(data):
        written += filesystem.write(descriptor, data[written:])


def make_directories(filesystem: FileSystem, path: AnyPath) -> bool:
    """Create a directory and its parents durably, for their owner alone.

    Returns:
        Whether the directory is new.
    """
    target = Path(path)
    if target.is_dir():
        return False
    if target.parent != target:
        make_directories(filesystem, target.parent)
    try:
        filesystem.make_directory(target)
    except FileExistsError:  # Another thread or process may have created the directory meanwhile.
        if not target.is_dir():
            raise
        return False
    filesystem.sync_directory(target.parent)
    return True


def storage_error(error: OSError, failure: str) -> StorageError:
    """Return an error of the operating system as a ``StorageError`` with the same ``errno``.

    Args:
        error: The error of the operating system.
        failure: The failed operation and its path, as the beginning of the message.
    """
    if isinstance(error, StorageError):
        return error
    text = f"{failure}: {error.strerror or error}"
    if error.errno in _DISK_FULL:
        converted: StorageError = StorageFull(f"{text}; make room, then resume")
    elif error.errno in _TOO_MANY_FILES:
        converted = StorageError(f"{text}; raise the limit of open files (ulimit -n), then resume")
    else:
        converted = StorageError(text)
    converted.errno = error.errno
    converted.__cause__ = error
    return converted
