"""The journal of an experiment in a storage: segments, each created only if there is none.

A segment is one line of JSON, then bytes of the journal: those behind the segment before. The line says
where they begin and end, which driver wrote them, and the sha256 of the whole journal up to their end.

Each driver begins with a segment of its own. As the next number can be taken only once, of two drivers on
one storage one finds it taken by the other, and is told that the experiment is not its own any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asynctune.errors import ExperimentCorrupt, ExperimentLocked, StorageError
from asynctune.experiment import events as ev
from asynctune.experiment.reader import HEAD, PULLED, JournalReader, decode, record_end
from asynctune.storage import Storage
from asynctune.storage._numbered import NumberedObjects
from asynctune.storage.filesystem import current, storage_error

FORMAT = 1
_MOST = 8 << 20
_LONGEST = _MOST + (40 << 20)
"""A segment ends with a record, and one record is at most 32 MiB."""
_CHUNK = 1 << 20
_AT_ONCE = 8
_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class Segment:
    """What the first line of a segment says.

    Args:
        number: Its place among all.
        epoch: How many drivers came before the one that wrote it.
        driver: Tells that driver from all others.
        host: Where it ran, and ``pid``: as which process.
        pid: As above.
        start: Where in the journal its bytes begin.
        end: Where they end.
        digest: The sha256 of the journal up to ``end``.
    """

    number: int
    epoch: int
    driver: str
    host: str
    pid: int
    start: int
    end: int
    digest: str

    def to_bytes(self, data: bytes) -> bytes:
        """Write it."""
        names = ("epoch", "driver", "host", "pid", "start", "end", "digest")
        line = {"format": FORMAT} | {name: getattr(self, name) for name in names}
        return json.dumps(line).encode() + b"\n" + data

    @classmethod
    def from_bytes(cls, blob: bytes, number: int, where: str) -> tuple[Segment, bytes]:
        """Read and check it.

        Returns:
            The first line, and the bytes of the journal.

        Raises:
            ExperimentCorrupt: It is no segment, or one of a newer version.
        """
        try:
            line, _, data = blob.partition(b"\n")
            body: dict[str, Any] = json.loads(line)
            made = body.pop("format")
            segment = cls(number=number, **body)
            wrong = segment._wrong(made, len(data))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise ExperimentCorrupt(f"{where} is no segment of a journal: {exc!r}") from exc
        if wrong:
            raise ExperimentCorrupt(f"{where} is no segment of a journal: {wrong}")
        return segment, data

    def _wrong(self, made: Any, size: int) -> str:
        """Say what is wrong with what was read, "" for nothing."""
        if made != FORMAT:
            return f"it has format {made!r}; this version of asynctune reads {FORMAT}"
        counts = (self.epoch, self.pid, self.start, self.end)
        if not all(type(count) is int and count >= 0 for count in counts):
            return "its counts are none"
        if not all(isinstance(text, str) for text in (self.driver, self.host, self.digest)):
            return "its texts are none"
        if self.end - self.start != size:
            return f"it says {self.end - self.start} bytes and has {size}"
        return ""


class RemoteJournal:
    """The journal of one experiment in a storage, for one driver. Everything blocks.

    Args:
        storage: The place of the experiment.
    """

    def __init__(self, storage: Storage) -> None:
        self._url = storage.url
        self._numbered = NumberedObjects(storage, "journal", "the segments of its journal")
        self._driver = secrets.token_hex(8)
        self._epoch = 0
        self._next = 0
        self._last_epoch = -1
        self._digest = hashlib.sha256()
        self.end = 0
        """How much of the journal is there."""

    @property
    def driver(self) -> str:
        """What tells this driver from all others."""
        return self._driver

    def exists(self) -> bool:
        """Tell whether there is an experiment: any byte of a journal."""
        last = self._last()
        return last is not None and last.end > 0

    def seed(self) -> int | None:
        """Return the seed that the experiment began with, None if there is none."""
        for _, data in self._in_order(_ALL):
            if data:
                end = record_end(data, 0)
                event = (
                    decode(data[HEAD : (end or 0) - 1], Path(self._numbered.named(0)), 0)
                    if end
                    else None
                )
                return event.seed if isinstance(event, ev.RunStarted) else None
        return None

    def pull(self, journal: Path) -> bool:
        """Make the local journal what the storage knows, unless it knows more itself.

        Args:
            journal: The local one; it may be missing. The caller holds its lock.

        Returns:
            Whether it was written.

        Raises:
            ExperimentCorrupt: What is there is damaged, or local and remote have gone different ways.
            StorageError: It did not come, or cannot be written.
        """
        aside = journal.with_name(f"{journal.name}{PULLED}")
        aside.unlink(missing_ok=True)  # of somebody who was killed at it
        last = self._last()
        self._next = 1
        if last is not None:
            self._next, self._last_epoch = last.number + 1, last.epoch
        if last is None or not last.end:
            return False
        size = journal.stat().st_size if journal.is_file() else 0
        if size >= last.end:
            digest = _digest(journal, last.end)
            if digest.hexdigest() == last.digest:
                self._digest, self.end = digest, last.end
                return False
        # What the last driver here had not made whole is no step of its own.
        size = _good_end(journal) if size else 0
        try:
            digest = self._download(aside, last)
            if size > last.end or _digest(aside, size).digest() != _digest(journal, size).digest():
                raise ExperimentCorrupt(
                    f"{journal} and {self._url} are two continuations of one experiment: it went "
                    f"on elsewhere. To go on from there, move {journal.parent} away; to go on from here, "
                    "give another upload_dir"
                )
            files = current.get()
            files.sync_file(aside)
            files.rename(aside, journal)
            files.sync_directory(journal.parent)
        except OSError as exc:
            raise storage_error(exc, f"{journal} cannot be written") from exc
        finally:
            aside.unlink(missing_ok=True)
        self._digest, self.end = digest, last.end
        return True

    def begin(self, epoch: int) -> int:
        """Take the experiment over, before anything is written.

        Args:
            epoch: How many drivers came before, as far as the journal knows.

        Returns:
            How many there were. A driver that was killed early has begun there, and its journal is not.

        Raises:
            ExperimentLocked: Another driver has done so just now.
            StorageError: The storage takes an object twice, so it would let two drivers write.
        """
        self._epoch = max(epoch, self._last_epoch + 1)
        self._next = self._next or 1
        self._create(b"")
        own, data = self._read(self._next - 1)
        if own.driver == self._driver and self._numbered.create(own.number, own.to_bytes(data)):
            raise StorageError(
                f"{self._url} has stored {self._numbered.key(own.number)} twice, though it was told to "
                "create it only if there is none (If-None-Match): two drivers would destroy each other's "
                "experiment there. Use a store that obeys, or an fsspec filesystem in "
                "FsspecStorage(..., single_writer=True)"
            )
        return self._epoch

    def append(self, data: bytes) -> None:
        """Store what the journal has gained: whole records.

        Raises:
            ExperimentLocked: Another driver has taken the experiment over.
            StorageError: It could not be stored.
        """
        target = self.end + len(data)
        while self.end < target:
            self._create(data[self.end - target :])

    def _create(self, data: bytes) -> None:
        """Store a segment; after an attempt whose outcome was unknown, find out what it has stored."""
        end = self.end + len(data)
        digest = self._digest.copy()
        digest.update(data)
        segment = Segment(
            self._next, self._epoch, self._driver, socket.gethostname(), os.getpid(), self.end, end,
            digest.hexdigest(),
        )  # fmt: skip
        if not self._numbered.create(self._next, segment.to_bytes(data)):
            there, _ = self._read(self._next)
            if there.driver != self._driver:
                raise self._locked(there)
            # It is ours: the answer was lost. It may hold less, for the journal has grown since.
            end = there.end
            digest = self._digest.copy()
            digest.update(data[: end - self.end])
        self._digest, self.end = digest, end
        self._next += 1

    def takeover_error(self) -> ExperimentLocked | None:
        """Return what is to be raised if another driver has taken the experiment over.

        May be called while another thread appends.
        """
        number = self._next
        with suppress(FileNotFoundError):
            while (there := self._read(number)[0]).driver == self._driver:
                number += 1  # that thread has just stored it
            return self._locked(there)
        return None

    def _locked(self, by: Segment) -> ExperimentLocked:
        return ExperimentLocked(
            f"{self._url} is being run by process {by.pid} on {by.host}, which took it over with segment "
            f"{by.number} of its journal; nothing more is written there from here. Wait for it, end it, "
            "or choose another name",
            pid=by.pid,
            host=by.host,
        )

    def _last(self) -> Segment | None:
        numbers = self._numbered.all()
        if not numbers:
            return None
        return self._read(numbers[-1])[0]

    def _read(self, number: int) -> tuple[Segment, bytes]:
        data = self._numbered.read(number, _LONGEST)
        return Segment.from_bytes(data, number, self._numbered.named(number))

    def _download(self, target: Path, last: Segment) -> Any:
        """Write the journal into a file; return its sha256, which can go on."""
        end, digest = 0, hashlib.sha256()
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            for segment, data in self._in_order(last.number):
                if segment.start != end:
                    raise ExperimentCorrupt(
                        f"{self._numbered.named(segment.number)} begins at byte {segment.start} of the "
                        f"journal; what is in front of it ends at {end}"
                    )
                file.write(data)
                digest.update(data)
                end = segment.end
                if digest.hexdigest() != segment.digest:
                    raise ExperimentCorrupt(
                        f"{self._numbered.named(segment.number)} does not have the sha256 that it says"
                    )
        if end != last.end:
            raise ExperimentCorrupt(
                f"{self._numbered.named(last.number)} was there and is not any more"
            )
        return digest

    def _in_order(self, last: int) -> Iterator[tuple[Segment, bytes]]:
        """Yield the segments, read several at a time and never many more than are used."""
        numbers = [number for number in self._numbered.all() if number <= last]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="asynctune storage") as pool:
            for start in range(0, len(numbers), _AT_ONCE):
                yield from pool.map(self._read, numbers[start : start + _AT_ONCE])


def read_new(journal: Path, start: int, end: int) -> bytes:
    """Read bytes of a journal, as many whole records as make a segment, at least one.

    Args:
        journal: The file.
        start: Where they begin, at a record.
        end: Where they end at most, at a record.
    """
    with journal.open("rb") as file:
        file.seek(start)
        data = file.read(min(end - start, _MOST))
        if start + len(data) < end:
            cut = data.rfind(b"\n") + 1
            data = data[:cut] if cut else data + file.readline()
    return data


def _digest(path: Path, size: int) -> Any:
    digest = hashlib.sha256()
    if size:
        with path.open("rb") as file:
            while size and (chunk := file.read(min(_CHUNK, size))):
                digest.update(chunk)
                size -= len(chunk)
    return digest


def _good_end(journal: Path) -> int:
    stored = JournalReader(journal)
    for _ in stored.events():
        pass
    return stored.end
