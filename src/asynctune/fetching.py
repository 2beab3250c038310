"""Bringing a whole experiment from a storage to a directory, to look at or to go on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from asynctune import directory as _directory
from asynctune.errors import CheckpointCorrupt, TuneError
from asynctune.files import Files
from asynctune.lock import ExperimentLock
from asynctune.mirror import Mirror
from asynctune.state import stored_state
from asynctune.storage import Storage
from asynctune.storage.base import plain_key
from asynctune.storage.commits import Commits
from asynctune.stored import FILE_NAME, StoredJournal
from asynctune.trial import Trial

_LARGEST_LOG = 1 << 30


def fetch_experiment(place: Storage, directory: str, say: Callable[[str], object]) -> int:
    """Bring the journal, every commit and the logs of an experiment. What is here already stays.

    Args:
        place: Where the experiment is kept.
        directory: Where it goes.
        say: Told of each trial, and of what is damaged.

    Returns:
        How many checkpoints were damaged.

    Raises:
        TuneError: There is none.
        ExperimentLocked: A driver works on it in this directory.
        UnsafePath: A name there leads elsewhere.
    """
    mirror = Mirror(place, directory)
    if not mirror.segments.exists():
        raise TuneError(f"{place.url} is no experiment: it has no journal")
    _directory.make(directory, Files())
    lock = ExperimentLock(directory, Files(), FILE_NAME)
    lock.acquire()
    try:
        journal = Path(directory, FILE_NAME)
        mirror.segments.pull(journal)
        stored = StoredJournal(journal)
        state = stored_state(directory, stored.read_rows)
        stored.replay(state.apply)
        damaged = 0
        for trial in state.trials.values():
            damaged += _fetch_trial(place.below(trial.trial_id), trial, say)
    finally:
        lock.release()
    return damaged


def _fetch_trial(place: Storage, trial: Trial, say: Callable[[str], object]) -> int:
    os.makedirs(trial.logdir, mode=0o700, exist_ok=True)
    for entry in place.list(""):
        name = plain_key(entry.key, place.url)
        target = Path(trial.logdir, name)
        if "/" not in name and not target.exists() and entry.size <= _LARGEST_LOG:
            place.download(name, target, entry.size)
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
