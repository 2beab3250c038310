"""The journal of a run: the events of an experiment, appended to one file and passed on to its readers.

The journal writes each event with one ``write`` before any reader sees the event, so every event that was
shown survives the death of the driver. ``fdatasync`` follows in groups, so the death of the machine loses
only events of the last moments. :mod:`asynctune.experiment.reader` defines the format of a record.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import anyio

from asynctune._threads import run_in_thread
from asynctune.errors import StorageError
from asynctune.experiment import events as ev
from asynctune.experiment.reader import HEAD, JournalReader, decode, record, record_end
from asynctune.result import Row
from asynctune.storage import filesystem as _files

_GROUP_S = 0.1
_RECENT = 1024
"""Number of newest events kept in memory, so that a follower that keeps up never reads the file."""
_CHUNK = 1 << 18


class Journal:
    """Writer of one journal, and source of events for its followers.

    After a failed call of the operating system the journal accepts no more events: how much reached the
    disk is unknown then. Only a resume, which reads the file, may continue.

    Args:
        path: The path of the file.
        durable: Whether readers see an event only when it is durable.
        files: The file calls; by default those of the context.

    Attributes:
        ended: Whether no event will follow.
    """

    def __init__(
        self, path: Path, *, durable: bool = False, files: _files.FileSystem | None = None
    ) -> None:
        self.path = path
        self._durable = durable
        self._files = files or _files.current.get()
        self._file = -1
        self._size = 0
        self._count = 0
        self._recent: deque[ev.Event] = deque(maxlen=_RECENT)
        self._recent_ends: deque[int] = deque(maxlen=_RECENT)
        self._waiting: list[anyio.Event] = []
        self._synced = 0
        self._synced_end = 0
        self._sync_requested = anyio.Event()
        self._sync_at_once = anyio.Event()
        self._sync_waiting: list[anyio.Event] = []
        self._syncing = False
        self._broken: StorageError | None = None
        self.ended = False

    def open(self) -> None:
        """Create the file, or empty a file without a complete record. Blocks for a moment.

        Raises:
            StorageError: A call of the operating system failed.
        """
        try:
            self._file = self._files.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._files.truncate(self._file, 0)
            self._files.sync_directory(self.path.parent)
        except OSError as exc:
            raise _files.storage_error(exc, f"{self.path} cannot be created") from exc

    def reopen(self, reader: JournalReader) -> int:
        """Open an existing file, and cut off its torn end. Blocks for a moment.

        Args:
            reader: The reader of the same file, at its end.

        Returns:
            The number of bytes that were cut off.

        Raises:
            StorageError: A call of the operating system failed.
        """
        try:
            self._file = self._files.open(self.path, os.O_RDWR | os.O_APPEND)
            torn = os.fstat(self._file).st_size - reader.end
            if torn:
                # Before the first append: a torn record in front of a good one would count as damage.
                self._files.truncate(self._file, reader.end)
            self._files.datasync(self._file)
            self._files.sync_directory(self.path.parent)
        except OSError as exc:
            raise _files.storage_error(exc, f"{self.path} cannot be continued") from exc
        self._size = reader.end
        self._count = self._synced = reader.count
        self._synced_end = reader.end
        return torn

    def append(self, event: ev.Event, row: bytes | None = None) -> int:
        """Write an event, then show it to the readers.

        Args:
            event: The event.
            row: The encoded row of a ``Reported``.

        Returns:
            The offset of the record in the file.

        Raises:
            StorageError: The event could not be written; the journal accepts no more events.
        """
        self._raise_if_broken()
        data = record(ev.encode(event, row))
        offset = self._size
        try:
            _files.write_all(self._files, self._file, data)
        except OSError as exc:
            self._break(exc, "cannot be written")
            self._raise_if_broken()
        self._size += len(data)
        self._count += 1
        self._recent.append(event)
        self._recent_ends.append(self._size)
        self._sync_requested.set()
        if self._durable:
            self._sync_at_once.set()
        else:
            self._wake()
        return offset

    def end(self) -> None:
        """Mark the journal as ended: no event will follow, so its followers end too."""
        self.ended = True
        self._sync_at_once.set()
        self._sync_requested.set()
        self._wake()

    def close(self) -> None:
        """Close the file. Followers can still read it. Blocks for a moment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def sync_in_groups(self) -> None:
        """Make records durable at most 0.1 seconds after they were written. Runs until the journal ends.

        Raises:
            StorageError: A sync failed. It is not retried: after a failed ``fdatasync`` the kernel may
                report success for data that it has dropped.
        """
        self._syncing = True
        try:
            while True:
                await self._sync_requested.wait()
                if not self._sync_waiting and not self.ended:
                    with anyio.move_on_after(_GROUP_S):
                        await self._sync_at_once.wait()
                if not self.ended:
                    self._sync_requested, self._sync_at_once = anyio.Event(), anyio.Event()
                count, waiting = self._count, self._sync_waiting
                self._sync_waiting = []
                try:
                    if count > self._synced:
                        await self._sync(count)
                finally:
                    for event in waiting:
                        event.set()
                if self.ended and self._synced == self._count:
                    return
        finally:
            # However this task ended, release all tasks that wait for it.
            self._syncing = False
            self._wake()
            for event in self._sync_waiting:
                event.set()

    async def synced(self) -> None:
        """Wait until all appended events are durable.

        Raises:
            StorageError: The events cannot be made durable.
        """
        count = self._count
        while self._synced < count:
            self._raise_if_broken()
            if not self._syncing:  # sync_in_groups() was cancelled, with the whole run
                await self._sync(count)
                break
            done = anyio.Event()
            self._sync_waiting.append(done)
            self._sync_requested.set()
            self._sync_at_once.set()
            await done.wait()

    @property
    def is_broken(self) -> bool:
        """Whether a write or sync has failed."""
        return self._broken is not None

    def read_rows(self, offsets: Sequence[int]) -> list[Row]:
        """Read the rows of the ``Reported`` events at the given offsets."""
        return JournalReader(self.path).read_rows(offsets)

    def follow(self) -> Follower:
        """Return an iterator over all events, from the first, that waits for future events."""
        return Follower(self, 0, 0)

    def follow_new(self) -> Follower:
        """Return an iterator over future events."""
        return Follower(self, self._count, self._size)

    async def _sync(self, count: int) -> None:
        end = self._size
        try:
            await run_in_thread(self._make_durable)
        except OSError as exc:
            self._break(exc, "cannot be made durable")
        self._raise_if_broken()
        self._synced = max(self._synced, count)
        self._synced_end = max(self._synced_end, end)
        if self._durable:
            self._wake()

    def _make_durable(self) -> None:
        """Sync the file, and check that a resume would still find it at its path. Runs in a thread."""
        self._files.datasync(self._file)
        written = os.fstat(self._file)
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or not os.path.samestat(written, found):
            raise StorageError(
                f"the journal {self.path} was removed, moved or replaced while its experiment ran; later "
                "events are in the moved file, or lost"
            )

    @property
    def visible_end(self) -> int:
        """The offset at which the events end that readers may see."""
        return self._synced_end if self._durable else self._size

    @property
    def _visible(self) -> int:
        """The number of events that readers may see."""
        return self._synced if self._durable else self._count

    @property
    def _is_complete(self) -> bool:
        """Whether no further event will become visible."""
        return self.ended and (self._visible == self._count or not self._syncing)

    def _break(self, error: OSError, how: str) -> None:
        if self._broken is None:
            self._broken = _files.storage_error(error, f"the journal {self.path} {how}")

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            # Several tasks raise the error, and each adds its own traceback. So each gets a copy.
            error = type(self._broken)(*self._broken.args)
            error.errno = self._broken.errno
            raise error from self._broken.__cause__

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()


class Follower:
    """An async iterator over the events of a journal. Any number may follow, each at its own pace.

    Args:
        journal: The journal.
        index: The number of the first event.
        offset: The offset of its record.
    """

    def __init__(self, journal: Journal, index: int, offset: int) -> None:
        self._journal = journal
        self._index = index
        self._offset = offset
        self._buffer: deque[tuple[ev.Event | None, int]] = deque()
        # Several tasks may share one follower: without the lock two could take the same event.
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
        while self._index >= journal._visible:
            if journal._is_complete:
                raise StopAsyncIteration
            woken = anyio.Event()
            journal._waiting.append(woken)
            await woken.wait()
        oldest = journal._count - len(journal._recent)
        if self._index >= oldest:
            self._buffer.clear()
            event: ev.Event | None = journal._recent[self._index - oldest]
            self._offset = journal._recent_ends[self._index - oldest]
        else:
            if not self._buffer:
                self._buffer.extend(await run_in_thread(self._read_chunk, self._offset))
            event, self._offset = self._buffer.popleft()
        self._index += 1
        return event

    def _read_chunk(self, start: int) -> list[tuple[ev.Event | None, int]]:
        """Read the events that follow an offset, each with the end of its record.

        The method changes no attribute, since the task that waits for its thread may be cancelled.
        """
        path, found = self._journal.path, []
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(_CHUNK)
            offset = 0
            while (end := record_end(data, offset)) is not None:
                event = decode(data[offset + HEAD : end - 1], path, start + offset)
                found.append((event, start + end))
                offset = end
            if not found:  # the record is larger than a chunk
                payload = JournalReader.read_record(file, start)
                found.append((decode(payload, path, start), start + HEAD + len(payload) + 1))
        return found
