"""The directory of an experiment: made, looked at before it is trusted, and cleaned of leftovers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from asynctune.errors import ConfigError, UnsafePath
from asynctune.experiment.lock import FILE_NAME as LOCK
from asynctune.experiment.reader import FILE_NAME as JOURNAL
from asynctune.experiment.reader import PULLED
from asynctune.storage.checkpoints.manifest import ASIDE, MANIFEST, is_checkpoint
from asynctune.storage.filesystem import FileSystem, make_directories, storage_error

_OURS = frozenset({JOURNAL, LOCK, f"{JOURNAL}{PULLED}"})


def make(directory: str, files: FileSystem) -> bool:
    """Create the directory, durably and for its owner alone; tell whether it is new.

    Raises:
        StorageError: The system refused.
    """
    try:
        return make_directories(files, directory)
    except OSError as exc:
        raise storage_error(exc, f"storage_path: {directory} cannot be created") from exc


def refuse_foreign(directory: str, name: str) -> None:
    """Refuse a directory that holds anything but what a start that went no further left.

    Raises:
        ConfigError: It does.
    """
    if not set(os.listdir(directory)) <= _OURS:
        raise name_taken(directory, name)


def name_taken(directory: str, name: str) -> ConfigError:
    """Return the error for a name that is taken."""
    return ConfigError(
        f"name is {name!r}, and {directory} exists; an experiment is never written over, so choose "
        'another name, or continue it with resume=True (resume="AUTO": if it exists)'
    )


def check(directory: str) -> None:
    """Refuse links and special files where an experiment reads and writes.

    Args:
        directory: The experiment; its entries and those of its trials are looked at. Checkpoints are
            compared with their manifests when they are restored.

    Raises:
        UnsafePath: The message names the file.
    """
    if not stat.S_ISDIR(os.lstat(directory).st_mode):
        raise UnsafePath(f"{directory} is not a directory; an experiment cannot be resumed there")
    with os.scandir(directory) as entries:
        for entry in entries:
            _check_entry(entry)
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as inner:
                    for file in inner:
                        _check_entry(file)


def remove_leftovers(
    logdir: str, kept: Iterable[str], dropped: Iterable[str], files: FileSystem
) -> None:
    """Remove what a dead driver or worker left in a trial's directory.

    Only what is certainly ours goes: saves that were not finished, checkpoints that are complete and
    that no journal knows, and those of which the journal says that nothing needs them.

    Args:
        logdir: The trial's directory.
        kept: The paths of the checkpoints that the journal knows.
        dropped: The paths of those that it says are not needed.
        files: The file calls.
    """
    known = {_root_in(logdir, path) for path in kept}
    for path in dropped:
        root = _root_in(logdir, path)
        if root is not None and root not in known and os.path.isdir(root):
            files.remove_tree(root)
    # What a repair cut off may have named what now nobody knows.
    parent = os.path.dirname(logdir)
    was_repaired = any(name.startswith(f"{JOURNAL}.cut-") for name in os.listdir(parent))
    try:
        names = os.listdir(logdir)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(logdir, name)
        unknown = path not in known and is_checkpoint(name) and not was_repaired
        if name.startswith(ASIDE) or (unknown and os.path.isfile(os.path.join(path, MANIFEST))):
            files.remove_tree(path)


def _root_in(logdir: str, path: str) -> str | None:
    """Return the entry of the trial's directory that a checkpoint's path lies in."""
    relative = os.path.relpath(path, logdir)
    first = relative.split(os.sep, 1)[0]
    return os.path.join(logdir, first) if is_checkpoint(first) else None


def _check_entry(entry: os.DirEntry[str]) -> None:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
    raise UnsafePath(
        f"{entry.path} is {kind}; what is written there would go elsewhere, so the experiment is not "
        "resumed until it is removed"
    )
