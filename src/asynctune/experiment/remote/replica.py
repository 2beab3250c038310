"""The remote side of an experiment, as its driver sees it: everything here blocks.

::

    <name>/journal/00000001 ...             the journal, see asynctune.experiment.remote.journal
    <name>/<trial_id>/commits/00000002 ...  its checkpoints, see asynctune.storage.checkpoints.commits
    <name>/<trial_id>/result.json ...       what loggers and trials wrote, as it was last uploaded
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
_SMALL = 8 << 20
_AT_ONCE = 8
_CHECKPOINT = "checkpoint_"


class UploadOutcome(Enum):
    """What became of a checkpoint that was to be stored."""

    COMMITTED = "committed"
    THERE = "there already"
    GONE = "deleted meanwhile"


class Replica:
    """Brings an experiment to a storage and back.

    Args:
        storage: The place of the experiment.
        directory: Its local directory.
    """

    def __init__(self, storage: Storage, directory: str) -> None:
        self.storage = storage
        self.segments = RemoteJournal(storage)
        self.epoch = 0
        self._directory = directory
        self._commits: dict[str, tuple[int, Commits]] = {}
        self._sent: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._bringing: dict[str, threading.Lock] = {}
        self.is_closed = False
        self.download_limiter = anyio.CapacityLimiter(_AT_ONCE)
        """For those who bring from threads: a place that does not answer holds up nothing else."""

    @property
    def url(self) -> str:
        """How the place is shown."""
        return self.storage.url

    def begin(self, epoch: int) -> None:
        """Take the experiment over.

        Args:
            epoch: How many drivers came before.

        Raises:
            ExperimentLocked: Another driver did so just now.
        """
        self.epoch = self.segments.begin(epoch)
        shutil.rmtree(os.path.join(self._directory, LINKS), ignore_errors=True)

    def remote_dir(self, trial_id: str, attempt: int) -> RemoteDir:
        """Return where an attempt of a durable trial keeps its checkpoints."""
        writer = Writer(self.epoch, attempt, self.segments.driver)
        return RemoteDir(self.storage.below(trial_id), writer)

    def send_journal(self, journal: Path, end: int) -> None:
        """Store a part of what the journal has gained, up to a record.

        Raises:
            ExperimentLocked: Another driver has taken the experiment over.
            StorageError: It could not be stored.
        """
        self.segments.append(read_new(journal, self.segments.end, end))

    # -- checkpoints ------------------------------------------------------------------------------

    def store(self, path: str, attempt: int = 0, *, look_first: bool = False) -> UploadOutcome:
        """Commit a local checkpoint.

        Its files are linked first: the trial may delete it while it is on its way.

        Args:
            path: A path in it.
            attempt: Which attempt of its trial the driver knows of.
            look_first: Whether it may have been committed before.

        Raises:
            Fenced: Another driver has taken the trial over.
            StorageError: It could not be stored.
        """
        trial_id, name = self._parts(path)
        root = Path(self._directory, trial_id, name)
        commits = self._commits_of(trial_id, attempt)
        if look_first and self.has_remote(path):
            return UploadOutcome.THERE
        linked = Path(self._directory, LINKS, trial_id, name)
        try:
            _link_tree(root, linked)
            commits.commit(linked)
        except FileNotFoundError:
            return UploadOutcome.THERE if commits.find(name) is not None else UploadOutcome.GONE
        finally:
            shutil.rmtree(linked, ignore_errors=True)
            with contextlib.suppress(OSError):  # another one of the trial is on its way
                linked.parent.rmdir()
        return UploadOutcome.COMMITTED

    def delete(self, path: str, attempt: int = 0, here: bool = True) -> None:
        """Remove a checkpoint there, and here if nobody else does."""
        trial_id, name = self._parts(path)
        self._commits_of(trial_id, attempt).delete(name)
        if here:
            _checkpoint.delete(path)

    def has_local(self, path: str) -> bool:
        """Tell whether the checkpoint of a path has a local copy."""
        try:
            _checkpoint.find_root(path)
        except FileNotFoundError:
            return False
        return True

    def has(self, path: str) -> bool:
        """Tell whether a checkpoint is here, or can be brought."""
        return self.has_local(path) or self.has_remote(path)

    def has_remote(self, path: str) -> bool:
        """Tell whether a checkpoint is committed there."""
        trial_id, name = self._parts(path)
        try:
            return self._commits_of(trial_id).find(name) is not None
        except CheckpointCorrupt:
            return False

    def download(self, path: str) -> None:
        """See that a checkpoint is here.

        Args:
            path: A path in it, as its trial saved it.

        Raises:
            FileNotFoundError: It is neither here nor there.
            CheckpointCorrupt: It came damaged twice.
            StorageError: It did not come.
        """
        trial_id, name = self._parts(path)
        with self._lock:
            once = self._bringing.setdefault(trial_id, threading.Lock())
        with once:  # several trials may begin from it
            if self.has_local(path):
                return
            commit = self._commits_of(trial_id).find(name)
            if commit is None:
                raise FileNotFoundError(f"{path} is gone, and {self.url}/{trial_id} has no {name}")
            self._commits_of(trial_id).fetch(commit, Path(self._directory, trial_id))

    def newest(self, trial_id: str, paths: Iterable[str]) -> str | None:
        """Return which of a trial's checkpoints is the newest that is there, whole and readable."""
        known = {self._parts(path): path for path in paths}
        for commit in self._commits_of(trial_id).newest_first(damaged=[]):
            if (trial_id, commit.name) in known:
                return known[trial_id, commit.name]
        return None

    def retain(self, trial_id: str, paths: Iterable[str], attempt: int = 0) -> None:
        """Remove all checkpoints of a trial but those of these paths."""
        self._commits_of(trial_id, attempt).retain({self._parts(path)[1] for path in paths})

    # -- results ----------------------------------------------------------------------------------

    def send_files(self, trial_id: str, exported: Iterable[str], final: bool) -> None:
        """Upload what lies in a trial's directory and has changed, checkpoints apart.

        Args:
            trial_id: The trial.
            exported: What it exported: files or directories.
            final: Whether it has ended; until then large files wait.

        Raises:
            StorageError: Not all could be stored.
        """
        logdir = os.path.join(self._directory, trial_id)
        place = self.storage.below(trial_id)
        unsafe: list[str] = []
        for path in _files_in(logdir, exported):
            try:
                found = os.stat(path)
                mark = (found.st_mtime_ns, found.st_size)
                if self._sent.get(path) == mark or (found.st_size > _SMALL and not final):
                    continue
                place.upload(os.path.relpath(path, logdir), Path(path))
                self._sent[path] = mark
            except FileNotFoundError:  # removed meanwhile
                continue
            except UnsafePath:
                unsafe.append(path)
        if unsafe:
            raise StorageError(f"{unsafe[0]!r} is no name that an object can have; rename the file")

    def forget(self, trial_id: str) -> None:
        """Hold nothing any longer for a trial that has ended."""
        with self._lock:
            self._commits.pop(trial_id, None)
            self._bringing.pop(trial_id, None)

    def close(self) -> None:
        """Let what is under way fail instead of trying again."""
        self.is_closed = True
        self.storage.close()

    def _commits_of(self, trial_id: str, attempt: int = 0) -> Commits:
        """Return the commits of a trial; who writes to them says which attempt of it he knows of."""
        with self._lock:
            known, commits = self._commits.get(trial_id, (-1, None))
            if commits is None or known < attempt:
                place = self.remote_dir(trial_id, attempt)
                commits = Commits(place.storage, place.writer)
                self._commits[trial_id] = attempt, commits
            return commits

    def _parts(self, path: str) -> tuple[str, str]:
        """Return the trial and the checkpoint that a path lies in."""
        relative = os.path.relpath(path, self._directory).split(os.sep)
        if len(relative) < 2 or relative[0] == ".." or not relative[1].startswith(_CHECKPOINT):
            raise StorageError(
                f"{path} is no checkpoint of a trial of {self._directory}, so it is not kept in {self.url}"
            )
        return relative[0], relative[1]


def _link_tree(source: Path, target: Path) -> None:
    """Link the files of a directory into another, or copy them where that cannot be done.

    Raises:
        FileNotFoundError: One is gone.
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
            except OSError:  # no links on this file system
                shutil.copyfile(os.path.join(directory, name), inner / name, follow_symlinks=False)


def _files_in(logdir: str, exported: Iterable[str]) -> Iterator[str]:
    """Yield the regular files directly in a trial's directory, and what it exported below it."""
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
            continue  # it lies elsewhere, as its user wanted
        inner = os.path.relpath(path, logdir)
        if inner.startswith(_CHECKPOINT) or os.path.realpath(path) != os.path.join(root, inner):
            continue  # it is a checkpoint, or a link leads there
        if os.path.dirname(path) != logdir and _is_regular(path):
            yield path
        for directory, _, files in os.walk(path):
            yield from (p for name in files if _is_regular(p := os.path.join(directory, name)))


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
