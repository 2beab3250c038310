"""The download of a whole experiment from a storage to a directory, to analyse or to resume it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from asynctune.errors import CheckpointCorrupt, StorageError, StorageFull, StorageTimeout, TuneError
from asynctune.experiment import layout as _directory
from asynctune.experiment.lock import ExperimentLock
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.experiment.remote.replica import Replica
from asynctune.experiment.state import state_from_disk
from asynctune.experiment.trial import Trial
from asynctune.storage import Storage
from asynctune.storage.base import Entry, check_key
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.manifest import STAGING_PREFIX
from asynctune.storage.filesystem import FileSystem

_MAX_LOG_BYTES = 1 << 30
_ATTEMPTS = 4
"""Number of attempts to download a log that grows meanwhile."""


def fetch_experiment(storage: Storage, directory: str, say: Callable[[str], object]) -> int:
    """Download the journal, every checkpoint and the logs of an experiment.

    Local checkpoints stay as they are. A log is replaced if its local and remote sizes differ, unless the
    local journal is longer than the remote one: then the experiment was continued locally, and so were its
    logs.

    Args:
        storage: The storage of the experiment.
        directory: The local directory.
        say: A function that prints a line: one for each trial, and one for each failed download.

    Returns:
        The number of damaged checkpoints and failed downloads of logs.

    Raises:
        TuneError: The storage holds no experiment.
        ExperimentLocked: A driver runs the experiment in this directory.
        UnsafePath: A name in the storage leads outside the directory.
    """
    replica = Replica(storage, directory)
    if not replica.journal.exists():
        raise TuneError(f"{storage.url} is no experiment: it has no journal")
    _directory.make(directory, FileSystem())
    lock = ExperimentLock(directory, FileSystem(), FILE_NAME)
    lock.acquire()
    try:
        journal = Path(directory, FILE_NAME)
        replica.journal.download(journal)
        reader = JournalReader(journal)
        state = state_from_disk(directory, reader.read_rows)
        reader.replay(state.apply)
        is_ahead = journal.stat().st_size > replica.journal.end
        failures = 0
        for trial in state.trials.values():
            below = storage.below(trial.trial_id)
            os.makedirs(trial.logdir, mode=0o700, exist_ok=True)
            _remove_staging(trial.logdir)
            failures += _fetch_logs(below, trial, say, is_ahead) + _fetch_commits(below, trial, say)
    finally:
        lock.release()
    return failures


def _remove_staging(logdir: str) -> None:
    """Remove unfinished files of a fetch or driver that was killed. The caller holds the lock."""
    for name in os.listdir(logdir):
        if name.startswith(STAGING_PREFIX):
            FileSystem().remove_tree(os.path.join(logdir, name))


def _fetch_logs(
    storage: Storage, trial: Trial, say: Callable[[str], object], is_ahead: bool
) -> int:
    failures = 0
    for entry in storage.list(""):
        name = check_key(entry.key, storage.url)
        if "/" in name or not _is_outdated(Path(trial.logdir, name), entry.size, is_ahead):
            continue
        if entry.size > _MAX_LOG_BYTES:
            say(f"{trial.trial_id}  {name} was skipped: it has {entry.size} bytes")
        elif error := _download_log(storage, entry, trial.logdir):
            failures += 1
            say(f"{trial.trial_id}  {name} was not downloaded: {error}")
    return failures


def _is_outdated(target: Path, size: int, is_ahead: bool) -> bool:
    """Return whether a log must be downloaded: whether its local copy is missing or outdated."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size != size and not is_ahead


def _download_log(storage: Storage, entry: Entry, logdir: str) -> str:
    """Download a log, which appears when it is complete. Return the message of a failure, else ""."""
    name, error = entry.key, ""
    size: int | None = entry.size
    for _ in range(_ATTEMPTS):
        if size is None:
            return ""  # the log was removed from the storage meanwhile
        staging = _checkpoint.make_staging_dir(logdir, "log")
        try:
            storage.download(name, staging / "file", size)
            os.replace(staging / "file", Path(logdir, name))
        except FileNotFoundError:
            size = None
        except CheckpointCorrupt as exc:  # its size differs: a driver has uploaded a newer one
            error, size = str(exc), _size_of(storage, name)
        except (StorageFull, StorageTimeout):
            raise  # every further download would fail too
        except StorageError as exc:
            return str(exc)
        else:
            return ""
        finally:
            _checkpoint.remove_staging_dir(staging)
    return error


def _size_of(storage: Storage, name: str) -> int | None:
    # The listing begins shortly before the name, so that the first page holds it.
    entries = storage.list("", after=name[:-1])
    return next((entry.size for entry in entries if entry.key == name), None)


def _fetch_commits(storage: Storage, trial: Trial, say: Callable[[str], object]) -> int:
    commits, downloaded, damaged = Commits(storage), 0, 0
    bad_records: list[CheckpointCorrupt] = []
    for commit in commits.newest_first(bad_records):
        if not Path(trial.logdir, commit.name).exists():
            try:
                commits.fetch(commit, Path(trial.logdir))
                downloaded += 1
            except CheckpointCorrupt as exc:
                damaged += 1
                say(str(exc))
    damaged += len(bad_records)
    for error in bad_records:
        say(str(error))
    say(
        f"{trial.trial_id}  {trial.status}  {trial.num_results} results, "
        f"{downloaded} checkpoints downloaded"
    )
    return damaged
