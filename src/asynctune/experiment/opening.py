"""Opening of an experiment: its directory, lock, journal and remote copy, new or from the previous run."""

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
    """An experiment that is locked for this driver, until it is closed.

    Args:
        journal: The open journal.
        lock: The held lock.
        history: The previous runs, None for a new experiment.
        torn_bytes: The number of bytes of an unfinished record that were cut off the journal.
        replica: The remote copy, taken over by this driver; None for an experiment without one.
    """

    journal: Journal
    lock: ExperimentLock
    history: History | None = None
    torn_bytes: int = 0
    replica: Replica | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the remote copy may lack logs or events that previous runs wrote locally."""
        if self.history is None or self.replica is None:
            return False
        return not self.history.ended_cleanly or self.replica.journal.end < self.journal.visible_end

    def close(self) -> None:
        """Close the journal, and release the lock."""
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
    """Create an experiment, or open an existing one. Blocks; call it in a thread.

    Args:
        directory: The directory of the experiment.
        spec: The first record of a new experiment; an existing experiment must match it.
        resume: Whether the experiment may or must exist.
        durable: Whether a record must be durable, so that it survives the death of the machine, before
            readers see it.
        remote: The storage of the remote copy, None for an experiment without one.

    Raises:
        ConfigError: The experiment exists and must not, or does not exist and must.
        ExperimentLocked: Another driver runs the experiment.
        ExperimentCorrupt: The journal is damaged.
        SpecMismatch: The experiment began with another space, objective or seed.
        StorageError: A call of the operating system or of the storage failed.
    """
    files = _files.current.get()
    try:
        reader = JournalReader(Path(directory, FILE_NAME))
        replica = Replica(remote, directory) if remote is not None else None
        has_remote = replica is not None and replica.journal.exists()
        has_local = reader.exists()
        exists = has_local or has_remote
        if resume in (Resume.MUST_EXIST, Resume.ERRORED) and not exists:
            raise _missing(directory, spec.name, resume)
        if resume is Resume.NEW and exists:
            where = replica.url if replica is not None and has_remote else directory
            raise _directory.name_taken(where, spec.name)
        if not has_local and not _directory.make(directory, files):
            _directory.refuse_foreign(directory, spec.name)
        journal = Journal(reader.path, durable=durable, files=files)
        return _open_locked(directory, spec, reader, journal, replica, is_new=resume is Resume.NEW)
    except OSError as exc:
        raise _files.storage_error(exc, f"the experiment {directory} cannot be opened") from exc


def _open_locked(
    directory: str,
    spec: ev.RunStarted,
    reader: JournalReader,
    journal: Journal,
    replica: Replica | None,
    *,
    is_new: bool,
) -> OpenExperiment:
    """Open the experiment under its lock."""
    lock = ExperimentLock(directory, _files.current.get(), FILE_NAME)
    lock.acquire()
    try:
        was_downloaded = replica is not None and replica.journal.download(reader.path)
        history: History | None = None
        torn_bytes = 0
        # A second look, under the lock: another driver may have created the experiment meanwhile.
        if reader.exists():
            history = _read_existing(
                directory, spec, reader, is_new=is_new, logs_are_old=was_downloaded
            )
            torn_bytes = journal.reopen(reader)
        else:
            journal.open()
        if replica is not None:
            replica.begin(history.epoch if history is not None else 0)
    except BaseException:
        journal.close()
        lock.release()
        raise
    return OpenExperiment(journal, lock, history, torn_bytes, replica)


def _read_existing(
    directory: str, spec: ev.RunStarted, reader: JournalReader, *, is_new: bool, logs_are_old: bool
) -> History:
    """Check an existing experiment, and return its history."""
    if is_new:
        raise _directory.name_taken(directory, spec.name)
    _directory.check(directory)
    history = read_history(reader, directory, logs_are_old=logs_are_old)
    # A seed that the user did not pass comes from the journal. So the seeds differ only if the user
    # passed another one, or if another driver has created the experiment since.
    check_spec(history, spec)
    return history


def _missing(directory: str, name: str, resume: Resume) -> ConfigError:
    parent = os.path.dirname(directory)
    names = os.listdir(parent) if os.path.isdir(parent) else ()
    found = sorted(name for name in names if os.path.isfile(os.path.join(parent, name, FILE_NAME)))
    existing = f"; it has the experiments {', '.join(found[-10:])}" if found else ", nor any other"
    return ConfigError(
        f"resume={resume.argument!r} needs an existing experiment, but {parent} has no experiment "
        f"{name!r}{existing}. resume='AUTO' starts a missing experiment"
    )
