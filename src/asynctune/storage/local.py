"""The storage in a directory, such as one on a network file system or a second disk."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from asynctune.errors import CheckpointCorrupt, StorageError, UnsafePath
from asynctune.storage.base import Entry, check_key, join_key
from asynctune.storage.filesystem import current, make_directories, storage_error, write_all

_TEMPORARY_PREFIX = ".tmp-"
_CHUNK_BYTES = 1 << 20


class LocalStorage:
    """A storage whose objects are files below a directory, durable when the storing call returns.

    Args:
        root: The directory, created with its first object.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))

    def __repr__(self) -> str:
        return f"LocalStorage({str(self._root)!r})"

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def below(self, prefix: str) -> Self:
        return type(self)(self._root / check_key(prefix, self.url))

    def limited(self) -> Self:
        return self  # File calls have no limit of time.

    def upload(self, key: str, source: Path) -> None:
        target = self._path(key)
        try:
            with source.open("rb") as file:
                temporary = self._write_temporary(
                    target, iter(lambda: file.read(_CHUNK_BYTES), b"")
                )
            self._publish(temporary, target)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{target} cannot be written") from exc

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        try:
            temporary = self._write_temporary(target, [data])
            try:
                os.link(temporary, target)  # Unlike a rename, a link never replaces a file.
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            current.get().sync_directory(target.parent)
        except OSError as exc:
            raise storage_error(exc, f"{target} cannot be created") from exc
        return True

    def read(self, key: str, limit: int) -> bytes:
        path = self._regular_path(key)
        try:
            with path.open("rb") as file:
                # Python allocates the size asked for, so it is bounded by the size of the file too.
                data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{path} cannot be read") from exc
        if len(data) > limit:
            raise StorageError(f"{path} has more than the limit of {limit} bytes")
        return data

    def download(self, key: str, target: Path, size: int) -> None:
        path = self._regular_path(key)
        try:
            found = path.stat().st_size
            if found != size:
                raise CheckpointCorrupt(f"{path} has {found} bytes instead of {size}")
            with path.open("rb") as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{path} cannot be copied to {target}") from exc

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        start = prefix.rstrip("/")
        if start:
            self._path(f"{start}/any")  # Raises for an unsafe prefix.
        for key in self._keys(start):
            if key > after:
                try:
                    yield Entry(key, (self._root / key).stat().st_size)
                except FileNotFoundError:  # The object was deleted after its directory was listed.
                    continue

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            try:
                path.unlink()
                self._remove_empty(path.parent)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise storage_error(exc, f"{path} cannot be deleted") from exc

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def close(self) -> None:
        pass

    def _path(self, key: str) -> Path:
        path = self._root / check_key(key, self.url)
        for parent in path.relative_to(self._root).parents:
            if (self._root / parent).is_symlink() and parent.parts:
                raise UnsafePath(
                    f"{self._root / parent} is a symbolic link; objects lie in real directories"
                )
        return path

    def _regular_path(self, key: str) -> Path:
        path = self._path(key)
        if path.is_symlink():
            raise UnsafePath(f"{path} is a symbolic link; objects are regular files")
        return path

    def _keys(self, directory: str) -> Iterator[str]:
        """Yield the keys below a directory in order, holding the names of one directory at each level."""
        try:
            with os.scandir(self._root / directory) as found:
                # A directory sorts with the slash that follows in its keys, so that keys come in order.
                names = sorted(
                    f"{e.name}/" if is_dir else e.name
                    for e in found
                    if (is_dir := e.is_dir(follow_symlinks=False))
                    or (
                        e.is_file(follow_symlinks=False)
                        and not e.name.startswith(_TEMPORARY_PREFIX)
                    )
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise storage_error(exc, f"{self._root / directory} cannot be listed") from exc
        for name in names:
            key = join_key(directory, name.rstrip("/"))
            if name.endswith("/"):
                yield from self._keys(key)
            else:
                yield key

    def _write_temporary(self, target: Path, chunks: Iterable[bytes]) -> Path:
        filesystem = current.get()
        temporary = target.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        while True:
            make_directories(filesystem, target.parent)
            try:
                descriptor = filesystem.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                break
            except FileNotFoundError:  # A concurrent delete removed the empty directory.
                continue
        try:
            for chunk in chunks:
                write_all(filesystem, descriptor, chunk)
            filesystem.datasync(descriptor)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            filesystem.close(descriptor)
        return temporary

    @staticmethod
    def _publish(temporary: Path, target: Path) -> None:
        try:
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        current.get().sync_directory(target.parent)

    def _remove_empty(self, directory: Path) -> None:
        """Remove a directory and its parents below the root as far as they are empty."""
        while directory != self._root:
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent
