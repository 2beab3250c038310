"""The journal: the events of an experiment in one append-only file of checked records.

A record is one line: the length and the CRC32 of the JSON in 8 hex digits each, the JSON, a newline.
It is written with one ``write`` before anyone is told of the event, so what was shown survives the
death of this process; ``fdatasync`` follows in groups, so what the machine's death may take is young.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import anyio
import anyio.to_thread

from asynctune import events as ev
from asynctune.errors import ExperimentCorrupt
from asynctune.result import Row

FILE_NAME = "journal"
FORMAT = 1
_HEAD = 18  # "llllllll cccccccc "
_GROUP_S = 0.1
_RECENT = 1024
_CHUNK = 1 << 18


def record(data: bytes) -> bytes:
    """Frame the JSON of one event."""
    return b"%08x %08x %b\n" % (len(data), zlib.crc32(data), data)


class Journal:
    """The writer of one journal, and the place where its readers wait.

    Args:
        path: The file; :meth:`open` creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._size = 0
        self._count = 0
        self._recent: deque[ev.Event] = deque(maxlen=_RECENT)
        self._recent_ends: deque[int] = deque(maxlen=_RECENT)
        self._waiting: list[anyio.Event] = []
        self._synced = 0
        self._want_sync = anyio.Event()
        self._hurry = anyio.Event()
        self._sync_waiting: list[anyio.Event] = []
        self._sync_error: OSError | None = None
        self._syncing = False
        self.ended = False

    def open(self) -> None:
        """Create the file. Blocks for a moment."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        # O_BINARY is Windows'; Python itself sees to it that children do not inherit the file.
        self._file = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o600)

    def append(self, event: ev.Event, row: bytes | None = None) -> int:
        """Write an event, then let the readers have it.

        Args:
            event: The event.
            row: The encoded row of a ``Reported``.

        Returns:
            The place of its record in the file.
        """
        data = record(ev.encode(event, row))
        place = self._size
        written = os.write(self._file, data)
        while written < len(data):  # a full disk writes a part before it refuses the rest
            written += os.write(self._file, data[written:])
        self._size += len(data)
        self._count += 1
        self._recent.append(event)
        self._recent_ends.append(self._size)
        self._want_sync.set()
        self._wake()
        return place

    def end(self) -> None:
        """Say that no event will follow, so that readers come to their end."""
        self.ended = True
        self._hurry.set()
        self._want_sync.set()
        self._wake()

    def close(self) -> None:
        """Close the file; it can still be read. Blocks for a moment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def sync_in_groups(self) -> None:
        """Make records durable, at most a tenth of a second after they came; runs until the end."""
        self._syncing = True
        try:
            while True:
                await self._want_sync.wait()
                if not self._sync_waiting and not self.ended:
                    with anyio.move_on_after(_GROUP_S):
                        await self._hurry.wait()
                if not self.ended:
                    self._want_sync, self._hurry = anyio.Event(), anyio.Event()
                count, waiting = self._count, self._sync_waiting
                self._sync_waiting = []
                if count > self._synced:
                    try:
                        await anyio.to_thread.run_sync(_datasync, self._file)
                    except OSError as exc:
                        self._sync_error = exc
                    self._synced = count
                for event in waiting:
                    event.set()
                if self.ended and self._synced == self._count:
                    return
        finally:
            # Whatever ended this task: nobody is to wait for it any longer.
            self._syncing = False
            for event in self._sync_waiting:
                event.set()

    async def synced(self) -> None:
        """Wait until all that has been appended is durable."""
        count = self._count
        while self._synced < count:
            if not self._syncing:  # its task was cancelled, with the whole loop
                await anyio.to_thread.run_sync(_datasync, self._file)
                self._synced = max(self._synced, count)
                break
            done = anyio.Event()
            self._sync_waiting.append(done)
            self._want_sync.set()
            self._hurry.set()
            await done.wait()
        if self._sync_error is not None:
            raise self._sync_error

    def read_rows(self, places: Sequence[int]) -> list[Row]:
        """Read the rows of ``Reported`` events at the given places."""
        return StoredJournal(self.path).read_rows(places)

    def follow(self) -> Follower:
        """Return an iterator over all events, from the first, that waits for those to come."""
        return Follower(self)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()


class Follower:
    """An async iterator over all events of a journal. Any number may follow, each at its own pace."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._index = 0
        self._place = 0
        self._buffer: deque[tuple[ev.Event | None, int]] = deque()
        self._one_at_a_time = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ev.Event:
        while True:
            async with self._one_at_a_time:
                event = await self._next()
            if event is not None:
                return event

    async def _next(self) -> ev.Event | None:
        journal = self._journal
        while self._index >= journal._count:
            if journal.ended:
                raise StopAsyncIteration
            woken = anyio.Event()
            journal._waiting.append(woken)
            await woken.wait()
        oldest = journal._count - len(journal._recent)
        if self._index >= oldest:
            self._buffer.clear()
            event: ev.Event | None = journal._recent[self._index - oldest]
            self._place = journal._recent_ends[self._index - oldest]
        else:
            if not self._buffer:
                self._buffer.extend(await anyio.to_thread.run_sync(self._read_on, self._place))
            event, self._place = self._buffer.popleft()
        self._index += 1
        return event

    def _read_on(self, start: int) -> list[tuple[ev.Event | None, int]]:
        """Read what follows a place. It changes nothing: a wait for it may be cancelled."""
        path, found = self._journal.path, []
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(_CHUNK)
            offset = 0
            while (end := _record_end(data, offset)) is not None:
                event = _decode(data[offset + _HEAD : end - 1], path, start + offset)
                found.append((event, start + end))
                offset = end
            if not found:  # one record larger than a chunk
                payload = StoredJournal.read_record(file, start)
                found.append((_decode(payload, path, start), start + _HEAD + len(payload) + 1))
        return found


class StoredJournal:
    """A journal that is only read: what the analysis from disk rests on.

    Args:
        path: The file.

    Raises:
        ExperimentCorrupt: It is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> Iterator[tuple[int, ev.Event]]:
        """Yield each event and its place. A torn last record is left out."""
        with self.path.open("rb") as file:
            place = 0
            for line in file:
                payload = _payload(line)
                if payload is None:
                    if any(_payload(later) is not None for later in file):
                        raise ExperimentCorrupt(
                            f"{self.path} is damaged at byte {place}: a record there does not match "
                            "its checksum, and good ones follow"
                        )
                    return
                event = _decode(payload, self.path, place)
                if place == 0:
                    self._check_first(event)
                if event is not None:
                    yield place, event
                place += len(line)

    def read_rows(self, places: Sequence[int]) -> list[Row]:
        """Read the rows of ``Reported`` events at the given places."""
        rows: list[Row] = []
        if not places:
            return rows
        with self.path.open("rb") as file:
            for place in places:
                event = _decode(StoredJournal.read_record(file, place), self.path, place)
                assert isinstance(event, ev.Reported), "a place of a row holds another event"
                rows.append(event.row)
        return rows

    @staticmethod
    def read_record(file: BinaryIO, place: int) -> bytes:
        """Read the JSON of the record at a place."""
        file.seek(place)
        length = int(file.read(_HEAD)[:8], 16)
        return file.read(length)

    def _check_first(self, event: ev.Event | None) -> None:
        if not isinstance(event, ev.RunStarted):
            raise ExperimentCorrupt(f"{self.path} does not begin like a journal of asynctune")
        if event.format > FORMAT:
            raise ExperimentCorrupt(
                f"{self.path} has format {event.format}, written by asynctune {event.version}; "
                f"this version reads up to {FORMAT}: upgrade asynctune"
            )


def _datasync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)


def _payload(line: bytes) -> bytes | None:
    end = _record_end(line, 0)
    return line[_HEAD : end - 1] if end == len(line) else None


def _record_end(data: bytes, start: int) -> int | None:
    """Find the end of the good record at ``start``; None if there is none."""
    try:
        length = int(data[start : start + 8], 16)
    except ValueError:
        return None
    end = start + _HEAD + length + 1
    # Framed again and compared, so that no byte of it goes unchecked.
    return end if data[start:end] == record(data[start + _HEAD : end - 1]) else None


def _decode(payload: bytes, path: Path, place: int) -> ev.Event | None:
    try:
        return ev.decode(payload)
    except ValueError as exc:
        raise ExperimentCorrupt(f"{path} is damaged at byte {place}: {exc}") from exc
