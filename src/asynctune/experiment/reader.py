"""A journal on disk: its records, how it is read, and how much of a damaged one is good.

A record is one line: the length and the CRC32 of the JSON in 8 hex digits each, the JSON, a newline. What
is behind the last good record is the torn end of a write that a crash cut short, and counts as nothing.
What is bad in front of a good record is damage, and is never skipped.
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
PULLED = ".pulled"
"""Behind its name, while it is brought from elsewhere."""
FORMAT = 1
HEAD = 18  # "llllllll cccccccc "
_STARTED = b'{"kind":"run_started",'
_LONGEST = 32 << 20
"""No record of ours is longer; a line that is does not fill the memory."""


def record(data: bytes) -> bytes:
    """Frame the JSON of one event."""
    return b"%08x %08x %b\n" % (len(data), zlib.crc32(data), data)


def record_end(data: bytes, start: int) -> int | None:
    """Find the end of the good record at ``start``; None if there is none."""
    try:
        length = int(data[start : start + 8], 16)
    except ValueError:
        return None
    end = start + HEAD + length + 1
    # Framed again and compared, so that no byte of it goes unchecked.
    return end if data[start:end] == record(data[start + HEAD : end - 1]) else None


def decode(payload: bytes, path: Path, place: int) -> ev.Event | None:
    """Read the event of a good record; None for one of a kind that this version does not know.

    Raises:
        ExperimentCorrupt: It is no event.
    """
    try:
        return ev.decode(payload)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, place, str(exc)) from exc


class JournalReader:
    """A journal that is only read: what the analysis from disk and a resume rest on.

    Args:
        path: The file.

    Attributes:
        end: Where the last good record ends that :meth:`events` has come to.
        count: How many records there are up to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        self.count = 0

    def exists(self) -> bool:
        """Tell whether there is an experiment: a file whose first record is whole.

        Raises:
            ExperimentCorrupt: The first record is damaged, and good ones follow.
            UnsafePath: It is no regular file.
        """
        try:
            mode = self.path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(mode):
            raise UnsafePath(f"{self.path} is not a regular file, as a journal is; remove it")
        return next(iter(JournalReader(self.path).events()), None) is not None

    def events(self) -> Iterator[tuple[int, ev.Event]]:
        """Yield each event and its place. A torn end is left out.

        Raises:
            ExperimentCorrupt: It is damaged, or was written by a newer version.
        """
        self.end = self.count = 0
        doubted = -1
        while (yield from self._events_on()):
            if self.end == doubted:
                raise _damaged(self.path, doubted, "a record there does not match its checksum")
            # It may have been half written when it was read, and be followed by others since.
            doubted = self.end

    def _events_on(self) -> Generator[tuple[int, ev.Event], None, bool]:
        """Yield the events from the end on; return whether what is behind the last is damaged."""
        with self._open() as file:
            file.seek(self.end)
            while line := file.readline(_LONGEST):
                place = self.end
                payload = _payload(line)
                if payload is None:
                    return _only_the_newline_is_bad(line) or any(
                        _payload(later) is not None
                        for later in iter(lambda: file.readline(_LONGEST), b"")
                    )
                self._refuse_newer(payload)
                event = decode(payload, self.path, place)
                if place == 0 and not isinstance(event, ev.RunStarted):
                    raise ExperimentCorrupt(
                        f"{self.path} does not begin like a journal of asynctune", offset=0
                    )
                self.end += len(line)
                self.count += 1
                if event is not None:
                    yield place, event
        return False

    def replay(self, apply: Callable[[ev.Event, int], object]) -> None:
        """Tell a fold of all events.

        Args:
            apply: Is given each event and its place.

        Raises:
            ExperimentCorrupt: It is damaged, or says what cannot have happened.
        """
        for place, event in self.events():
            try:
                apply(event, place)
            except (AssertionError, LookupError, ValueError, TypeError, AttributeError) as exc:
                if isinstance(exc, TuneError):
                    raise
                raise _damaged(
                    self.path, place, f"a {event.kind} that cannot be ({type(exc).__name__}: {exc})"
                ) from exc

    def read_rows(self, places: Sequence[int]) -> list[Row]:
        """Read the rows of ``Reported`` events at the given places."""
        rows: list[Row] = []
        if not places:
            return rows
        with self._open() as file:
            for place in places:
                event = decode(self.read_record(file, place), self.path, place)
                assert isinstance(event, ev.Reported), "a place of a row holds another event"
                rows.append(event.row)
        return rows

    @staticmethod
    def read_record(file: BinaryIO, place: int) -> bytes:
        """Read the JSON of the record at a place."""
        file.seek(place)
        length = int(file.read(HEAD)[:8], 16)
        return file.read(length)

    def _open(self) -> BinaryIO:
        return self.path.open("rb")

    def _refuse_newer(self, payload: bytes) -> None:
        """Refuse what a newer version began or went on with, whatever else its record holds."""
        if not payload.startswith(_STARTED):
            return
        with contextlib.suppress(
            ValueError, RecursionError
        ):  # no record at all: told of by decode()
            body = json.loads(payload)
            made, version = body.get("format"), body.get("version")
            if isinstance(made, int) and made > FORMAT:
                raise ExperimentCorrupt(
                    f"{self.path} has format {made}, written by asynctune {version}; "
                    f"this version reads up to {FORMAT}: upgrade asynctune"
                )


def seed_of(directory: str) -> int | None:
    """Return the seed that an experiment began with, None if there is none that can be read.

    What is wrong with it is told when it is opened.
    """
    try:
        first = next(iter(JournalReader(Path(directory, FILE_NAME)).events()), None)
    except (TuneError, OSError):
        return None
    return first[1].seed if first is not None and isinstance(first[1], ev.RunStarted) else None


def repair(path: Path, apply: Callable[[ev.Event, int], object]) -> int:
    """Keep the good beginning of a damaged journal; what is cut off is kept beside it.

    The caller holds the lock of the experiment.

    Args:
        path: The file.
        apply: The fold that tells which events can be, see :meth:`JournalReader.replay`.

    Returns:
        How many bytes were cut off; 0 if nothing was wrong.

    Raises:
        ExperimentCorrupt: Nothing of it is good, or a newer version wrote it.
    """
    stored = JournalReader(path)
    try:
        stored.replay(apply)
        good = stored.end
    except ExperimentCorrupt as exc:
        if not exc.offset:  # None: a newer version; 0: not even the first record is good
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


def _damaged(path: Path, place: int, how: str) -> ExperimentCorrupt:
    return ExperimentCorrupt(
        f"{path} is damaged at byte {place}: {how}. `asynctune repair {path.parent}` keeps what is "
        "good in front of it",
        offset=place,
    )


def _payload(line: bytes) -> bytes | None:
    end = record_end(line, 0)
    return line[HEAD : end - 1] if end == len(line) else None


def _only_the_newline_is_bad(line: bytes) -> bool:
    # A write that was cut short never leaves a whole record with another byte behind it.
    try:
        end = HEAD + int(line[:8], 16) + 1
    except ValueError:
        return False
    newline = line[end - 1 : end]
    return newline not in (b"", b"\n", b"\0") and line[: end - 1] + b"\n" == record(
        line[HEAD : end - 1]
    )
