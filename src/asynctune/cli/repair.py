"""``asynctune repair``: keeps the good beginning of a damaged journal."""

from __future__ import annotations

from pathlib import Path

from asynctune.errors import ExperimentCorrupt, TuneError
from asynctune.experiment import reader
from asynctune.experiment.lock import ExperimentLock
from asynctune.experiment.state import state_from_disk
from asynctune.storage.filesystem import FileSystem


def repair(directory: str) -> int:
    """Cut a damaged journal off at the damage, and print how much was kept and cut.

    Args:
        directory: The directory of the experiment.

    Returns:
        The exit code.

    Raises:
        TuneError: The directory holds no experiment, or a run is using the experiment.
        ExperimentCorrupt: The journal has no good record, or a newer version wrote the journal.
    """
    path = Path(directory, reader.FILE_NAME)
    if not path.is_file():
        raise TuneError(
            f"{directory} is not an experiment: the directory has no file {reader.FILE_NAME!r}"
        )
    lock = ExperimentLock(directory, FileSystem(), reader.FILE_NAME)
    lock.acquire()
    try:
        journal = reader.JournalReader(path)
        # The state checks each record: one that does not fit those before it is damage too.
        cut = reader.repair(path, state_from_disk(directory, journal.read_rows).apply)
        if not cut:
            print(f"{path} is not damaged; nothing was changed")
            return 0
        journal.replay(state_from_disk(directory, journal.read_rows).apply)
    except ExperimentCorrupt as exc:
        raise ExperimentCorrupt(f"cannot repair the journal: {exc}") from exc
    finally:
        lock.release()
    print(f"{path}: kept {journal.count} good records, cut off {cut} bytes")
    return 0
