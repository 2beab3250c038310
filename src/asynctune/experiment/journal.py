"""The journal of a run: the events of an experiment, appended to one file and told to its readers.

An event is written with one ``write`` before anyone is told of it, so what was shown survives the death
of this process; ``fdatasync`` follows in groups, so what the machine's death may take is young. What a
record looks like is said in :mod:`asynctune.experiment.reader`.
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
_CHUNK = 1 << 18


class Journal:
    """The writer of one journal, and the place where its readers wait.

    After a call of the system has failed nothing more is written: how much reached the disk is unknown
    then, and only a resume, which looks, may go on.

    Args:
        path: The file.
        durable: Whether readers are told of an event only when it is durable.
        files: The file calls; by default those of the context.
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
        self._want_sync = anyio.Event()
        self._hurry = anyio.Event()
        self._sync_waiting: list[anyio.Event] = []
        self._syncing = False
        self._broken: StorageError | None = None
        self.ended = False

    def open(self) -> None:
        """Create the file, or empty one that holds no whole record. Blocks for a moment.

        Raises:
            StorageError: The system refused.
        """
        try:
            self._file = self._files.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._files.truncate(self._file, 0)
            self._files.sync_directory(self.path.parent)
        except OSError as exc:
            raise _files.storage_error(exc, f"{self.path} cannot be created") from exc

    def reopen(self, stored: JournalReader) -> int:
        """Open a file that was read, cut off its torn end, and go on behind it. Blocks for a moment.

        Args:
            stored: The same file, read to its end.

        Returns:
            How many bytes were torn.

        Raises:
            StorageError: The system refused.
        """
        try:
            self._file = self._files.open(self.path, os.O_RDWR | os.O_APPEND)
            torn = os.fstat(self._file).st_size - stored.end
            if torn:
                # Before the first append: a record behind a torn one could never be told from damage.
                self._files.truncate(self._file, stored.end)
            self._files.datasync(self._file)
            self._files.sync_directory(self.path.parent)
        except OSError as exc:
            raise _files.storage_error(exc, f"{self.path} cannot be continued") from exc
        self._size = stored.end
        self._count = self._synced = stored.count
        self._synced_end = stored.end
        return torn

    def append(self, event: ev.Event, row: bytes | None = None) -> int:
        """Write an event, then let the readers have it.

        Args:
            event: The event.
            row: The encoded row of a ``Reported``.

        Returns:
            The place of its record in the file.

        Raises:
            StorageError: It could not be written; nothing more can be.
        """
        self._raise_if_broken()
        data = record(ev.encode(event, row))
        place = self._size
        try:
            _files.write_whole(self._files, self._file, data)
        except OSError as exc:
            self._break(exc, "cannot be written")
            self._raise_if_broken()
        self._size += len(data)
        self._count += 1
        self._recent.append(event)
        self._recent_ends.append(self._size)
        self._want_sync.set()
        if self._durable:
            self._hurry.set()
        else:
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
        """Make records durable, at most a tenth of a second after they came; runs until the end.

        Raises:
            StorageError: The system refused; it is not asked again, for it may lie then.
        """
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
                try:
                    if count > self._synced:
                        await self._sync(count)
                finally:
                    for event in waiting:
                        event.set()
                if self.ended and self._synced == self._count:
                    return
        finally:
            # Whatever ended this task: nobody is to wait for it any longer.
            self._syncing = False
            self._wake()
            for event in self._sync_waiting:
                event.set()

    async def synced(self) -> None:
        """Wait until all that has been appended is durable.

        Raises:
            StorageError: It cannot be made durable.
        """
        count = self._count
        while self._synced < count:
            self._raise_if_broken()
            if not self._syncing:  # its task was cancelled, with the whole loop
                await self._sync(count)
                break
            done = anyio.Event()
            self._sync_waiting.append(done)
            self._want_sync.set()
            self._hurry.set()
            await done.wait()

    @property
    def is_broken(self) -> bool:
        """Whether the system has refused to write."""
        return self._broken is not None

    def read_rows(self, places: Sequence[int]) -> list[Row]:
        """Read the rows of ``Reported`` events at the given places."""
        return JournalReader(self.path).read_rows(places)

    def follow(self) -> Follower:
        """Return an iterator over all events, from the first, that waits for those to come."""
        return Follower(self, 0, 0)

    def follow_new(self) -> Follower:
        """Return an iterator over the events that are yet to come."""
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
        """Sync the file; see that it is still where a resume would look for it. In a thread."""
        self._files.datasync(self._file)
        ours = os.fstat(self._file)
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or not os.path.samestat(ours, found):
            raise StorageError(
                f"the journal {self.path} was removed, moved or replaced while its experiment ran; what "
                "was written since is where it was moved to, or gone"
            )

    @property
    def shown_end(self) -> int:
        """Where in the file that ends which may be shown."""
        return self._synced_end if self._durable else self._size

    @property
    def _visible(self) -> int:
        """How many events readers may know of."""
        return self._synced if self._durable else self._count

    @property
    def _is_complete(self) -> bool:
        """Whether nothing will become visible any more."""
        return self.ended and (self._visible == self._count or not self._syncing)

    def _break(self, error: OSError, how: str) -> None:
        if self._broken is None:
            self._broken = _files.storage_error(error, f"the journal {self.path} {how}")

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            # A new one for each: several tasks raise it, and each adds its own traceback.
            error = type(self._broken)(*self._broken.args)
            error.errno = self._broken.errno
            raise error from self._broken.__cause__

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()


class Follower:
    """An async iterator over events of a journal. Any number may follow, each at its own pace."""

    def __init__(self, journal: Journal, index: int, place: int) -> None:
        self._journal = journal
        self._index = index
        self._place = place
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
            self._place = journal._recent_ends[self._index - oldest]
        else:
            if not self._buffer:
                self._buffer.extend(await run_in_thread(self._read_on, self._place))
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
            while (end := record_end(data, offset)) is not None:
                event = decode(data[offset + HEAD : end - 1], path, start + offset)
                found.append((event, start + end))
                offset = end
            if not found:  # one record larger than a chunk
                payload = JournalReader.read_record(file, start)
                found.append((decode(payload, path, start), start + HEAD + len(payload) + 1))
        return found
