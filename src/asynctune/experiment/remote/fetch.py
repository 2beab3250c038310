"""Bringing a whole experiment from a storage to a directory, to look at or to go on from."""

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
from asynctune.storage.base import Entry, plain_key
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.manifest import ASIDE
from asynctune.storage.filesystem import FileSystem

_LARGEST_LOG = 1 << 30
_LOOKS = 4
"""So often is a log looked at that grows while it is brought."""


def fetch_experiment(place: Storage, directory: str, say: Callable[[str], object]) -> int:
    """Bring the journal, every commit and the logs of an experiment.

    Checkpoints that are here already stay. A log that has another size here than there is replaced, unless
    the journal here is ahead: then the experiment went on here, and so did its logs.

    Args:
        place: Where the experiment is kept.
        directory: Where it goes.
        say: Told of each trial, and of what did not come.

    Returns:
        How many checkpoints were damaged, and logs could not be brought.

    Raises:
        TuneError: There is none.
        ExperimentLocked: A driver works on it in this directory.
        UnsafePath: A name there leads elsewhere.
    """
    replica = Replica(place, directory)
    if not replica.segments.exists():
        raise TuneError(f"{place.url} is no experiment: it has no journal")
    _directory.make(directory, FileSystem())
    lock = ExperimentLock(directory, FileSystem(), FILE_NAME)
    lock.acquire()
    try:
        journal = Path(directory, FILE_NAME)
        replica.segments.pull(journal)
        stored = JournalReader(journal)
        state = state_from_disk(directory, stored.read_rows)
        stored.replay(state.apply)
        is_ahead = journal.stat().st_size > replica.segments.end
        damaged = 0
        for trial in state.trials.values():
            own = place.below(trial.trial_id)
            os.makedirs(trial.logdir, mode=0o700, exist_ok=True)
            _remove_asides(trial.logdir)
            damaged += _fetch_logs(own, trial, say, is_ahead) + _fetch_commits(own, trial, say)
    finally:
        lock.release()
    return damaged


def _remove_asides(logdir: str) -> None:
    """Remove what a fetch or a driver that was killed had begun to write; nobody else has the lock."""
    for name in os.listdir(logdir):
        if name.startswith(ASIDE):
            FileSystem().remove_tree(os.path.join(logdir, name))


def _fetch_logs(place: Storage, trial: Trial, say: Callable[[str], object], is_ahead: bool) -> int:
    missing = 0
    for entry in place.list(""):
        name = plain_key(entry.key, place.url)
        if "/" in name or not _is_wanted(Path(trial.logdir, name), entry.size, is_ahead):
            continue
        if entry.size > _LARGEST_LOG:
            say(f"{trial.trial_id}  {name} stays there: it has {entry.size} bytes")
        elif why := _bring_log(place, entry, trial.logdir):
            missing += 1
            say(f"{trial.trial_id}  {name} was not brought: {why}")
    return missing


def _is_wanted(target: Path, size: int, is_ahead: bool) -> bool:
    """Tell whether a log is to be brought, as far as what is here says."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size != size and not is_ahead


def _bring_log(place: Storage, entry: Entry, logdir: str) -> str:
    """Bring a log, which appears when it is complete; return why that was not possible, or ""."""
    name, why = entry.key, ""
    size: int | None = entry.size
    for _ in range(_LOOKS):
        if size is None:
            return ""  # it was removed there meanwhile
        aside = _checkpoint.make_staging_dir(logdir, "log")
        try:
            place.download(name, aside / "file", size)
            os.replace(aside / "file", Path(logdir, name))
        except FileNotFoundError:
            size = None
        except CheckpointCorrupt as exc:  # a driver has uploaded a newer one meanwhile
            why, size = str(exc), _size_of(place, name)
        except (StorageFull, StorageTimeout):
            raise  # the next one would fare no better
        except StorageError as exc:
            return str(exc)
        else:
            return ""
        finally:
            _checkpoint.remove_staging_dir(aside)
    return why


def _size_of(place: Storage, name: str) -> int | None:
    behind = place.list("", after=name[:-1])  # where it is among the first, in one page
    return next((entry.size for entry in behind if entry.key == name), None)


def _fetch_commits(place: Storage, trial: Trial, say: Callable[[str], object]) -> int:
    commits, brought, damaged = Commits(place), 0, 0
    bad: list[CheckpointCorrupt] = []
    for commit in commits.newest_first(bad):
        if not Path(trial.logdir, commit.name).exists():
            try:
                commits.fetch(commit, Path(trial.logdir))
                brought += 1
            except CheckpointCorrupt as exc:
                damaged += 1
                say(str(exc))
    damaged += len(bad)
    for error in bad:
        say(str(error))
    say(
        f"{trial.trial_id}  {trial.status}  {trial.num_results} results, {brought} checkpoints brought"
    )
    return damaged
