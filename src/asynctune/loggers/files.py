"""Loggers that write text files: they describe each write as a value, and others carry it out.

The description is what lets one logger serve in two places. In a worker, or without any run, the
logger carries its writes out itself; in a driver, where nothing may block the event loop,
:mod:`asynctune.callbacks.logger_writer` takes them and writes asynchronously.

No descriptor stays open, since ten thousand trials may be. Files and directories belong to their
owner alone. Nothing is synced to the disk: these files are for people and tools, and what must
survive a power failure is in the journal.
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
"""A lone surrogate in somebody's string is no reason to lose the row."""


@dataclass(frozen=True, slots=True)
class Append:
    """Add ``text`` to the end of a file, which is created if it does not exist."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Put ``text`` in the place of a file at once: a reader sees the old or the new one."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Replace a file by what ``transform`` makes of its text (of ``""`` if there is none).

    ``transform`` may be called in any thread, so it works on its argument alone.
    """

    path: str
    transform: Callable[[str], str]


Write: TypeAlias = Append | Replace | Rewrite


class FileLogger(Logger):
    """Base class of the loggers that write text files.

    Subclasses describe what is to be written: the first files in ``_init``, which may also read
    what an earlier run left, then rows in :meth:`add_result`, configurations in
    :meth:`add_config` and the log anew in :meth:`add_restart`. These and :meth:`take` run on a driver's
    event loop, so they compute and do not block.

    Used by itself, as any :class:`Logger`, each call carries out its writes before it returns. If a
    write raises, the logger is of no further use: how much of it reached the file is unknown.
    """

    def __init__(
        self, config: dict[str, Any], logdir: str | os.PathLike[str], trial: Any = None
    ) -> None:
        self._writes: list[Write] = []
        super().__init__(config, logdir, trial)
        self.flush()

    def add_result(self, result: Mapping[str, Any]) -> None:
        """Describe the writes for one result row."""
        raise NotImplementedError(f"{type(self).__qualname__} must override add_result(result)")

    def add_config(self, config: dict[str, Any]) -> None:
        """Describe the writes for a new configuration."""
        self.config = config

    def add_restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Describe the log anew, as if it had been given these rows and no others."""

    def take(self) -> list[Write]:
        """Hand over the pending writes, to be carried out in order before the next ``take``."""
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
        """Write the log anew, as if it had been given these rows and no others."""
        self.add_restart(rows)
        self.flush()

    def flush(self) -> None:
        """Carry out the pending writes."""
        for write in self.take():
            carry_out(write)

    def _file(self, name: str) -> str:
        # For ``_init``, since it asks the system. Absolute, so that the writes do not follow a
        # trainable that changes the working directory.
        return os.path.join(os.path.abspath(self.logdir), name)


def carry_out(write: Write) -> None:
    """Carry out one write, blocking until it is done."""
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
    """Read a file of a logger as it is, line ends included; None if there is none."""
    try:
        with open(path, encoding=ENCODING, errors="replace", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def temporary_name(path: str) -> str:
    """Name the file that is written before it replaces ``path``.

    The name is fixed, so that what a crash leaves behind is overwritten and never piles up. A trial
    has one writer, so no two can meet there.
    """
    return f"{path}.tmp"


def private_opener(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` whose new files and directories are the owner's alone."""
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        make_private_dirs(os.path.dirname(path))
        return os.open(path, flags, 0o600)


def make_private_dirs(path: str) -> None:
    """Create a directory and its parents, all of them for the owner alone.

    Unlike :func:`os.makedirs`, which gives its mode to the last one only.
    """
    if not path or os.path.isdir(path):
        return
    make_private_dirs(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):  # a file of that name fails at the next step
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
