"""The remote copy of an experiment, as its driver sees it. All methods block; call them in a thread.

::

    <name>/journal/00000001 ...             the journal, see asynctune.experiment.remote.journal
    <name>/<trial_id>/commits/00000002 ...  its checkpoints, see asynctune.storage.checkpoints.commits
    <name>/<trial_id>/result.json ...       the files of loggers and trials, as last uploaded
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

import anyio

from asynctune.errors import CheckpointCorrupt, StorageError, UnsafePath
from asynctune.experiment.remote.journal import RemoteJournal, read_new
from asynctune.storage import Storage
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.checkpoints.commits import Commits, RemoteDir
from asynctune.storage.checkpoints.records import Writer

LINKS = ".uploads"
_MAX_LIVE_FILE_BYTES = 8 << 20
"""The largest file to upload while its trial runs, since each change uploads the whole file again."""
_NUM_THREADS = 8
_CHECKPOINT = "checkpoint_"


class UploadOutcome(Enum):
    """Outcome of the upload of a checkpoint."""

    COMMITTED = "committed"
    ALREADY_COMMITTED = "already committed"
    DELETED = "deleted meanwhile"


class Replica:
    """The remote copy of an experiment: uploads to the storage, and downloads from it.

    Args:
        storage: The storage of the experiment.
        directory: The local directory of the experiment.

    Attributes:
        journal: The remote journal.
        epoch: The number of drivers before this one.
        is_closed: Whether the copy is closed, so that pending calls fail.
        download_limiter: The limiter for calls of :meth:`download` in threads. A storage that does not
            answer blocks only these threads, and not those of other libraries.
    """

    def __init__(self, storage: Storage, directory: str) -> None:
        self.storage = storage
        self.journal = RemoteJournal(storage)
        self.epoch = 0
        self._directory = directory
        self._commits: dict[str, tuple[int, Commits]] = {}
        # Path -> modification time and size of the file at its last upload.
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._download_locks: dict[str, threading.Lock] = {}
        self.is_closed = False
        self.download_limiter = anyio.CapacityLimiter(_NUM_THREADS)

    @property
    def url(self) -> str:
        """The URL of the storage, without credentials."""
        return self.storage.url

    def begin(self, epoch: int) -> None:
        """Take over the experiment.

        Args:
            epoch: The number of earlier drivers, according to the journal.

        Raises:
            ExperimentLocked: Another driver has just taken over.
        """
        self.epoch = self.journal.begin(epoch)
        shutil.rmtree(os.path.join(self._directory, LINKS), ignore_errors=True)

    def remote_dir(self, trial_id: str, attempt: int) -> RemoteDir:
        """Return the storage and writer with which an attempt of a durable trial keeps its checkpoints."""
        writer = Writer(self.epoch, attempt, self.journal.driver)
        return RemoteDir(self.storage.below(trial_id), writer)

    def upload_journal(self, journal: Path, end: int) -> None:
        """Upload the next records of the journal: as many as fit into one segment.

        Args:
            journal: The path of the local journal.
            end: The end of the last record that may be uploaded.

        Raises:
            ExperimentLocked: Another driver has taken over the experiment.
            StorageError: The upload failed.
        """
        self.journal.append(read_new(journal, self.journal.end, end))

    # -- checkpoints ------------------------------------------------------------------------------

    def upload(self, path: str, attempt: int = 0, *, check_first: bool = False) -> UploadOutcome:
        """Upload and commit a local checkpoint.

        The files are hard-linked first, since the trial may delete the checkpoint during the upload.

        Args:
            path: The path of the checkpoint, or a path inside.
            attempt: The attempt of the trial, as whose writer the checkpoint is committed.
            check_first: Whether the checkpoint may be committed already; then this costs a request.

        Raises:
            Fenced: Another driver has taken over the trial.
            StorageError: The upload failed.
        """
        trial_id, name = self._parts(path)
        root = Path(self._directory, trial_id, name)
        commits = self._commits_of(trial_id, attempt)
        if check_first and self.has_remote(path):
            return UploadOutcome.ALREADY_COMMITTED
        linked = Path(self._directory, LINKS, trial_id, name)
        try:
            _link_tree(root, linked)
            commits.commit(linked)
        except FileNotFoundError:
            is_committed = commits.find(name) is not None
            return UploadOutcome.ALREADY_COMMITTED if is_committed else UploadOutcome.DELETED
        finally:
            shutil.rmtree(linked, ignore_errors=True)
            with contextlib.suppress(OSError):  # another checkpoint of the trial is being uploaded
                linked.parent.rmdir()
        return UploadOutcome.COMMITTED

    def delete(self, path: str, attempt: int = 0, delete_local: bool = True) -> None:
        """Delete a remote checkpoint, and optionally its local copy."""
        trial_id, name = self._parts(path)
        self._commits_of(trial_id, attempt).delete(name)
        if delete_local:
            _checkpoint.delete(path)

    def has_local(self, path: str) -> bool:
        """Return whether a checkpoint has a local copy."""
        try:
            _checkpoint.find_root(path)
        except FileNotFoundError:
            return False
        return True

    def has(self, path: str) -> bool:
        """Return whether a checkpoint is local, or can be downloaded."""
        return self.has_local(path) or self.has_remote(path)

    def has_remote(self, path: str) -> bool:
        """Return whether a checkpoint is committed in the storage."""
        trial_id, name = self._parts(path)
        try:
            return self._commits_of(trial_id).find(name) is not None
        except CheckpointCorrupt:
            return False

    def download(self, path: str) -> None:
        """Download a checkpoint that exists only in the storage.

        Args:
            path: The path of the checkpoint, or a path inside, as its trial saved it.

        Raises:
            FileNotFoundError: The checkpoint is neither local nor remote.
            CheckpointCorrupt: The checkpoint was damaged in two downloads.
            StorageError: The download failed.
        """
        trial_id, name = self._parts(path)
        with self._lock:
            lock = self._download_locks.setdefault(trial_id, threading.Lock())
        with lock:  # several trials may begin from the checkpoint, and one download serves all
            if self.has_local(path):
                return
            commit = self._commits_of(trial_id).find(name)
            if commit is None:
                raise FileNotFoundError(
                    f"{path} does not exist, and {self.url}/{trial_id} has no {name}"
                )
            self._commits_of(trial_id).fetch(commit, Path(self._directory, trial_id))

    def newest_remote(self, trial_id: str, paths: Iterable[str]) -> str | None:
        """Return the newest of the given checkpoints of a trial whose commit is readable, else None."""
        candidates = {self._parts(path): path for path in paths}
        for commit in self._commits_of(trial_id).newest_first(damaged=[]):
            if (trial_id, commit.name) in candidates:
                return candidates[trial_id, commit.name]
        return None

    def retain(self, trial_id: str, paths: Iterable[str], attempt: int = 0) -> None:
        """Delete all remote checkpoints of a trial except the given ones."""
        self._commits_of(trial_id, attempt).retain({self._parts(path)[1] for path in paths})

    # -- results ----------------------------------------------------------------------------------

    def upload_files(self, trial_id: str, exported: Iterable[str], final: bool) -> None:
        """Upload the changed files in a trial's directory, without its checkpoints.

        Args:
            trial_id: The trial.
            exported: The exported files or directories of the trial.
            final: Whether the trial has ended; large files wait until then.

        Raises:
            StorageError: A file could not be uploaded.
        """
        logdir = os.path.join(self._directory, trial_id)
        storage = self.storage.below(trial_id)
        unsafe: list[str] = []
        for path in _files_in(logdir, exported):
            try:
                found = os.stat(path)
                mark = (found.st_mtime_ns, found.st_size)
                if self._uploaded.get(path) == mark or (
                    found.st_size > _MAX_LIVE_FILE_BYTES and not final
                ):
                    continue
                storage.upload(os.path.relpath(path, logdir), Path(path))
                self._uploaded[path] = mark
            except FileNotFoundError:  # a logger or the trial has removed it
                continue
            except UnsafePath:
                unsafe.append(path)
        if unsafe:
            raise StorageError(
                f"{unsafe[0]!r} cannot be uploaded: no object can have this name; rename the file"
            )

    def release(self, trial_id: str) -> None:
        """Free the memory of a trial that has ended."""
        with self._lock:
            self._commits.pop(trial_id, None)
            self._download_locks.pop(trial_id, None)

    def close(self) -> None:
        """Close the storage: pending calls fail instead of being retried."""
        self.is_closed = True
        self.storage.close()

    def _commits_of(self, trial_id: str, attempt: int = 0) -> Commits:
        """Return the trial's commit log, opened for writing as the given attempt or a later one."""
        with self._lock:
            writing_attempt, commits = self._commits.get(trial_id, (-1, None))
            if commits is None or writing_attempt < attempt:
                remote = self.remote_dir(trial_id, attempt)
                commits = Commits(remote.storage, remote.writer)
                self._commits[trial_id] = attempt, commits
            return commits

    def _parts(self, path: str) -> tuple[str, str]:
        """Return the trial and the name of the checkpoint that holds a path."""
        relative = os.path.relpath(path, self._directory).split(os.sep)
        if len(relative) < 2 or relative[0] == ".." or not relative[1].startswith(_CHECKPOINT):
            raise StorageError(
                f"{path} is no checkpoint of a trial in {self._directory}, so {self.url} cannot hold it"
            )
        return relative[0], relative[1]


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link the files of a directory into another, or copy them on a file system without links.

    Raises:
        FileNotFoundError: The directory or one of its files was deleted.
    """
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target, mode=0o700)
    if not source.is_dir():
        raise FileNotFoundError(source)
    for directory, _, names in os.walk(source):
        inner = target / os.path.relpath(directory, source)
        os.makedirs(inner, mode=0o700, exist_ok=True)
        for name in names:
            try:
                os.link(os.path.join(directory, name), inner / name, follow_symlinks=False)
            except FileNotFoundError:
                raise
            except OSError:  # the file system has no hard links
                shutil.copyfile(os.path.join(directory, name), inner / name, follow_symlinks=False)


def _files_in(logdir: str, exported: Iterable[str]) -> Iterator[str]:
    """Yield the regular files directly in a trial's directory, and its exported files below."""
    try:
        names = sorted(os.listdir(logdir))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(logdir, name)
        if not name.startswith(".") and _is_regular(path):
            yield path
    root = os.path.realpath(logdir)
    for start in exported:
        path = os.path.abspath(os.path.join(logdir, start))
        if path == logdir or not Path(path).is_relative_to(logdir):
            continue  # the user exported to another directory
        inner = os.path.relpath(path, logdir)
        if inner.startswith(_CHECKPOINT) or os.path.realpath(path) != os.path.join(root, inner):
            continue  # a checkpoint, or a path through a symbolic link
        if os.path.dirname(path) != logdir and _is_regular(path):
            yield path
        for directory, _, files in os.walk(path):
            yield from (p for name in files if _is_regular(p := os.path.join(directory, name)))


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
