"""Opening an experiment: its directory, its lock and its journal, new or as an earlier driver left them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from asynctune.errors import ConfigError
from asynctune.experiment import events as ev
from asynctune.experiment import layout as _directory
from asynctune.experiment.history import History, check_spec, read_history
from asynctune.experiment.journal import Journal
from asynctune.experiment.lock import ExperimentLock
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.experiment.remote.replica import Replica
from asynctune.experiment.status import Resume
from asynctune.storage import Storage
from asynctune.storage import filesystem as _files


@dataclass(frozen=True, slots=True)
class OpenExperiment:
    """An experiment that this driver alone works on, until it is closed.

    Args:
        journal: Its journal, open.
        lock: Its lock, held.
        history: What earlier drivers left, None if it is new.
        torn: How many bytes of the journal a crash had left unfinished.
        replica: Its remote side, of which this driver is the owner, if it has one.
    """

    journal: Journal
    lock: ExperimentLock
    history: History | None = None
    torn: int = 0
    replica: Replica | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the remote side may lack something that earlier drivers wrote here."""
        if self.history is None or self.replica is None:
            return False
        return not self.history.ended_well or self.replica.segments.end < self.journal.shown_end

    def close(self) -> None:
        """Close the journal, and let others have the experiment."""
        self.journal.close()
        self.lock.release()


def open_experiment(
    directory: str,
    spec: ev.RunStarted,
    *,
    resume: Resume,
    durable: bool = False,
    remote: Storage | None = None,
) -> OpenExperiment:
    """Create an experiment, or open the one that exists. Blocks for a while.

    Args:
        directory: The directory of the experiment.
        spec: The first record that a new experiment would get; an existing one has to match.
        resume: Whether the experiment may or has to exist.
        durable: Whether a record has to survive the death of the machine before it is shown.
        remote: Where the experiment is kept beside its directory, None for nowhere.

    Raises:
        ConfigError: It exists and may not, or does not and should.
        ExperimentLocked: Another driver runs it.
        ExperimentCorrupt: Its journal is damaged.
        SpecMismatch: It began with another space or objective.
        StorageError: The system refused.
    """
    files = _files.current.get()
    try:
        stored = JournalReader(Path(directory, FILE_NAME))
        replica = Replica(remote, directory) if remote is not None else None
        is_there = replica is not None and replica.segments.exists()
        is_here = stored.exists()
        exists = is_here or is_there
        if resume in (Resume.MUST_EXIST, Resume.ERRORED) and not exists:
            raise _missing(directory, spec.name, resume)
        if resume is Resume.NEW and exists:
            where = replica.url if replica is not None and is_there else directory
            raise _directory.name_taken(where, spec.name)
        if not is_here and not _directory.make(directory, files):
            _directory.refuse_foreign(directory, spec.name)
        journal = Journal(stored.path, durable=durable, files=files)
        return _locked(directory, spec, stored, journal, replica, is_new=resume is Resume.NEW)
    except OSError as exc:
        raise _files.storage_error(exc, f"the experiment {directory} cannot be opened") from exc


def _locked(
    directory: str,
    spec: ev.RunStarted,
    stored: JournalReader,
    journal: Journal,
    replica: Replica | None,
    *,
    is_new: bool,
) -> OpenExperiment:
    lock = ExperimentLock(directory, _files.current.get(), FILE_NAME)
    lock.acquire()
    try:
        was_pulled = replica is not None and replica.segments.pull(stored.path)
        history: History | None = None
        torn = 0
        if stored.exists():  # asked again: another driver may have come before us
            history = _read(directory, spec, stored, is_new=is_new, logs_are_old=was_pulled)
            torn = journal.reopen(stored)
        else:
            journal.open()
        if replica is not None:
            replica.begin(history.epoch if history is not None else 0)
    except BaseException:
        journal.close()
        lock.release()
        raise
    return OpenExperiment(journal, lock, history, torn, replica)


def _read(
    directory: str, spec: ev.RunStarted, stored: JournalReader, *, is_new: bool, logs_are_old: bool
) -> History:
    """Check the experiment that exists, and return what its journal says."""
    if is_new:
        raise _directory.name_taken(directory, spec.name)
    _directory.check(directory)
    history = read_history(stored, directory, logs_are_old=logs_are_old)
    # A seed that was not given is that of the journal, unless another driver began it just now.
    check_spec(history, spec)
    return history


def _missing(directory: str, name: str, resume: Resume) -> ConfigError:
    parent = os.path.dirname(directory)
    names = os.listdir(parent) if os.path.isdir(parent) else ()
    there = sorted(name for name in names if os.path.isfile(os.path.join(parent, name, FILE_NAME)))
    known = f"; there are {', '.join(there[-10:])}" if there else ", nor any other"
    given = True if resume is Resume.MUST_EXIST else str(resume)
    return ConfigError(
        f"resume={given!r} was asked for, but {parent} has no experiment "
        f"{name!r}{known}. resume='AUTO' starts it where it does not exist"
    )
