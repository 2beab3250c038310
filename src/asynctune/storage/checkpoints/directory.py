"""The format of a checkpoint directory: complete or invisible.

A checkpoint is written into a directory aside, each file is fsynced, ``.manifest.json`` (paths, sizes,
sha256, and the trainable's counters) is written last, and the whole is renamed to its place. So a
directory with a manifest is complete, and one without is nothing.

Nothing here unpickles. A dict checkpoint is unpickled by the trainable that restores it, after its
sha256 matched: restoring a checkpoint means trusting whoever wrote it.
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
from asynctune.storage.checkpoints.manifest import ASIDE, DICT_FILE, MANIFEST, Manifest
from asynctune.storage.filesystem import BROKEN, FileSystem, current, storage_error, write_whole

_CHUNK = 1 << 20
_PROBE = 1 << 16


def make_staging_dir(parent: str | os.PathLike[str], name: str) -> Path:
    """Create a directory called ``name`` in a temporary place below ``parent``.

    Raises:
        StorageError: The system refused.
    """
    files = current.get()
    target = Path(parent) / f"{ASIDE}{secrets.token_hex(6)}" / name
    try:
        target.parent.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        files.make_directory(target.parent)
        files.make_directory(target)
    except OSError as exc:
        raise storage_error(exc, f"{target} cannot be created") from exc
    return target


def remove_staging_dir(target: Path) -> None:
    """Remove the temporary place that :func:`make_staging_dir` made, with all that is in it."""
    current.get().remove_tree(target.parent)


def write_saved(saved: Any, target: Path, name: str) -> tuple[str, bool]:
    """Write what a hook returned, if it is a dict; return the path in ``target``, and whether it is one.

    Args:
        saved: What the hook returned.
        target: The directory that it was given.
        name: How an error calls the hook.

    Raises:
        StorageError: The system refused.
        ValueError: It is neither a dict nor a path inside the directory.
    """
    if not isinstance(saved, Mapping):
        return relative_path(saved, target, name), False
    data = cloudpickle.dumps(dict(saved))
    try:
        _write(target / DICT_FILE, data, current.get(), synced=False)
    except OSError as exc:
        raise _not_written(exc, target) from exc
    return DICT_FILE, True


def raise_if_storage_failed(error: Exception, target: Path) -> None:
    """Tell a full or broken disk from a mistake in a hook that was saving.

    An error of the system that names no file, as those of writes do, counts as one of this directory.
    Libraries raise errors of their own instead, so whatever was raised, it is tried whether anything
    can be written.

    Args:
        error: What was raised.
        target: The directory that it was saved to, inside of what :func:`make_staging_dir` made.

    Raises:
        StorageError: It was the disk.
    """
    if isinstance(error, StorageError):
        return
    if isinstance(error, OSError) and error.errno in BROKEN:
        named = error.filename
        if not isinstance(named, str | bytes) or _is_below(os.fsdecode(named), target):
            raise _not_written(error, target) from error
    try:
        _write(target.parent / "probe", bytes(_PROBE), current.get())
    except OSError as exc:
        if exc.errno in BROKEN:
            raise _not_written(exc, target) from error


def commit(source: Path, manifest_path: str, *, saved_as_dict: bool, state: Mapping[str, Any],
           parent: str | os.PathLike[str]) -> Path:  # fmt: skip
    """Make the files below ``source`` durable and visible as ``parent/<name of source>``.

    A name that is taken gets a suffix: ``checkpoint_3.1`` for the second save of iteration 3.

    Returns:
        The directory where the checkpoint now is.

    Raises:
        StorageError: The system refused; nothing became visible.
        ValueError: A file that was saved is gone, or cannot be read.
    """
    try:
        files = _synced_files(source, current.get())
        manifest = Manifest(manifest_path, saved_as_dict, state, *files)
        return _publish(source, manifest, parent, current.get())
    except OSError as exc:
        raise _not_written(exc, source) from exc


def _synced_files(
    source: Path, files: FileSystem
) -> tuple[dict[str, tuple[int, str]], tuple[str, ...]]:
    """Make all files durable; return what the manifest says of them, and the directories."""
    entries = {}
    directories = []
    try:
        for relative, path in sorted(_walk(source)):
            if relative == MANIFEST:
                raise ValueError(
                    f"{MANIFEST} is the name of the checkpoint's own file; choose another"
                )
            if path.is_dir():
                directories.append(relative)
            else:
                files.sync_file(path)
                entries[relative] = _digest(path)
    except (FileNotFoundError, PermissionError) as exc:  # no disk's fault, but that of who saved it
        raise ValueError(f"a file was saved that is gone or cannot be read: {exc}") from exc
    return entries, tuple(directories)


def _publish(
    source: Path, manifest: Manifest, parent: str | os.PathLike[str], files: FileSystem
) -> Path:
    """Write the manifest, and give the directory its name."""
    _write(source / MANIFEST, manifest.to_json(), files)
    for directory, _, _ in os.walk(source):
        files.sync_directory(directory)
    attempt = 0
    while True:
        final = Path(parent) / (source.name if not attempt else f"{source.name}.{attempt}")
        # A rename onto an empty directory would succeed, so existence is asked first; names in a
        # trial's directory have one writer.
        if not final.exists():
            break
        attempt += 1
    files.rename(source, final)
    files.sync_directory(parent)
    # The parent may be new itself, as a trial's directory is at its first checkpoint.
    with contextlib.suppress(PermissionError):  # it may be nobody's business of ours
        files.sync_directory(Path(parent).parent)
    return final


def install(aside: Path, text: bytes, final: Path) -> None:
    """Give a checkpoint that was brought here its place, complete or not at all.

    Args:
        aside: Its files, in a directory of its name that :func:`make_staging_dir` made.
        text: Its manifest, as it was written.
        final: Where it goes; what is there and is no good is removed.

    Raises:
        CheckpointCorrupt: The files are not those of the manifest.
        StorageError: The system refused.
    """
    files = current.get()
    try:
        manifest = Manifest.from_json(text, final / MANIFEST)
        for directory in manifest.directories:
            (aside / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in manifest.files:
            files.sync_file(aside / name)
        _write(aside / MANIFEST, text, files)
        for directory, _, _ in os.walk(aside):
            files.sync_directory(directory)
        verify(aside)
        # One that is whole was brought by somebody else meanwhile, and may be read by now.
        while not _is_whole(final, text):
            files.remove_tree(final)
            try:
                files.rename(aside, final)
                break
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        files.sync_directory(final.parent)
    except OSError as exc:
        raise _not_written(exc, aside) from exc


def _is_whole(root: Path, text: bytes) -> bool:
    """Tell whether a checkpoint with this very manifest is there."""
    try:
        if (root / MANIFEST).read_bytes() != text:
            return False
        verify(root)
    except (OSError, CheckpointCorrupt):
        return False
    return True


def find_root(path: str | os.PathLike[str]) -> Path:
    """Find the checkpoint directory that a path (a file, a directory or a bare prefix) lies in.

    Raises:
        FileNotFoundError: Neither the path nor a directory above it is a checkpoint.
    """
    start = Path(os.path.abspath(path))
    for candidate in (start, *start.parents):
        if (candidate / MANIFEST).is_file():
            return candidate
    raise FileNotFoundError(
        f"no checkpoint at {os.fspath(path)}: neither it nor a directory above it has a {MANIFEST}"
    )


def read_manifest(root: Path) -> Manifest:
    """Read the manifest of a checkpoint directory, without looking at the files."""
    return Manifest.from_json((root / MANIFEST).read_bytes(), root / MANIFEST)


def verify(root: Path) -> Manifest:
    """Read the manifest and compare every file with it.

    Raises:
        CheckpointCorrupt: A file is missing, has another size, or another sha256.
    """
    manifest = read_manifest(root)
    for relative in manifest.directories:
        path = root / relative
        if not (path.is_dir() and stat.S_ISDIR(path.lstat().st_mode)):
            raise CheckpointCorrupt(f"{path} is a directory in the manifest, but not on disk")
    for relative, (size, digest) in manifest.files.items():
        path = root / relative
        try:
            found = path.lstat()
        except OSError as exc:
            raise CheckpointCorrupt(f"{path} is in the manifest but cannot be read: {exc}") from exc
        if not stat.S_ISREG(found.st_mode):
            raise UnsafePath(f"{path} is not a regular file; a checkpoint holds only those")
        if found.st_size != size:
            raise CheckpointCorrupt(f"{path} has {found.st_size} bytes, its manifest says {size}")
        if _digest(path)[1] != digest:
            raise CheckpointCorrupt(f"{path} does not have the sha256 that its manifest says")
    return manifest


def locate(path: str | os.PathLike[str]) -> tuple[Manifest, str]:
    """Find and verify the checkpoint at a path, and return what in it is to be restored.

    Args:
        path: The checkpoint's directory, or what ``save`` returned, perhaps under another prefix.
    """
    root = find_root(path)
    manifest = verify(root)
    relative = Path(os.path.abspath(path)).relative_to(root).as_posix()
    return manifest, as_path(root, manifest.path if relative == "." else relative)


def as_path(root: Path, relative: str) -> str:
    """Return a path below a checkpoint directory, with a separator behind a directory."""
    path = os.path.join(root, relative)
    return os.path.join(path, "") if os.path.isdir(path) else path


def relative_path(saved: Any, target: Path, name: str) -> str:
    """Return a path that a hook returned, relative to the directory that it was given.

    Args:
        saved: What the hook returned.
        target: The directory.
        name: How an error calls the hook.

    Raises:
        ValueError: It is no path, or one outside the directory.
    """
    if not isinstance(saved, str | os.PathLike):
        raise ValueError(
            f"{name} returned a {type(saved).__qualname__}; a dict or a path is wanted"
        )
    path = Path(os.path.normpath(saved))
    if not path.is_absolute() or not path.is_relative_to(target):
        raise ValueError(
            f"{name} returned {os.fspath(saved)!r}, which is not inside the directory it was given, "
            f"{str(target)!r}"
        )
    for directory in (path, *path.parents):
        if directory == target:
            break
        if (directory / MANIFEST).exists():
            raise ValueError(
                f"{name} returned {os.fspath(saved)!r}, which lies in another checkpoint inside the "
                f"directory it was given; return that directory, {str(target)!r}"
            )
    relative = path.relative_to(target).as_posix()
    return "" if relative == "." else relative


def delete(path: str | os.PathLike[str]) -> bool:
    """Remove the checkpoint that a path lies in; False if there is none.

    The manifest goes first, so that a half removed checkpoint is invisible.
    """
    try:
        root = find_root(path)
    except FileNotFoundError:
        return False
    files = current.get()
    try:
        files.unlink(root / MANIFEST)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise storage_error(exc, f"the checkpoint {root} cannot be deleted") from exc
    files.remove_tree(root)
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
                    f"{path} in a checkpoint is neither a file nor a directory "
                    f"({'a symbolic link' if stat.S_ISLNK(mode) else 'a special file'}); save a copy"
                )


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _not_written(error: OSError, target: Path) -> StorageError:
    return storage_error(
        error, f"the checkpoint {target.name} in {target.parent.parent} cannot be written"
    )


def _is_below(path: str, directory: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(directory)


def _write(path: Path, data: bytes, files: FileSystem, *, synced: bool = True) -> None:
    descriptor = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_whole(files, descriptor, data)
        if synced:
            files.datasync(descriptor)
    finally:
        files.close(descriptor)
