"""A journal on disk: the format of its records, the reader, and the repair of a damaged journal.

A record is one line: the length and the CRC32 of the JSON in 8 hex digits each, the JSON, a newline. Bytes
behind the last good record are the torn end of a write that a crash cut short; the reader ignores them.
Bad bytes in front of a good record are damage; the reader never skips them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from asynctune.errors import ExperimentCorrupt, TuneError, UnsafePath
from asynctune.experiment import events as ev
from asynctune.result import Row

FILE_NAME = "journal"
PARTIAL = ".pulled"
"""Suffix of the journal's file name during a download."""
FORMAT = 1
HEAD = 18  # "llllllll cccccccc "
_STARTED = b'{"kind":"run_started",'
_MAX_RECORD_BYTES = 32 << 20
"""The largest size of a record. The reader splits longer lines: a damaged file must not fill the memory."""


def record(data: bytes) -> bytes:
    """Frame the JSON of one event."""
    return b"%08x %08x %b\n" % (len(data), zlib.crc32(data), data)


def record_end(data: bytes, start: int) -> int | None:
    """Return the end of the good record at ``start``, None if the record is torn or damaged."""
    try:
        length = int(data[start : start + 8], 16)
    except ValueError:
        return None
    end = start + HEAD + length + 1
    # The JSON is framed again and compared, which checks every byte, those of the head too.
    return end if data[start:end] == record(data[start + HEAD : end - 1]) else None


def decode(payload: bytes, path: Path, offset: int) -> ev.Event | None:
    """Decode the event of a good record. Return None for a record that this version may skip.

    Args:
        payload: The JSON of the record.
        path: The path of the journal, for the error.
        offset: The offset of the record, for the error.

    Raises:
        ExperimentCorrupt: The JSON is no event, or one of a newer version.
    """
    try:
        return ev.decode(payload)
    except ev.UnknownKindError as exc:
        raise ExperimentCorrupt(
            f"{path} has a record of the kind {exc.kind!r} at byte {offset}, which a newer version of "
            "asynctune wrote and which a resume needs: upgrade asynctune"
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, offset, str(exc)) from exc


class JournalReader:
    """Reader of a journal, for the analysis from disk and for a resume.

    Args:
        path: The path of the journal.

    Attributes:
        end: The offset at which the last good record ends that :meth:`events` has reached.
        count: The number of records up to ``end``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        self.count = 0

    def exists(self) -> bool:
        """Return whether the experiment exists: whether the first record of the file is complete.

        Raises:
            ExperimentCorrupt: The first record is damaged, and good records follow.
            UnsafePath: The path is no regular file.
        """
        try:
            mode = self.path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(mode):
            raise UnsafePath(f"{self.path} must be a regular file, as a journal is; remove it")
        return next(iter(JournalReader(self.path).events()), None) is not None

    def events(self) -> Iterator[tuple[int, ev.Event]]:
        """Yield each event with the offset of its record. Ignore a torn end.

        Raises:
            ExperimentCorrupt: The journal is damaged, or a newer version wrote it.
        """
        self.end = self.count = 0
        suspect = -1
        while (yield from self._events_on()):
            if self.end == suspect:
                raise _damaged(self.path, suspect, "the record does not match its checksum")
            # A driver may have been writing the record during the read, and others since. Read it again.
            suspect = self.end

    def _events_on(self) -> Generator[tuple[int, ev.Event], None, bool]:
        """Yield the events from ``end`` on. Return whether the bytes behind the last one are damage."""
        with self._open() as file:
            file.seek(self.end)
            while line := file.readline(_MAX_RECORD_BYTES):
                offset = self.end
                payload = _payload(line)
                if payload is None:
                    return _only_the_newline_is_bad(line) or any(
                        _payload(later) is not None
                        for later in iter(lambda: file.readline(_MAX_RECORD_BYTES), b"")
                    )
                self._refuse_newer(payload)
                event = decode(payload, self.path, offset)
                if offset == 0 and not isinstance(event, ev.RunStarted):
                    raise ExperimentCorrupt(
                        f"{self.path} does not begin like a journal of asynctune", offset=0
                    )
                self.end += len(line)
                self.count += 1
                if event is not None:
                    yield offset, event
        return False

    def replay(self, apply: Callable[[ev.Event, int], object]) -> None:
        """Pass all events to a fold.

        Args:
            apply: The fold: a function of an event and the offset of its record.

        Raises:
            ExperimentCorrupt: The journal is damaged, or an event is impossible after those before it.
        """
        for offset, event in self.events():
            try:
                apply(event, offset)
            except (LookupError, ValueError, TypeError, AttributeError) as exc:
                if isinstance(exc, TuneError):
                    raise
                raise _damaged(
                    self.path, offset, f"impossible {event.kind} ({type(exc).__name__}: {exc})"
                ) from exc

    def read_rows(self, offsets: Sequence[int]) -> list[Row]:
        """Read the rows of the ``Reported`` events at the given offsets."""
        rows: list[Row] = []
        if not offsets:
            return rows
        with self._open() as file:
            for offset in offsets:
                event = decode(self.read_record(file, offset), self.path, offset)
                if not isinstance(event, ev.Reported):
                    raise _damaged(self.path, offset, "the record must be a row")
                rows.append(event.row)
        return rows

    @staticmethod
    def read_record(file: BinaryIO, offset: int) -> bytes:
        """Read the JSON of the record at an offset."""
        file.seek(offset)
        length = int(file.read(HEAD)[:8], 16)
        return file.read(length)

    def _open(self) -> BinaryIO:
        return self.path.open("rb")

    def _refuse_newer(self, payload: bytes) -> None:
        """Raise ``ExperimentCorrupt`` for a ``RunStarted`` of a newer format, whatever its other fields."""
        if not payload.startswith(_STARTED):
            return
        # decode() reports a payload that is no JSON.
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(payload)
            format_, version = body.get("format"), body.get("version")
            if isinstance(format_, int) and format_ > FORMAT:
                raise ExperimentCorrupt(
                    f"{self.path} has format {format_}, written by asynctune {version}; "
                    f"this version reads up to {FORMAT}: upgrade asynctune"
                )


def seed_of(directory: str) -> int | None:
    """Return the seed of an experiment, None if the journal is missing or unreadable.

    The opening of the experiment reports the errors of an unreadable journal.
    """
    try:
        first = next(iter(JournalReader(Path(directory, FILE_NAME)).events()), None)
    except (TuneError, OSError):
        return None
    return first[1].seed if first is not None and isinstance(first[1], ev.RunStarted) else None


def repair(path: Path, apply: Callable[[ev.Event, int], object]) -> int:
    """Truncate a damaged journal behind its last good record; copy the rest to a file beside it.

    The caller holds the lock of the experiment.

    Args:
        path: The path of the journal.
        apply: The fold that refuses impossible events, see :meth:`JournalReader.replay`.

    Returns:
        The number of bytes that were cut off; 0 for a good journal.

    Raises:
        ExperimentCorrupt: Not even the first record is good, or a newer version wrote the journal.
    """
    reader = JournalReader(path)
    try:
        reader.replay(apply)
        good = reader.end
    except ExperimentCorrupt as exc:
        if not exc.offset:  # None: a newer version wrote this; 0: not even the first record is good
            raise
        good = exc.offset
    size = path.stat().st_size
    if good == size:
        return 0
    number = 0
    while (kept := path.with_name(f"{path.name}.cut-{number}")).exists():
        number += 1
    with path.open("r+b") as file, kept.open("xb") as rest:
        file.seek(good)
        while chunk := file.read(1 << 20):
            rest.write(chunk)
        rest.flush()
        os.fsync(rest.fileno())
        file.truncate(good)
        file.flush()
        os.fsync(file.fileno())
    return size - good


def _damaged(path: Path, offset: int, how: str) -> ExperimentCorrupt:
    return ExperimentCorrupt(
        f"{path} is damaged at byte {offset}: {how}. `asynctune repair {path.parent}` keeps the good "
        "records in front of that byte",
        offset=offset,
    )


def _payload(line: bytes) -> bytes | None:
    end = record_end(line, 0)
    return line[HEAD : end - 1] if end == len(line) else None


def _only_the_newline_is_bad(line: bytes) -> bool:
    # A torn write leaves no whole record with another byte in the place of its newline: this is damage.
    try:
        end = HEAD + int(line[:8], 16) + 1
    except ValueError:
        return False
    newline = line[end - 1 : end]
    return newline not in (b"", b"\n", b"\0") and line[: end - 1] + b"\n" == record(
        line[HEAD : end - 1]
    )
