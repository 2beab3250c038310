"""Checkpoints in a storage: committed or invisible, by one writer after the other.

The files of a checkpoint are stored first, below a prefix that no other save ever has. What makes it a
checkpoint is one record, created only if there is none, under the next number::

    commits/00000001                        the first writer begins
    commits/00000002                        checkpoint_5: path, size, sha256 of each file, who wrote it
    checkpoint_5/<id of the save>/model.pt

Readers look at records only, so what a killed writer left is nothing. Whoever begins to write first adds a
record that says so. One who wrote before then finds the number taken that would have been his next, reads
that somebody has come after him, and is ``Fenced``. Such a beginning is never removed, and neither is the
last number: they are what a stale writer stumbles over.

A record that is damaged keeps its number and says nothing: who writes goes on behind it, and goes by the
newest one that can be read. To refuse instead would let one bad object end all saving for good. So if it
is a beginning that was damaged, the writer before is fenced by the next record of the new one, not by the
first; what it commits until then is whole, and the new one goes on behind that. (Of two without ranks, the
one whose next record comes first owns the place then.) A record of a later version of asynctune is not
damaged, and nobody passes it.

What a save has stored is removed when it fails, unless the answer to its record was lost: then it waits
until a later commit has shown what became of that number. Only prefixes of one's own are removed so. One
that no record names may be that of a writer who has just begun; if it died, it goes with the checkpoint of
that name.

Nothing here unpickles, and no name in a listing or record becomes a path unchecked.
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
from asynctune.storage._numbered import NumberedObjects
from asynctune.storage.base import Storage, plain_key
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.checkpoints.manifest import MANIFEST, Manifest
from asynctune.storage.checkpoints.records import Commit, NewerRecord, Writer, check_name

_LONGEST = 64 << 20
_AT_ONCE = 4
_MOST_DAMAGED = 64
"""So many damaged records are no accident: what is behind them is not looked for."""


@dataclass(frozen=True, slots=True)
class RemoteDir:
    """Where a trainable keeps its checkpoints, and as whom.

    Args:
        storage: The place, which is its own.
        writer: Who it is.
    """

    storage: Storage
    writer: Writer


class Commits:
    """The checkpoints of one trial, or of one trainable that stands alone.

    Args:
        storage: Their place, which is theirs alone.
        writer: Who writes, if somebody does.
    """

    def __init__(self, storage: Storage, writer: Writer | None = None) -> None:
        self._storage = storage
        self._numbered = NumberedObjects(storage, "commits", "the records of its checkpoints")
        self._writer = writer or Writer()
        self._next = 0
        self._known: dict[str, int] = {}  # names -> numbers; the records are large, and read again
        self._orphans: set[str] = set()  # prefixes of ours that no record names
        self._unsure: set[str] = set()  # those of which this is not known

    # -- reading ----------------------------------------------------------------------------------

    def newest_first(self, damaged: list[CheckpointCorrupt] | None = None) -> Iterator[Commit]:
        """Yield the commits of all checkpoints, the newest first.

        Args:
            damaged: Gets what is raised otherwise, while it goes on with the records before.

        Raises:
            CheckpointCorrupt: A record is damaged.
        """
        for number in reversed(self._numbered.all()):
            try:
                commit = self._read(number)
            except CheckpointCorrupt as exc:
                if damaged is None:
                    raise
                damaged.append(exc)
                if len(damaged) == _MOST_DAMAGED:
                    return
                continue
            if commit is not None and commit.name:
                yield commit

    def find(self, name: str) -> Commit | None:
        """Return the commit of a checkpoint, None if it was never committed, or is deleted.

        Raises:
            CheckpointCorrupt: It may be one whose record is damaged.
        """
        known, commit = self._known.pop(name, 0), None
        with suppress(CheckpointCorrupt):  # which is told of below, if there is no other
            commit = self._read(known) if known else None
        if commit is None or commit.name != name:
            # It may have been deleted by somebody else, and saved again.
            damaged: list[CheckpointCorrupt] = []
            found = (each for each in self.newest_first(damaged) if each.name == name)
            commit = next(found, None)
            if commit is None and damaged:
                raise damaged[0]
        if commit is not None:
            self._known[name] = commit.number
        return commit

    def is_taken(self, name: str) -> bool:
        """Tell whether something, complete or not, was ever stored under a name."""
        return next(iter(self._storage.list(f"{name}/")), None) is not None

    def fetch(self, commit: Commit, parent: Path) -> Path:
        """Bring a checkpoint to ``parent/<name>``, where it appears when it is complete and right.

        What comes damaged or short is read once more.

        Raises:
            CheckpointCorrupt: It came damaged twice.
            StorageError: It did not come, or cannot be written here.
        """
        final = parent / commit.name
        text = commit.manifest.encode()
        manifest = Manifest.from_json(text, self._numbered.named(commit.number))
        storage = self._storage.limited()
        for is_last in (False, True):
            aside = _checkpoint.make_staging_dir(parent, commit.name)
            try:
                self._download(storage, commit, manifest, aside)
                _checkpoint.install(aside, text, final)
            except (CheckpointCorrupt, FileNotFoundError) as exc:
                if is_last:
                    raise CheckpointCorrupt(
                        f"{commit.name} in {self._storage.url} is damaged: {exc}"
                    ) from exc
            else:
                return final
            finally:
                _checkpoint.remove_staging_dir(aside)
        raise AssertionError("the second attempt has returned or raised")

    # -- writing ----------------------------------------------------------------------------------

    def claim(self) -> None:
        """Begin to write, unless this writer has done so.

        Raises:
            Fenced: A later writer has begun before.
            CheckpointCorrupt: Too many records are damaged to tell.
        """
        if self._next:
            return
        numbers = self._numbered.all()
        self._refuse_if_behind(numbers)
        self._next = numbers[-1] + 1 if numbers else 1
        try:
            self._append(Commit(0, self._writer, begins=True))
        except BaseException:
            self._next = 0  # it has not begun: a stale writer would have nothing to stumble over
            raise

    def commit(self, root: Path, name: str | None = None) -> Commit:
        """Store the checkpoint in a directory; it counts when this returns.

        Args:
            root: The directory, with its manifest.
            name: What it is called there; by default as the directory is.

        Raises:
            Fenced: A later writer has begun.
            FileNotFoundError: A file is gone.
            StorageError: It could not be stored; nothing became visible.
            CheckpointCorrupt: Too many records are damaged to tell who writes.
            UnsafePath: No checkpoint has such a name.
        """
        text = (root / MANIFEST).read_bytes()
        manifest = Manifest.from_json(text, root / MANIFEST)
        name, save_id = name or root.name, secrets.token_hex(12)
        check_name(name, save_id, str(root))
        commit = Commit(0, self._writer, False, name, save_id, text.decode())
        for file in manifest.files:
            try:
                plain_key(f"{commit.prefix}{file}", str(root))
            except UnsafePath as exc:
                raise StorageError(
                    f"{root} has a file called {file!r}, which no object in a storage can be called; give "
                    "it another name"
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
        self._unsure.add(commit.prefix)
        try:
            made = self._append(commit)
            self._unsure.discard(commit.prefix)
        except Fenced:
            self._settle(storage)
            raise
        self._settle(storage)
        return made

    def delete(self, name: str) -> bool:
        """Remove a checkpoint and all that was ever stored under its name; False if there is none.

        Its records go first, so that a half removed checkpoint is invisible.

        Raises:
            Fenced: A later writer has begun.
            CheckpointCorrupt: Too many records are damaged to tell.
        """
        damaged: list[CheckpointCorrupt] = []
        found = [commit.number for commit in self.newest_first(damaged) if commit.name == name]
        if len(damaged) == _MOST_DAMAGED:
            raise damaged[0]
        if found:
            numbers = self._numbered.all()
            last = max([*numbers[-1:], found[0]])
            self._refuse_if_behind(numbers)
            if found[0] == last:  # a number that is free again could be taken by a stale writer
                before, self._next = self._next, last + 1
                try:
                    self._append(Commit(0, self._writer))
                finally:
                    # It was no beginning: who has begun since is still to be met.
                    self._next = before
            self._storage.delete(map(self._numbered.key, found))
            self._known.pop(name, None)
        self._storage.delete(entry.key for entry in self._storage.list(f"{name}/"))
        return bool(found)

    def retain(self, names: AbstractSet[str]) -> None:
        """Remove all checkpoints but those of these names."""
        others = {commit.name for commit in self.newest_first(damaged=[])} - names
        for name in others:
            self.delete(name)

    # -- inside -----------------------------------------------------------------------------------

    def _append(self, commit: Commit) -> Commit:
        data = commit.to_json()
        while not self._numbered.create(self._next, data):
            damaged: list[CheckpointCorrupt] = []
            found = self._look(self._next, damaged)
            if damaged:
                # Somebody's, or one of ours whose answer was lost: those may be committed.
                self._unsure.clear()
                self._next += 1
                continue
            if found is None:  # somebody has deleted it between our two looks
                raise StorageError(
                    f"{self._numbered.named(self._next)} is there and cannot be read; storage that forgets "
                    "what it has just confirmed cannot hold checkpoints"
                )
            if found.to_json() == data:
                break  # it is ours: the answer to an attempt was lost
            if self._is_after(found, commit):
                raise self._fenced(found)
            self._unsure.discard(found.prefix)
            self._next += 1
        made = replace(commit, number=self._next)
        self._next += 1
        if made.name:
            self._known[made.name] = made.number
        return made

    def _is_after(self, found: Commit, ours: Commit) -> bool:
        """Tell whether a record was written by somebody who came after us, as far as ranks tell."""
        if found.writer.rank != self._writer.rank:
            return found.writer.rank > self._writer.rank
        # Of two without ranks, that is outside of runs, the last to begin owns the place.
        is_other = found.writer.token != self._writer.token
        return is_other and bool(ours.name) and (found.begins or bool(found.name))

    def _settle(self, storage: Storage) -> None:
        """Remove what is known to be nothing, now that all numbers up to ours have been looked at."""
        self._orphans |= self._unsure
        self._unsure.clear()
        self._remove_orphans(storage)

    def _remove_orphans(self, storage: Storage) -> None:
        """Remove what saves that failed have stored, as far as that works; the rest waits."""
        while self._orphans:
            prefix = self._orphans.pop()
            try:
                storage.delete(entry.key for entry in storage.list(prefix))
            except (StorageError, UnsafePath):
                self._orphans.add(prefix)
                return

    def _refuse_if_behind(self, numbers: Sequence[int]) -> None:
        damaged: list[CheckpointCorrupt] = []
        for number in reversed(numbers[-_MOST_DAMAGED:]):
            newest = self._look(number, damaged)
            if newest is not None:
                if newest.writer.rank > self._writer.rank:
                    raise self._fenced(newest)
                return
        if damaged and len(numbers) >= _MOST_DAMAGED:
            raise damaged[0]

    def _look(self, number: int, damaged: list[CheckpointCorrupt]) -> Commit | None:
        """Read who wrote a record; None if it is gone, or is damaged, which the list is then told of.

        What comes damaged is read once more: an answer that was garbled once opens no fence.

        Raises:
            StorageError: It is of a later version.
        """
        for is_last in (False, True):
            try:
                return self._read(number)
            except NewerRecord as exc:
                raise StorageError(f"{exc}. Nothing more is written there from here") from exc
            except CheckpointCorrupt as exc:
                if is_last:
                    damaged.append(exc)
        return None

    def _read(self, number: int) -> Commit | None:
        try:
            data = self._numbered.read(number, _LONGEST)
        except FileNotFoundError:
            return None
        return Commit.from_json(data, number, self._numbered.named(number))

    def _download(self, storage: Storage, commit: Commit, manifest: Manifest, target: Path) -> None:
        for file in manifest.files:
            (target / file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)

        def download(file: str) -> None:
            size, _ = manifest.files[file]
            storage.download(f"{commit.prefix}{file}", target / file, size)

        _for_each(download, manifest.files)

    def _fenced(self, by: Commit) -> Fenced:
        return Fenced(
            f"{self._storage.url} has a newer writer (driver {by.writer.epoch}, attempt "
            f"{by.writer.attempt}; this is driver {self._writer.epoch}, attempt {self._writer.attempt}), "
            f"which began with record {by.number}; nothing more is written there from here"
        )


def _for_each(function: Callable[[str], None], files: Mapping[str, object]) -> None:
    """Call a function for each file, several at a time; the first failure is raised when all are done."""
    if len(files) <= 1:
        for file in files:
            function(file)
        return
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="asynctune storage") as pool:
        pending = [pool.submit(function, file) for file in files]
        try:
            for future in pending:
                future.result()
        finally:
            for future in pending:
                future.cancel()
