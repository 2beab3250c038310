"""The journal of an experiment in a storage: a series of segments, each created once and never replaced.

A segment is one line of JSON, then the bytes of the journal behind those of the previous segment. The line
holds their start and end, the driver that wrote them, and the sha256 of the whole journal up to their end.

Each driver begins with a segment of its own. Only one driver can take the next number. So of two drivers on
one storage, one finds the number taken by the other, and raises ``ExperimentLocked``.
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
from asynctune.experiment.reader import HEAD, PARTIAL, JournalReader, decode, record_end
from asynctune.storage import Storage
from asynctune.storage.filesystem import current, storage_error
from asynctune.storage.numbered import NumberedObjects

FORMAT = 1
_MAX_DATA_BYTES = 8 << 20
_MAX_SEGMENT_BYTES = _MAX_DATA_BYTES + (40 << 20)
"""More than the size limit of the data, since a segment ends with a whole record, of at most 32 MiB."""
_CHUNK = 1 << 20
_NUM_THREADS = 8
_ALL = 1 << 62
"""A number above that of every segment."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The first line of a segment.

    Args:
        number: The number of the segment, from 1.
        epoch: The number of drivers before the driver that wrote the segment.
        driver: The random id of that driver.
        host: The machine of that driver.
        pid: The process id of that driver.
        start: The offset in the journal at which the segment's bytes begin.
        end: The offset at which they end.
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
        """Encode the segment.

        Args:
            data: The bytes of the journal from ``start`` to ``end``.
        """
        names = ("epoch", "driver", "host", "pid", "start", "end", "digest")
        line = {"format": FORMAT} | {name: getattr(self, name) for name in names}
        return json.dumps(line).encode() + b"\n" + data

    @classmethod
    def from_bytes(cls, blob: bytes, number: int, where: str) -> tuple[Segment, bytes]:
        """Decode and check a segment.

        Args:
            blob: The object as read from the storage.
            number: The number of the segment.
            where: The URL of the segment, for the error.

        Returns:
            The first line, and the bytes of the journal.

        Raises:
            ExperimentCorrupt: The object is no segment, or a segment of a newer version.
        """
        try:
            line, _, data = blob.partition(b"\n")
            body: dict[str, Any] = json.loads(line)
            format_ = body.pop("format")
            segment = cls(number=number, **body)
            problem = segment._problem(format_, len(data))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise ExperimentCorrupt(f"{where} is no segment of a journal: {exc!r}") from exc
        if problem:
            raise ExperimentCorrupt(f"{where} is no segment of a journal: {problem}")
        return segment, data

    def _problem(self, format_: Any, size: int) -> str:
        """Describe the first invalid value, "" for none.

        Args:
            format_: The format that the first line gives.
            size: The number of bytes behind the first line.
        """
        if format_ != FORMAT:
            return f"its format is {format_!r}; this version of asynctune reads {FORMAT}"
        counts = (self.epoch, self.pid, self.start, self.end)
        if not all(type(count) is int and count >= 0 for count in counts):
            return "epoch, pid, start and end must be ints of at least 0"
        if not all(isinstance(text, str) for text in (self.driver, self.host, self.digest)):
            return "driver, host and digest must be strings"
        if self.end - self.start != size:
            return f"its first line gives {self.end - self.start} bytes, and it has {size}"
        return ""


class RemoteJournal:
    """The remote journal of one experiment, for one driver. All methods block.

    Args:
        storage: The storage of the experiment.

    Attributes:
        end: The number of bytes of the journal in the storage.
    """

    def __init__(self, storage: Storage) -> None:
        self._url = storage.url
        self._segments = NumberedObjects(storage, "journal", "the segments of its journal")
        self._driver = secrets.token_hex(8)
        self._epoch = 0
        self._next = 0
        self._last_epoch = -1
        self._digest = hashlib.sha256()
        self.end = 0

    @property
    def driver(self) -> str:
        """The random id of this driver."""
        return self._driver

    def exists(self) -> bool:
        """Return whether the experiment exists: whether the storage holds any byte of its journal."""
        last = self._last_segment()
        return last is not None and last.end > 0

    def seed(self) -> int | None:
        """Return the seed of the experiment, None if the storage holds none."""
        for _, data in self._in_order(_ALL):
            if data:
                end = record_end(data, 0)
                event = (
                    decode(data[HEAD : (end or 0) - 1], Path(self._segments.url(0)), 0)
                    if end
                    else None
                )
                return event.seed if isinstance(event, ev.RunStarted) else None
        return None

    def download(self, journal: Path) -> bool:
        """Replace the local journal by the remote one, unless the local one contains all of it.

        Args:
            journal: The path of the local journal, which may be missing. The caller holds its lock.

        Returns:
            Whether the local journal was replaced.

        Raises:
            ExperimentCorrupt: The remote journal is damaged, or the two journals have diverged.
            StorageError: A segment could not be read, or the local journal cannot be written.
        """
        partial = journal.with_name(f"{journal.name}{PARTIAL}")
        partial.unlink(missing_ok=True)  # of a driver that was killed during its download
        last = self._last_segment()
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
        # A torn record at the local end is no divergence: compare the good records only.
        size = _good_end(journal) if size else 0
        try:
            digest = self._write_all(partial, last)
            if (
                size > last.end
                or _digest(partial, size).digest() != _digest(journal, size).digest()
            ):
                raise ExperimentCorrupt(
                    f"{journal} and {self._url} are two continuations of one experiment, which was also "
                    f"resumed elsewhere. To continue from {self._url}, move {journal.parent} away; to "
                    f"continue from {journal.parent}, pass another upload_dir"
                )
            files = current.get()
            files.sync_file(partial)
            files.rename(partial, journal)
            files.sync_directory(journal.parent)
        except OSError as exc:
            raise storage_error(exc, f"{journal} cannot be written") from exc
        finally:
            partial.unlink(missing_ok=True)
        self._digest, self.end = digest, last.end
        return True

    def begin(self, epoch: int) -> int:
        """Take over the experiment, before any upload.

        Args:
            epoch: The number of earlier drivers, according to the journal.

        Returns:
            The number of earlier drivers. It is larger than ``epoch`` if a driver was killed after it took
            over and before it uploaded its first record.

        Raises:
            ExperimentLocked: Another driver has just taken over.
            StorageError: The storage replaces existing objects, so it would let two drivers write.
        """
        self._epoch = max(epoch, self._last_epoch + 1)
        self._next = self._next or 1
        self._create(b"")
        # Test the storage once: to create the same segment again must fail.
        own, data = self._read(self._next - 1)
        if own.driver == self._driver and self._segments.create(own.number, own.to_bytes(data)):
            raise StorageError(
                f"{self._url} has stored {self._segments.key(own.number)} twice, though each request asked "
                "to create the object only if it does not exist (If-None-Match): two drivers would destroy "
                "each other's experiment. Use a store that supports this condition, or an fsspec "
                "filesystem in FsspecStorage(..., single_writer=True)"
            )
        return self._epoch

    def append(self, data: bytes) -> None:
        """Upload new bytes of the journal.

        Args:
            data: Complete records, from :attr:`end` on.

        Raises:
            ExperimentLocked: Another driver has taken over the experiment.
            StorageError: The upload failed.
        """
        target = self.end + len(data)
        # A segment of an earlier attempt may hold only the first part of the data: see _create.
        while self.end < target:
            self._create(data[self.end - target :])

    def _create(self, data: bytes) -> None:
        """Store a segment. If its number is taken, find out whether an earlier attempt has stored it."""
        end = self.end + len(data)
        digest = self._digest.copy()
        digest.update(data)
        segment = Segment(
            self._next, self._epoch, self._driver, socket.gethostname(), os.getpid(), self.end, end,
            digest.hexdigest(),
        )  # fmt: skip
        if not self._segments.create(self._next, segment.to_bytes(data)):
            stored, _ = self._read(self._next)
            if stored.driver != self._driver:
                raise self._locked_error(stored)
            # This driver has stored the segment, but the answer was lost. The journal has grown since, so
            # the segment may hold less.
            end = stored.end
            digest = self._digest.copy()
            digest.update(data[: end - self.end])
        self._digest, self.end = digest, end
        self._next += 1

    def takeover_error(self) -> ExperimentLocked | None:
        """Return the error to raise if another driver has taken over the experiment, else None.

        The method may be called while another thread appends.
        """
        number = self._next
        with suppress(FileNotFoundError):
            while (segment := self._read(number)[0]).driver == self._driver:
                number += 1  # the other thread has just stored this segment
            return self._locked_error(segment)
        return None

    def _locked_error(self, by: Segment) -> ExperimentLocked:
        return ExperimentLocked(
            f"{self._url} is being run by process {by.pid} on {by.host}, which took it over with segment "
            f"{by.number} of its journal; this driver uploads nothing more. Wait for that process, end it, "
            "or choose another name",
            pid=by.pid,
            host=by.host,
        )

    def _last_segment(self) -> Segment | None:
        numbers = self._segments.numbers()
        if not numbers:
            return None
        return self._read(numbers[-1])[0]

    def _read(self, number: int) -> tuple[Segment, bytes]:
        data = self._segments.read(number, _MAX_SEGMENT_BYTES)
        return Segment.from_bytes(data, number, self._segments.url(number))

    def _write_all(self, target: Path, last: Segment) -> Any:
        """Write the whole journal into a file. Return its running sha256, which later segments continue."""
        end, digest = 0, hashlib.sha256()
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            for segment, data in self._in_order(last.number):
                if segment.start != end:
                    raise ExperimentCorrupt(
                        f"{self._segments.url(segment.number)} begins at byte {segment.start} of the "
                        f"journal; the previous segment ends at {end}"
                    )
                file.write(data)
                digest.update(data)
                end = segment.end
                if digest.hexdigest() != segment.digest:
                    raise ExperimentCorrupt(
                        f"{self._segments.url(segment.number)} does not match its sha256"
                    )
        if end != last.end:
            raise ExperimentCorrupt(
                f"{self._segments.url(last.number)} was removed during the download"
            )
        return digest

    def _in_order(self, last: int) -> Iterator[tuple[Segment, bytes]]:
        """Yield the segments up to a number, in order.

        Several segments are read at a time, but few before they are used, since each may be large.
        """
        numbers = [number for number in self._segments.numbers() if number <= last]
        with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="asynctune storage") as pool:
            for start in range(0, len(numbers), _NUM_THREADS):
                yield from pool.map(self._read, numbers[start : start + _NUM_THREADS])


def read_new(journal: Path, start: int, end: int) -> bytes:
    """Read the bytes of the next segment from the local journal.

    The segment gets as many complete records as fit, and at least one.

    Args:
        journal: The path of the local journal.
        start: The offset of the first record.
        end: The end of the last record that may be read.
    """
    with journal.open("rb") as file:
        file.seek(start)
        data = file.read(min(end - start, _MAX_DATA_BYTES))
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
    reader = JournalReader(journal)
    for _ in reader.events():
        pass
    return reader.end
