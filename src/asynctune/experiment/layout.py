"""The directory of an experiment: its creation, its check before a resume, and the removal of leftovers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from asynctune.errors import ConfigError, UnsafePath
from asynctune.experiment.lock import FILE_NAME as LOCK
from asynctune.experiment.reader import FILE_NAME as JOURNAL
from asynctune.experiment.reader import PARTIAL
from asynctune.storage.checkpoints.manifest import MANIFEST, STAGING_PREFIX, is_checkpoint
from asynctune.storage.filesystem import FileSystem, make_directories, storage_error

_OURS = frozenset({JOURNAL, LOCK, f"{JOURNAL}{PARTIAL}"})


def make(directory: str, files: FileSystem) -> bool:
    """Create the directory, durably and accessible to its owner only. Return whether it is new.

    Raises:
        StorageError: A call of the operating system failed.
    """
    try:
        return make_directories(files, directory)
    except OSError as exc:
        raise storage_error(exc, f"storage_path: {directory} cannot be created") from exc


def refuse_foreign(directory: str, name: str) -> None:
    """Check that a directory holds no files other than those of an interrupted start.

    Raises:
        ConfigError: The directory holds other files.
    """
    if not set(os.listdir(directory)) <= _OURS:
        raise name_taken(directory, name)


def name_taken(directory: str, name: str) -> ConfigError:
    """Return the error for a name that is taken."""
    return ConfigError(
        f"name must be the name of a new experiment, got {name!r}: {directory} exists; an experiment is "
        "never written over. Choose another name, or continue the experiment with resume=True "
        '(resume="AUTO": if it exists)'
    )


def check(directory: str) -> None:
    """Check that an experiment reads and writes no links and no special files.

    Args:
        directory: The directory of the experiment. Its entries and those of its trials are checked; a
            checkpoint is compared with its manifest when it is restored.

    Raises:
        UnsafePath: There is a link or special file; the message names it.
    """
    if not stat.S_ISDIR(os.lstat(directory).st_mode):
        raise UnsafePath(
            f"{directory} must be a directory, not a link or file; the experiment cannot be resumed"
        )
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
    """Remove the leftovers of a dead driver or worker from a trial's directory.

    Only files of asynctune are removed: unfinished saves, complete checkpoints that the journal does not
    name, and checkpoints that the journal has dropped.

    Args:
        logdir: The directory of the trial.
        kept: The paths of the checkpoints that the journal keeps.
        dropped: The paths of the checkpoints that the journal has dropped.
        files: The file calls.
    """
    kept_roots = {_root_in(logdir, path) for path in kept}
    for path in dropped:
        root = _root_in(logdir, path)
        if root is not None and root not in kept_roots and os.path.isdir(root):
            files.remove_tree(root)
    # After a repair, the part that was cut off may name a checkpoint that the journal does not: keep all.
    parent = os.path.dirname(logdir)
    was_repaired = any(name.startswith(f"{JOURNAL}.cut-") for name in os.listdir(parent))
    try:
        names = os.listdir(logdir)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(logdir, name)
        is_unnamed = path not in kept_roots and is_checkpoint(name) and not was_repaired
        if name.startswith(STAGING_PREFIX) or (
            is_unnamed and os.path.isfile(os.path.join(path, MANIFEST))
        ):
            files.remove_tree(path)


def _root_in(logdir: str, path: str) -> str | None:
    """Return the checkpoint directory that holds a path, None if the path is in none."""
    relative = os.path.relpath(path, logdir)
    first = relative.split(os.sep, 1)[0]
    return os.path.join(logdir, first) if is_checkpoint(first) else None


def _check_entry(entry: os.DirEntry[str]) -> None:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
    raise UnsafePath(
        f"{entry.path} must be a regular file or a directory, got {kind}; writes to this path "
        "could go elsewhere. Remove it to resume the experiment"
    )
