"""Opening an experiment: its directory, its lock and its journal, new or as an earlier driver left them."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from asynctune import __version__
from asynctune import directory as _directory
from asynctune import events as ev
from asynctune import files as _files
from asynctune.errors import ConfigError
from asynctune.executors._shipping import Shipment
from asynctune.files import Files
from asynctune.journal import Journal
from asynctune.lock import ExperimentLock
from asynctune.mirror import Mirror
from asynctune.options import Plan, Resume
from asynctune.resume import Past, check_spec, read_past
from asynctune.stored import FILE_NAME, FORMAT, StoredJournal


@dataclass(frozen=True, slots=True)
class Opened:
    """An experiment that this driver alone works on, until it is closed.

    Args:
        plan: What to do, the seed being that of the experiment.
        journal: Its journal, open.
        lock: Its lock, held.
        past: What earlier drivers left, None if it is new.
        torn: How many bytes of the journal a crash had left unfinished.
        mirror: Its remote side, of which this driver is the owner, if it has one.
    """

    plan: Plan
    journal: Journal
    lock: ExperimentLock
    past: Past | None = None
    torn: int = 0
    mirror: Mirror | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the remote side may lack something that earlier drivers wrote here."""
        if self.past is None or self.mirror is None:
            return False
        return not self.past.ended_well or self.mirror.segments.end < self.journal.shown_end

    def close(self) -> None:
        """Close the journal, and let others have the experiment."""
        self.journal.close()
        self.lock.release()


def started(plan: Plan, shipment: Shipment, past: Past | None = None) -> ev.RunStarted:
    """Return what a run writes down at its start."""
    options = plan.options
    return ev.RunStarted(
        format=FORMAT,
        name=plan.name,
        trainable=shipment.name,
        metric=options.metric,
        mode=options.mode,
        seed=plan.seed,
        num_samples=options.num_samples,
        started_at=time.time(),
        pid=os.getpid(),
        host=socket.gethostname(),
        version=__version__,
        space=plan.space.outline(),
        epoch=past.epoch if past is not None else 0,
    )


def open_experiment(plan: Plan, spec: ev.RunStarted) -> Opened:
    """Create the experiment of a plan, or take up the one that exists. Blocks for a while.

    Args:
        plan: What to do.
        spec: What it would write down as its first record.

    Raises:
        ConfigError: It exists and may not, or does not and should.
        ExperimentLocked: Another driver runs it.
        ExperimentCorrupt: Its journal is damaged.
        SpecMismatch: It began with another space or objective.
        StorageError: The system refused.
    """
    files = _files.current.get()
    directory = plan.directory
    try:
        stored = StoredJournal(Path(directory, FILE_NAME))
        mirror = Mirror(plan.remote, directory) if plan.remote is not None else None
        is_there = mirror is not None and mirror.segments.exists()
        is_here = stored.exists()
        exists = is_here or is_there
        if plan.resume in (Resume.MUST_EXIST, Resume.ERRORED) and not exists:
            raise _missing(plan)
        if plan.resume is Resume.NEW and exists:
            where = mirror.url if mirror is not None and is_there else directory
            raise _directory.exists_already(where, plan.name)
        if not is_here and not _directory.make(directory, files):
            _directory.refuse_foreign(directory, plan.name)
        return _locked(plan, spec, stored, files, mirror)
    except OSError as exc:
        raise _files.storage_error(exc, f"the experiment {directory} cannot be opened") from exc


def _locked(
    plan: Plan, spec: ev.RunStarted, stored: StoredJournal, files: Files, mirror: Mirror | None
) -> Opened:
    durable = plan.options.durability == "power"
    journal = Journal(stored.path, durable=durable, files=files)
    lock = ExperimentLock(plan.directory, files, FILE_NAME)
    lock.acquire()
    try:
        was_pulled = mirror is not None and mirror.segments.pull(stored.path)
        if stored.exists():  # asked again: another driver may have come before us
            past, torn = _take_over(plan, spec, stored, journal, was_pulled=was_pulled)
            opened = Opened(plan, journal, lock, past, torn, mirror)
        else:
            journal.open()
            opened = Opened(plan, journal, lock, mirror=mirror)
        if mirror is not None:
            mirror.begin(opened.past.epoch if opened.past is not None else 0)
    except BaseException:
        journal.close()
        lock.release()
        raise
    return opened


def _take_over(
    plan: Plan,
    spec: ev.RunStarted,
    stored: StoredJournal,
    journal: Journal,
    *,
    was_pulled: bool,
) -> tuple[Past, int]:
    if plan.resume is Resume.NEW:
        raise _directory.exists_already(plan.directory, plan.name)
    _directory.check(plan.directory)
    past = read_past(stored, plan.directory, logs_are_old=was_pulled)
    # A seed that was not given is that of the journal, unless another driver began it just now.
    check_spec(past, spec)
    return past, journal.open_again(stored)


def _missing(plan: Plan) -> ConfigError:
    parent = os.path.dirname(plan.directory)
    names = os.listdir(parent) if os.path.isdir(parent) else ()
    there = sorted(name for name in names if os.path.isfile(os.path.join(parent, name, FILE_NAME)))
    known = f"; there are {', '.join(there[-10:])}" if there else ", nor any other"
    return ConfigError(
        f"resume={str(plan.options.resume)!r} was asked for, but {parent} has no experiment "
        f"{plan.name!r}{known}. resume='AUTO' starts it where it does not exist"
    )
