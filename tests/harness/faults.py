"""File systems that fail, crash or lose data, as a bad disk, a kill and a power cut do.

Pass one to a run with :func:`using`::

    with using(FaultyFileSystem(crash_at=17)) as files, pytest.raises(Crash):
        await tune.run(train, executor=executor, name="x")

The file system counts every call of :class:`asynctune.storage.filesystem.FileSystem`. Only code of this
process uses it. With an ``InlineExecutor``, the commits of checkpoints use it, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from asynctune.storage import filesystem as _files
from asynctune.storage.filesystem import AnyPath, FileSystem

T = TypeVar("T")
F = TypeVar("F", bound=FileSystem)


class Crash(BaseException):
    """The simulated death of the process: no later file call has an effect."""


@contextmanager
def using(files: F) -> Iterator[F]:
    """Make the runs that start in this block use a file system."""
    token = _files.current.set(files)
    try:
        yield files
    finally:
        _files.current.reset(token)


class FaultyFileSystem(FileSystem):
    """Counts calls, and makes one or more of them fail.

    Args:
        fail_at: The number of the call that fails, from 1; None for no failure.
        error: The error number of the failure, such as ``errno.ENOSPC``.
        persistent: Whether all later calls fail, too.
        crash_at: The number of the call before which the process dies; None for no death.
        longest_write: The largest number of bytes that one write accepts; None for no limit.

    Attributes:
        calls: The names of the calls so far.
        fired: Whether a fault has happened.
    """

    __slots__ = (
        "_crash_at",
        "_error",
        "_fail_at",
        "_lock",
        "_longest_write",
        "_persistent",
        "calls",
        "fired",
    )

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        error: int = 0,
        persistent: bool = False,
        crash_at: int | None = None,
        longest_write: int | None = None,
    ) -> None:
        self._fail_at = fail_at
        self._error = error
        self._persistent = persistent
        self._crash_at = crash_at
        self._longest_write = longest_write
        self._lock = threading.Lock()  # calls come from the loop and from threads
        self.calls: list[str] = []
        self.fired = False

    def crash_next(self) -> None:
        """Let the driver die before the next call."""
        with self._lock:
            self._crash_at = len(self.calls) + 1

    def _call(self, name: str, function: Callable[..., T], *args: Any) -> T:
        with self._lock:
            self.calls.append(name)
            number = len(self.calls)
            if self._crash_at is not None and number >= self._crash_at:
                self.fired = True
                raise Crash(f"before call {self._crash_at}")
            failing = self._fail_at is not None and (
                number == self._fail_at or (self._persistent and number > self._fail_at)
            )
            if failing:
                self.fired = True
                raise OSError(self._error, os.strerror(self._error))
        return function(*args)

    def open(self, path: AnyPath, flags: int, mode: int = 0o600) -> int:
        return self._call("open", super().open, path, flags, mode)

    def write(self, descriptor: int, data: bytes) -> int:
        return self._call("write", super().write, descriptor, data[: self._longest_write])

    def truncate(self, descriptor: int, size: int) -> None:
        self._call("truncate", super().truncate, descriptor, size)

    def datasync(self, descriptor: int) -> None:
        # Without the real disk, since a test makes thousands of these calls.
        self._call("datasync", _nothing)

    def close(self, descriptor: int) -> None:
        super().close(
            descriptor
        )  # never a fault, since other tests look for descriptors that stay open

    def sync_directory(self, path: AnyPath) -> None:
        self._call("sync_directory", _nothing)

    def make_directory(self, path: AnyPath) -> None:
        self._call("make_directory", super().make_directory, path)

    def rename(self, source: AnyPath, target: AnyPath) -> None:
        self._call("rename", super().rename, source, target)

    def unlink(self, path: AnyPath) -> None:
        self._call("unlink", super().unlink, path)

    def remove_tree(self, path: AnyPath) -> None:
        with contextlib.suppress(OSError):  # the real call skips failures, and reports none
            self._call("remove_tree", super().remove_tree, path)


def _nothing() -> None:
    pass


class ForgetfulFiles(FaultyFileSystem):
    """Records the state after a power cut: the contents and the names that were synced.

    This is the harshest disk that POSIX allows: unsynced data is lost, whatever was synced later, and a
    removed file is gone at once.

    Args:
        root: The directory that exists at the beginning.
        crash_at: As for :class:`FaultyFileSystem`.
    """

    __slots__ = ("_contents", "_held", "_names", "_root")

    def __init__(self, root: AnyPath, *, crash_at: int | None = None) -> None:
        super().__init__(crash_at=crash_at)
        self._root = Path(root)
        self._contents: dict[int, bytes] = {}  # inode -> the synced content
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}  # directory -> name -> inode
        self._held: dict[
            int, int
        ] = {}  # inode -> a descriptor, so that the inode number is not reused
        self._remember_names(self._root)

    def datasync(self, descriptor: int) -> None:
        super().datasync(descriptor)
        with self._lock:
            inode = os.fstat(descriptor).st_ino
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._contents[inode] = file.read()
            self._hold(inode, f"/proc/self/fd/{descriptor}")

    def sync_directory(self, path: AnyPath) -> None:
        super().sync_directory(path)
        with self._lock:
            self._remember_names(Path(path))

    def unlink(self, path: AnyPath) -> None:
        super().unlink(path)
        self._forget_name(Path(path))

    def remove_tree(self, path: AnyPath) -> None:
        super().remove_tree(path)
        if not os.path.lexists(path):
            self._forget_name(Path(path))

    def after_power_loss(self, target: AnyPath) -> None:
        """Write the state after a power cut to a directory that does not exist yet."""
        with self._lock:
            self._write(self._root.stat().st_ino, Path(target))

    def release(self) -> None:
        """Close the open descriptors."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _remember_names(self, directory: Path) -> None:
        inode = directory.stat().st_ino
        self._hold(inode, directory)
        names = {}
        with os.scandir(directory) as entries:
            for entry in entries:
                there = entry.stat(follow_symlinks=False).st_ino
                names[entry.name] = (there, entry.is_dir(follow_symlinks=False))
                self._hold(there, entry.path)
        self._names[inode] = names

    def _forget_name(self, path: Path) -> None:
        with self._lock:
            self._names.get(path.parent.stat().st_ino, {}).pop(path.name, None)

    def _hold(self, inode: int, path: AnyPath) -> None:
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)

    def _write(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, (there, is_directory) in self._names.get(inode, {}).items():
            if is_directory:
                self._write(there, target / name)
            else:
                (target / name).write_bytes(self._contents.get(there, b""))
