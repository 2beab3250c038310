"""``asynctune repair``: the good beginning of a damaged journal is kept."""

from __future__ import annotations

from pathlib import Path

from asynctune.errors import ExperimentCorrupt, TuneError
from asynctune.experiment import reader as stored
from asynctune.experiment.lock import ExperimentLock
from asynctune.experiment.state import state_from_disk
from asynctune.storage.filesystem import FileSystem


def repair(directory: str) -> int:
    """Keep the good beginning of the journal, and say what was cut off.

    Args:
        directory: That of the experiment.

    Returns:
        The exit code.

    Raises:
        TuneError: It is no experiment, or one that is in use.
        ExperimentCorrupt: Nothing of the journal is good.
    """
    path = Path(directory, stored.FILE_NAME)
    if not path.is_file():
        raise TuneError(f"{directory} is no experiment: it has no file called {stored.FILE_NAME!r}")
    lock = ExperimentLock(directory, FileSystem(), stored.FILE_NAME)
    lock.acquire()
    try:
        journal = stored.JournalReader(path)
        cut = stored.repair(path, state_from_disk(directory, journal.read_rows).apply)
        if not cut:
            print(f"{path} is whole; nothing was changed")
            return 0
        journal.replay(state_from_disk(directory, journal.read_rows).apply)
    except ExperimentCorrupt as exc:
        raise ExperimentCorrupt(f"nothing can be kept: {exc}") from exc
    finally:
        lock.release()
    print(f"{path}: {journal.count} records are good and stay; {cut} bytes were cut off")
    return 0
