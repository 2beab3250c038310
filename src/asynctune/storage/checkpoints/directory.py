"""The format of a checkpoint directory, which is either complete or invisible.

A checkpoint is written into a staging directory and each file is fsynced. ``.manifest.json`` (paths, sizes,
sha256, and the trainable's counters) is written last, and then the directory is renamed to its final name.
So a directory with a manifest is complete, and a directory without one is no checkpoint.

This module does not unpickle. A dict checkpoint is unpickled by the trainable that restores it, after its
sha256 has matched: users who restore a checkpoint trust its writer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from asynctune.errors import CheckpointCorrupt, StorageError, UnsafePath
from asynctune.storage.checkpoints.manifest import DICT_FILE, MANIFEST, STAGING_PREFIX, Manifest
from asynctune.storage.filesystem import (
    DISK_FAILURES,
    FileSystem,
    current,
    storage_error,
    write_all,
)

_CHUNK_BYTES = 1 << 20
_PROBE_BYTES = 1 << 16


def make_staging_dir(parent: str | os.PathLike[str], name: str) -> Path:
    """Create a directory called ``name`` in a new temporary directory below ``parent``.

    Raises:
        StorageError: A directory cannot be created.
    """
    filesystem = current.get()
    target = Path(parent) / f"{STAGING_PREFIX}{secrets.token_hex(6)}" / name
    try:
        target.parent.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        filesystem.make_directory(target.parent)
        filesystem.make_directory(target)
    except OSError as exc:
        raise storage_error(exc, f"{target} cannot be created") from exc
    return target


def remove_staging_dir(target: Path) -> None:
    """Remove a directory of :func:`make_staging_dir` and its temporary parent, with their content."""
    current.get().remove_tree(target.parent)


def write_saved(saved: Any, target: Path, name: str) -> tuple[str, bool]:
    """Write the return value of a save hook if it is a dict.

    Args:
        saved: The return value, a dict or the path of saved files.
        target: The directory that the hook was given.
        name: The name of the hook, for error messages.

    Returns:
        The path of the saved files relative to ``target``, and whether the return value was a dict.

    Raises:
        StorageError: The dict cannot be written.
        ValueError: The return value is neither a dict nor a path inside the directory.
    """
    if not isinstance(saved, Mapping):
        return relative_path(saved, target, name), False
    data = cloudpickle.dumps(dict(saved))
    try:
        _write(target / DICT_FILE, data, current.get(), synced=False)
    except OSError as exc:
        raise _write_error(exc, target) from exc
    return DICT_FILE, True


def raise_if_storage_failed(error: Exception, target: Path) -> None:
    """Raise ``StorageError`` if a full or broken disk, and not the hook itself, made a save hook fail.

    An ``OSError`` of such a disk counts if it names a file in this directory, or no file, as those of
    writes do. Libraries replace the errors of the system by their own, so for any other error a probe of
    64 KiB is written.

    Args:
        error: The exception that the hook raised.
        target: The directory that the hook was given, made by :func:`make_staging_dir`.

    Raises:
        StorageError: The disk failed.
    """
    if isinstance(error, StorageError):
        return
    if isinstance(error, OSError) and error.errno in DISK_FAILURES:
        filename = error.filename
        if not isinstance(filename, str | bytes) or _is_below(os.fsdecode(filename), target):
            raise _write_error(error, target) from error
    try:
        _write(target.parent / "probe", bytes(_PROBE_BYTES), current.get())
    except OSError as exc:
        if exc.errno in DISK_FAILURES:
            raise _write_error(exc, target) from error


def commit(source: Path, manifest_path: str, *, saved_as_dict: bool, state: Mapping[str, Any],
           parent: str | os.PathLike[str]) -> Path:  # fmt: skip
    """Make the files below ``source`` durable and visible as ``parent/<name of source>``.

    If the name is in use, it gets a suffix: ``checkpoint_3.1`` for the second save of iteration 3.

    Args:
        source: The staging directory with the files.
        manifest_path: The path to restore from, relative to ``source``; ``""`` is ``source`` itself.
        saved_as_dict: Whether the path is a pickled dict.
        state: The counters of the trainable.
        parent: The directory that will contain the checkpoint.

    Returns:
        The directory of the checkpoint.

    Raises:
        StorageError: A write failed; nothing became visible.
        ValueError: A saved file is missing or unreadable, or has the name of the manifest.
        UnsafePath: A saved file is a symbolic link or a special file.
    """
    try:
        entries, directories = _sync_files(source, current.get())
        manifest = Manifest(manifest_path, saved_as_dict, state, entries, directories)
        return _publish(source, manifest, parent, current.get())
    except OSError as exc:
        raise _write_error(exc, source) from exc


def _sync_files(
    source: Path, filesystem: FileSystem
) -> tuple[dict[str, tuple[int, str]], tuple[str, ...]]:
    """Make all files durable. Return their entries in the manifest, and the directories."""
    entries = {}
    directories = []
    try:
        for relative, path in sorted(_walk(source)):
            if relative == MANIFEST:
                raise ValueError(
                    f"a saved file must not be called {MANIFEST}, the name of the checkpoint's manifest"
                )
            if path.is_dir():
                directories.append(relative)
            else:
                filesystem.sync_file(path)
                entries[relative] = _digest(path)
    except (FileNotFoundError, PermissionError) as exc:  # The save hook is at fault, not the disk.
        raise ValueError(f"a saved file is missing or cannot be read: {exc}") from exc
    return entries, tuple(directories)


def _publish(
    source: Path, manifest: Manifest, parent: str | os.PathLike[str], filesystem: FileSystem
) -> Path:
    """Write the manifest, and rename the staging directory to its final name."""
    _write(source / MANIFEST, manifest.to_json(), filesystem)
    for directory, _, _ in os.walk(source):
        filesystem.sync_directory(directory)
    attempt = 0
    while True:
        final = Path(parent) / (source.name if not attempt else f"{source.name}.{attempt}")
        # A rename onto an empty directory would succeed, so existence is checked first. No other process
        # can take the name meanwhile, since a trial's directory has one writer.
        if not final.exists():
            break
        attempt += 1
    filesystem.rename(source, final)
    filesystem.sync_directory(parent)
    # The parent may be new itself, as a trial's directory is at its first checkpoint.
    with contextlib.suppress(PermissionError):  # The directory above it may belong to another user.
        filesystem.sync_directory(Path(parent).parent)
    return final


def install(staging: Path, manifest_bytes: bytes, final: Path) -> None:
    """Verify a downloaded checkpoint and move it to its final directory, completely or not at all.

    Args:
        staging: The directory of :func:`make_staging_dir` with the downloaded files.
        manifest_bytes: The content of the manifest file.
        final: The final directory; a damaged or different checkpoint in it is removed.

    Raises:
        CheckpointCorrupt: The files do not match the manifest.
        StorageError: A write failed.
    """
    filesystem = current.get()
    try:
        manifest = Manifest.from_json(manifest_bytes, final / MANIFEST)
        for directory in manifest.directories:
            (staging / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in manifest.files:
            filesystem.sync_file(staging / name)
        _write(staging / MANIFEST, manifest_bytes, filesystem)
        for directory, _, _ in os.walk(staging):
            filesystem.sync_directory(directory)
        verify(staging)
        # Another process may have installed the same checkpoint meanwhile, and readers may use that copy
        # already, so an intact one stays.
        while not _is_intact(final, manifest_bytes):
            filesystem.remove_tree(final)
            try:
                filesystem.rename(staging, final)
                break
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        filesystem.sync_directory(final.parent)
    except OSError as exc:
        raise _write_error(exc, staging) from exc


def _is_intact(root: Path, manifest_bytes: bytes) -> bool:
    """Return whether a directory is an undamaged checkpoint with exactly this manifest."""
    try:
        if (root / MANIFEST).read_bytes() != manifest_bytes:
            return False
        verify(root)
    except (OSError, CheckpointCorrupt):
        return False
    return True


def find_root(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint directory that contains a path (a file, a directory or a bare prefix).

    Raises:
        FileNotFoundError: Neither the path nor a directory above it is a checkpoint.
    """
    start = Path(os.path.abspath(path))
    for candidate in (start, *start.parents):
        if (candidate / MANIFEST).is_file():
            return candidate
    raise FileNotFoundError(
        f"no checkpoint at {os.fspath(path)}: neither the path nor a directory above it has a {MANIFEST}"
    )


def read_manifest(root: Path) -> Manifest:
    """Return the manifest of a checkpoint directory, without checking the files."""
    return Manifest.from_json((root / MANIFEST).read_bytes(), root / MANIFEST)


def verify(root: Path) -> Manifest:
    """Compare every file with the manifest. Return the manifest.

    Raises:
        CheckpointCorrupt: A file is missing, has another size, or another sha256.
        UnsafePath: A file is a symbolic link or a special file.
    """
    manifest = read_manifest(root)
    for relative in manifest.directories:
        path = root / relative
        if not (path.is_dir() and stat.S_ISDIR(path.lstat().st_mode)):
            raise CheckpointCorrupt(f"{path} is a directory in the manifest but not on disk")
    for relative, (size, digest) in manifest.files.items():
        path = root / relative
        try:
            found = path.lstat()
        except OSError as exc:
            raise CheckpointCorrupt(f"{path} is in the manifest but cannot be read: {exc}") from exc
        if not stat.S_ISREG(found.st_mode):
            raise UnsafePath(f"{path} is not a regular file; a checkpoint holds only those")
        if found.st_size != size:
            raise CheckpointCorrupt(
                f"{path} has {found.st_size} bytes instead of the {size} in its manifest"
            )
        if _digest(path)[1] != digest:
            raise CheckpointCorrupt(f"{path} does not have the sha256 in its manifest")
    return manifest


def locate(path: str | os.PathLike[str]) -> tuple[Manifest, str]:
    """Find and verify the checkpoint at a path.

    Args:
        path: The checkpoint's directory or the return value of ``save``; the directory may have been moved
            since.

    Returns:
        The manifest, and the path to restore from.

    Raises:
        FileNotFoundError: The path lies in no checkpoint.
        CheckpointCorrupt: The checkpoint is damaged.
    """
    root = find_root(path)
    manifest = verify(root)
    relative = Path(os.path.abspath(path)).relative_to(root).as_posix()
    return manifest, as_path(root, manifest.path if relative == "." else relative)


def as_path(root: Path, relative: str) -> str:
    """Return a path below a checkpoint directory; a directory gets a separator at its end."""
    path = os.path.join(root, relative)
    return os.path.join(path, "") if os.path.isdir(path) else path


def relative_path(saved: Any, target: Path, name: str) -> str:
    """Return the path that a save hook returned, relative to the directory that the hook was given.

    Args:
        saved: The return value of the hook.
        target: The directory that the hook was given.
        name: The name of the hook, for error messages.

    Raises:
        ValueError: The return value is no path, or a path outside the directory or in a checkpoint that is
            nested in the directory.
    """
    if not isinstance(saved, str | os.PathLike):
        raise ValueError(
            f"the return value of {name} must be a dict or a path, got a {type(saved).__qualname__}"
        )
    path = Path(os.path.normpath(saved))
    if not path.is_absolute() or not path.is_relative_to(target):
        raise ValueError(
            f"the return value of {name} must be a path in the directory {str(target)!r}, got "
            f"{os.fspath(saved)!r}"
        )
    for directory in (path, *path.parents):
        if directory == target:
            break
        if (directory / MANIFEST).exists():
            raise ValueError(
                f"the return value of {name} must not be in a checkpoint inside the directory "
                f"{str(target)!r}, got {os.fspath(saved)!r}; return the directory itself"
            )
    relative = path.relative_to(target).as_posix()
    return "" if relative == "." else relative


def delete(path: str | os.PathLike[str]) -> bool:
    """Remove the checkpoint that contains a path. Return False if the path lies in no checkpoint.

    The manifest is removed first, so that a partly removed checkpoint is invisible.

    Raises:
        StorageError: The manifest cannot be removed.
    """
    try:
        root = find_root(path)
    except FileNotFoundError:
        return False
    filesystem = current.get()
    try:
        filesystem.unlink(root / MANIFEST)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise storage_error(exc, f"the checkpoint {root} cannot be deleted") from exc
    filesystem.remove_tree(root)
    return True


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for directory, subdirectories, names in os.walk(root):
        for name in (*subdirectories, *names):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                yield path.relative_to(root).as_posix(), path
            else:
                raise UnsafePath(
                    f"{path} in a checkpoint must be a file or a directory, got a "
                    f"{'symbolic link' if stat.S_ISLNK(mode) else 'special file'}; save a copy"
                )


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _write_error(error: OSError, target: Path) -> StorageError:
    return storage_error(
        error, f"the checkpoint {target.name} in {target.parent.parent} cannot be written"
    )


def _is_below(path: str, directory: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(directory)


def _write(path: Path, data: bytes, filesystem: FileSystem, *, synced: bool = True) -> None:
    descriptor = filesystem.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(filesystem, descriptor, data)
        if synced:
            filesystem.datasync(descriptor)
    finally:
        filesystem.close(descriptor)
