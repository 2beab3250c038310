"""The commit log of a trial's checkpoints in a storage: committed or invisible, one writer after another.

The files of a checkpoint are stored first, below a prefix that no other save ever uses. The checkpoint is
committed by one record, created only if its number is free::

    commits/00000001                        a claim: the first writer begins
    commits/00000002                        checkpoint_5: path, size, sha256 of each file, the writer
    checkpoint_5/<id of the save>/model.pt

Readers look at records only, so files without a record, as a killed writer leaves them, are invisible. A
new writer first adds a claim. The previous writer then finds the number of its next record in use, reads
that a later writer has begun, and raises ``Fenced``. Claims are never removed, and the last number always
stays in use: a stale writer has to run into one of them.

A damaged record keeps its number and is otherwise ignored: writers continue after it, and the newest
readable record counts. If writers refused instead, one bad object would end all saving for good. So if a
claim is damaged, the previous writer is fenced by the next record of the new writer instead of its first.
A checkpoint that the previous writer commits until then is complete, and the new writer continues after
it. (Of two writers of equal rank, as outside of runs, the one whose next record comes first owns the
storage then.) A record of a later version of asynctune is not damaged, and no writer continues after it.

The files of a failed save are removed, unless the response to the creation of its record was lost: then
they stay until a later commit shows whether the record was created. A writer removes only its own prefixes
this way. A prefix that no record names may belong to a writer that has just begun; if that writer died, the
prefix is removed together with the checkpoint of that name.

This module does not unpickle, and no name in a listing or record becomes a path unchecked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from asynctune.errors import CheckpointCorrupt, Fenced, StorageError, UnsafePath
from asynctune.storage.base import Storage, check_key
from asynctune.storage.checkpoints import directory
from asynctune.storage.checkpoints.manifest import MANIFEST, Manifest
from asynctune.storage.checkpoints.records import Commit, NewerRecord, Writer, check_name
from asynctune.storage.numbered import NumberedObjects

_MAX_RECORD_BYTES = 64 << 20
_NUM_THREADS = 4
_MAX_DAMAGED = 64
"""The number of damaged records after which the search ends: so many are no accident."""


@dataclass(frozen=True, slots=True)
class RemoteDir:
    """The storage and the identity with which a trainable keeps its checkpoints.

    Args:
        storage: The storage, used by this trainable alone.
        writer: The identity of the trainable as a writer.
    """

    storage: Storage
    writer: Writer


class Commits:
    """The commit log of the checkpoints of one trial, or of one stand-alone trainable.

    Args:
        storage: The storage, used by this log alone.
        writer: The writer; optional for readers.
    """

    def __init__(self, storage: Storage, writer: Writer | None = None) -> None:
        self._storage = storage
        self._records = NumberedObjects(storage, "commits", "the records of its checkpoints")
        self._writer = writer or Writer()
        self._next = 0
        # The numbers of commits by checkpoint name. Commits are large, so they are read again instead.
        self._cached_numbers: dict[str, int] = {}
        # The prefixes of this writer that no record names.
        self._orphans: set[str] = set()
        # The prefixes of this writer whose records may exist: the response to their creation was lost.
        self._undecided: set[str] = set()

    # -- reading ----------------------------------------------------------------------------------

    def newest_first(self, damaged: list[CheckpointCorrupt] | None = None) -> Iterator[Commit]:
        """Yield the commits of all checkpoints, the newest first.

        Args:
            damaged: The list that receives the errors of damaged records; without a list they are raised.
                After 64 damaged records the iteration ends.

        Raises:
            CheckpointCorrupt: A record is damaged, and ``damaged`` is None.
        """
        for number in reversed(self._records.numbers()):
            try:
                commit = self._read(number)
            except CheckpointCorrupt as exc:
                if damaged is None:
                    raise
                damaged.append(exc)
                if len(damaged) == _MAX_DAMAGED:
                    return
                continue
            if commit is not None and commit.name:
                yield commit

    def find(self, name: str) -> Commit | None:
        """Return the commit of a checkpoint, or None if the checkpoint was never committed or is deleted.

        Raises:
            CheckpointCorrupt: No commit was found, but a record is damaged that may be the commit.
        """
        cached, commit = self._cached_numbers.pop(name, 0), None
        # A damaged commit may be replaced by another; if not, the search below raises the error.
        with suppress(CheckpointCorrupt):
            commit = self._read(cached) if cached else None
        if commit is None or commit.name != name:
            # Another process may have deleted the checkpoint and saved it again under another number.
            damaged: list[CheckpointCorrupt] = []
            found = (each for each in self.newest_first(damaged) if each.name == name)
            commit = next(found, None)
            if commit is None and damaged:
                raise damaged[0]
        if commit is not None:
            self._cached_numbers[name] = commit.number
        return commit

    def is_taken(self, name: str) -> bool:
        """Return whether files of a checkpoint of this name, complete or not, are in the storage."""
        return next(iter(self._storage.list(f"{name}/")), None) is not None

    def fetch(self, commit: Commit, parent: Path) -> Path:
        """Download a checkpoint to ``parent/<name>``, which appears when complete and verified.

        A damaged or incomplete download is repeated once.

        Args:
            commit: The commit of the checkpoint.
            parent: The directory that will contain the checkpoint.

        Returns:
            The directory of the checkpoint.

        Raises:
            CheckpointCorrupt: Both downloads were damaged.
            StorageError: The storage failed, or the local disk.
        """
        final = parent / commit.name
        manifest_bytes = commit.manifest.encode()
        manifest = Manifest.from_json(manifest_bytes, self._records.url(commit.number))
        storage = self._storage.limited()
        for is_last in (False, True):
            staging = directory.make_staging_dir(parent, commit.name)
            try:
                self._download(storage, commit, manifest, staging)
                directory.install(staging, manifest_bytes, final)
            except (CheckpointCorrupt, FileNotFoundError) as exc:
                if is_last:
                    raise CheckpointCorrupt(
                        f"{commit.name} in {self._storage.url} is damaged: {exc}"
                    ) from exc
            else:
                return final
            finally:
                directory.remove_staging_dir(staging)
        raise AssertionError("the second download has returned or raised")

    # -- writing ----------------------------------------------------------------------------------

    def claim(self) -> None:
        """Add the claim of this writer, unless it exists already.

        Raises:
            Fenced: A later writer has begun.
            CheckpointCorrupt: So many records are damaged that the newest writer is unknown.
        """
        if self._next:
            return
        numbers = self._records.numbers()
        self._raise_if_fenced(numbers)
        self._next = numbers[-1] + 1 if numbers else 1
        try:
            self._append(Commit(0, self._writer, begins=True))
        except BaseException:
            self._next = (
                0  # Without a claim no stale writer is fenced, so the next call claims again.
            )
            raise

    def commit(self, root: Path, name: str | None = None) -> Commit:
        """Upload a checkpoint directory and commit it.

        Args:
            root: The checkpoint directory.
            name: The name of the checkpoint in the storage; by default the name of the directory.

        Returns:
            The commit, which is durable and visible.

        Raises:
            Fenced: A later writer has begun.
            FileNotFoundError: A file of the checkpoint is missing.
            StorageError: The storage failed; nothing became visible, unless only the response to the
                commit was lost.
            CheckpointCorrupt: The manifest is damaged, or so many records are damaged that the newest
                writer is unknown.
            UnsafePath: The name is not that of a checkpoint.
        """
        manifest_bytes = (root / MANIFEST).read_bytes()
        manifest = Manifest.from_json(manifest_bytes, root / MANIFEST)
        name, save_id = name or root.name, secrets.token_hex(12)
        check_name(name, save_id, str(root))
        commit = Commit(0, self._writer, False, name, save_id, manifest_bytes.decode())
        for file in manifest.files:
            try:
                check_key(f"{commit.prefix}{file}", str(root))
            except UnsafePath as exc:
                raise StorageError(
                    f"{root} has a file called {file!r}, a name that no object in a storage can have; "
                    "rename the file"
                ) from exc
        self.claim()
        storage = self._storage.limited()

        def upload(file: str) -> None:
            storage.upload(f"{commit.prefix}{file}", root / file)

        try:
            _for_each(upload, manifest.files)
        except Exception:
            self._orphans.add(commit.prefix)
            self._remove_orphans(storage)
            raise
        self._undecided.add(commit.prefix)
        try:
            appended = self._append(commit)
            self._undecided.discard(commit.prefix)
        except Fenced:
            self._resolve_undecided(storage)
            raise
        self._resolve_undecided(storage)
        return appended

    def delete(self, name: str) -> bool:
        """Remove a checkpoint and all files ever stored under its name.

        The records are removed first, so that a partly removed checkpoint is invisible.

        Returns:
            Whether the checkpoint was committed.

        Raises:
            Fenced: A later writer has begun.
            CheckpointCorrupt: So many records are damaged that the commit may be among them.
        """
        damaged: list[CheckpointCorrupt] = []
        found = [commit.number for commit in self.newest_first(damaged) if commit.name == name]
        if len(damaged) == _MAX_DAMAGED:
            raise damaged[0]
        if found:
            numbers = self._records.numbers()
            last = max([*numbers[-1:], found[0]])
            self._raise_if_fenced(numbers)
            # A stale writer could take the last number if the number became free: add a placeholder first.
            if found[0] == last:
                before, self._next = self._next, last + 1
                try:
                    self._append(Commit(0, self._writer))
                finally:
                    # The placeholder is no claim: the next commit must still meet a later writer's claim.
                    self._next = before
            self._storage.delete(map(self._records.key, found))
            self._cached_numbers.pop(name, None)
        self._storage.delete(entry.key for entry in self._storage.list(f"{name}/"))
        return bool(found)

    def retain(self, names: AbstractSet[str]) -> None:
        """Remove all checkpoints except those with these names."""
        others = {commit.name for commit in self.newest_first(damaged=[])} - names
        for name in others:
            self.delete(name)

    # -- inside -----------------------------------------------------------------------------------

    def _append(self, commit: Commit) -> Commit:
        data = commit.to_json()
        while not self._records.create(self._next, data):
            damaged: list[CheckpointCorrupt] = []
            found = self._read_twice(self._next, damaged)
            if damaged:
                # The record may be one of this writer whose response was lost: then its files are
                # committed, and must not be removed.
                self._undecided.clear()
                self._next += 1
                continue
            if found is None:
                # Another process has deleted the record meanwhile, or the storage is inconsistent.
                raise StorageError(
                    f"{self._records.url(self._next)} exists but cannot be read; checkpoints need a "
                    "storage in which a created object can be read at once"
                )
            if found.to_json() == data:
                break  # This record is ours: the response to an earlier attempt was lost.
            if self._is_later(found, commit):
                raise self._fenced_error(found)
            self._undecided.discard(found.prefix)
            self._next += 1
        appended = replace(commit, number=self._next)
        self._next += 1
        if appended.name:
            self._cached_numbers[appended.name] = appended.number
        return appended

    def _is_later(self, found: Commit, ours: Commit) -> bool:
        """Return whether a record fences this writer from adding its own record after it."""
        if found.writer.rank != self._writer.rank:
            return found.writer.rank > self._writer.rank
        # Writers outside of runs have equal ranks: the last one to begin owns the storage.
        is_other = found.writer.token != self._writer.token
        return is_other and bool(ours.name) and (found.begins or bool(found.name))

    def _resolve_undecided(self, storage: Storage) -> None:
        """Remove the files of undecided saves: no record up to this commit names them."""
        self._orphans |= self._undecided
        self._undecided.clear()
        self._remove_orphans(storage)

    def _remove_orphans(self, storage: Storage) -> None:
        """Remove the files of failed saves. What cannot be removed now is kept for the next call."""
        while self._orphans:
            prefix = self._orphans.pop()
            try:
                storage.delete(entry.key for entry in storage.list(prefix))
            except (StorageError, UnsafePath):
                self._orphans.add(prefix)
                return

    def _raise_if_fenced(self, numbers: Sequence[int]) -> None:
        """Raise ``Fenced`` if the newest readable record is that of a later writer."""
        damaged: list[CheckpointCorrupt] = []
        for number in reversed(numbers[-_MAX_DAMAGED:]):
            newest = self._read_twice(number, damaged)
            if newest is not None:
                if newest.writer.rank > self._writer.rank:
                    raise self._fenced_error(newest)
                return
        if damaged and len(numbers) >= _MAX_DAMAGED:
            raise damaged[0]

    def _read_twice(self, number: int, damaged: list[CheckpointCorrupt]) -> Commit | None:
        """Read a record. Return None if it is missing or damaged; append the error to ``damaged``.

        A damaged record is read once more, so that one garbled response does not open the fence.

        Raises:
            StorageError: The record is that of a later version of asynctune.
        """
        for is_last in (False, True):
            try:
                return self._read(number)
            except NewerRecord as exc:
                raise StorageError(
                    f"{exc}. This version of asynctune does not write to that storage"
                ) from exc
            except CheckpointCorrupt as exc:
                if is_last:
                    damaged.append(exc)
        return None

    def _read(self, number: int) -> Commit | None:
        try:
            data = self._records.read(number, _MAX_RECORD_BYTES)
        except FileNotFoundError:
            return None
        return Commit.from_json(data, number, self._records.url(number))

    def _download(self, storage: Storage, commit: Commit, manifest: Manifest, target: Path) -> None:
        for file in manifest.files:
            (target / file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)

        def download(file: str) -> None:
            size, _ = manifest.files[file]
            storage.download(f"{commit.prefix}{file}", target / file, size)

        _for_each(download, manifest.files)

    def _fenced_error(self, newer: Commit) -> Fenced:
        return Fenced(
            f"{self._storage.url} has a newer writer (driver {newer.writer.epoch}, attempt "
            f"{newer.writer.attempt}; this is driver {self._writer.epoch}, attempt "
            f"{self._writer.attempt}), as record {newer.number} shows; this writer stops writing"
        )


def _for_each(function: Callable[[str], None], files: Mapping[str, object]) -> None:
    """Call a function for each file, several at a time. Raise the first failure at the end."""
    if len(files) <= 1:
        for file in files:
            function(file)
        return
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="asynctune storage") as pool:
        pending = [pool.submit(function, file) for file in files]
        try:
            for future in pending:
                future.result()
        finally:
            for future in pending:
                future.cancel()
