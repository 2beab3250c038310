"""Loggers that write text files: each write is a value, separate from its execution.

So one logger works in two places. In a worker, or outside a run, the logger executes its writes itself. In
a driver, where no call may block the event loop, :mod:`asynctune.callbacks.logger_writer` takes the writes
and executes them asynchronously.

No file stays open between writes, since ten thousand trials may run at once. Only the owner can read the
files and directories. The files are not synced to disk: they are for people and tools, and the journal
holds the data that must survive a power failure.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO, TypeAlias

from asynctune.loggers.base import Logger

ENCODING = "utf-8"
ENCODING_ERRORS = "backslashreplace"
"""Writes a lone surrogate of a user's string as an escape, so that the row is not lost."""


@dataclass(frozen=True, slots=True)
class Append:
    """Appends ``text`` to a file, which is created if it does not exist."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Replaces a file by ``text`` atomically: a reader sees the old content or the new one."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Replaces the text of a file by ``transform(text)``; the text of a missing file is ``""``.

    ``transform`` may be called in any thread, so it must use its argument alone.
    """

    path: str
    transform: Callable[[str], str]


Write: TypeAlias = Append | Replace | Rewrite


class FileLogger(Logger):
    """Base class of the loggers that write text files.

    Subclasses append their writes (:class:`Append`, :class:`Replace`, :class:`Rewrite`) to the list
    ``self._writes``: those of the first files in ``_init()``, which may also read the files of a previous
    run, then those of rows in :meth:`add_result`, of configurations in :meth:`add_config` and of a new log
    in :meth:`add_restart`. These three methods and :meth:`take` run on the event loop of a driver, so they
    must not block. In ``_init()``, ``self._file(name)`` returns the absolute path of a file of the log.

    Outside a run, the methods of :class:`Logger` execute their writes before they return. A logger whose
    write raised must not be used further, since an unknown part of the write may have reached the file.
    """

    def __init__(
        self, config: dict[str, Any], logdir: str | os.PathLike[str], trial: Any = None
    ) -> None:
        self._writes: list[Write] = []
        super().__init__(config, logdir, trial)
        self.flush()

    def add_result(self, result: Mapping[str, Any]) -> None:
        """Add the writes for one result row."""
        raise NotImplementedError(f"{type(self).__qualname__} must override add_result(result)")

    def add_config(self, config: dict[str, Any]) -> None:
        """Add the writes for a new configuration."""
        self.config = config

    def add_restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the writes that make the log hold these rows and no others."""

    def take(self) -> list[Write]:
        """Return and clear the pending writes. The caller executes them in order before the next call."""
        writes, self._writes = self._writes, []
        return writes

    def on_result(self, result: Mapping[str, Any]) -> None:
        """Write one result row."""
        self.add_result(result)
        self.flush()

    def update_config(self, config: dict[str, Any]) -> None:
        """Write a new configuration."""
        self.add_config(config)
        self.flush()

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite the log to hold these rows and no others."""
        self.add_restart(rows)
        self.flush()

    def flush(self) -> None:
        """Execute the pending writes."""
        for write in self.take():
            carry_out(write)

    def _file(self, name: str) -> str:
        # Only for ``_init``, since abspath asks the system for the working directory. The path is absolute,
        # since a trainable may change that directory.
        return os.path.join(os.path.abspath(self.logdir), name)


def carry_out(write: Write) -> None:
    """Execute one write, and block until it is done."""
    match write:
        case Append(path, text):
            with _open(path, "a") as file:
                file.write(text)
        case Replace(path, text):
            temporary = temporary_name(path)
            try:
                with _open(temporary, "w") as file:
                    file.write(text)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        case Rewrite(path, transform):
            carry_out(Replace(path, transform(read_text(path) or "")))


def read_text(path: str) -> str | None:
    """Return the text of a file with its line ends unchanged; None if the file does not exist."""
    try:
        with open(path, encoding=ENCODING, errors="replace", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def temporary_name(path: str) -> str:
    """Return the name of the temporary file that is written before it replaces ``path``.

    The name is fixed, so that the next write overwrites a file left by a crash. No two writers use the
    same name, since a trial has one writer.
    """
    return f"{path}.tmp"


def private_opener(path: str, flags: int) -> int:
    """Open a file as an ``opener`` of :func:`open`; only the owner can read new files and directories."""
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        make_private_dirs(os.path.dirname(path))
        return os.open(path, flags, 0o600)


def make_private_dirs(path: str) -> None:
    """Create a directory and its missing parents, all of them readable by the owner alone.

    :func:`os.makedirs` gives its mode to the last directory only.
    """
    if not path or os.path.isdir(path):
        return
    make_private_dirs(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):  # if the path is a file, the next call fails
        os.mkdir(path, 0o700)


def _open(path: str, mode: Literal["a", "w"]) -> TextIO:
    return open(
        path,
        mode,
        encoding=ENCODING,
        errors=ENCODING_ERRORS,
        newline="",
        opener=private_opener,
    )
