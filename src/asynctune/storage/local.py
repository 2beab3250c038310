"""A directory as a place for objects: a network file system, a second disk, or nothing but a test."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from asynctune.errors import CheckpointCorrupt, StorageError, UnsafePath
from asynctune.storage.base import Entry, joined, plain_key
from asynctune.storage.filesystem import current, make_directories, storage_error, write_whole

_ASIDE = ".tmp-"
_CHUNK = 1 << 20


class LocalStorage:
    """Objects as files below a directory. What has been stored is durable when the call returns.

    Args:
        root: The directory; it is created when the first object comes.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(root))

    def __repr__(self) -> str:
        return f"LocalStorage({str(self._root)!r})"

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def below(self, prefix: str) -> Self:
        return type(self)(self._root / plain_key(prefix, self.url))

    def limited(self) -> Self:
        return self  # the system sets no limit to a disk's time

    def upload(self, key: str, source: Path) -> None:
        target = self._path(key)
        try:
            with source.open("rb") as file:
                aside = self._write_aside(target, iter(lambda: file.read(_CHUNK), b""))
            self._publish(aside, target)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{target} cannot be written") from exc

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        try:
            aside = self._write_aside(target, [data])
            try:
                os.link(aside, target)  # which, unlike a rename, never replaces anything
            except FileExistsError:
                return False
            finally:
                aside.unlink()
            current.get().sync_directory(target.parent)
        except OSError as exc:
            raise storage_error(exc, f"{target} cannot be created") from exc
        return True

    def read(self, key: str, limit: int) -> bytes:
        path = self._regular(key)
        try:
            with path.open("rb") as file:
                data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{path} cannot be read") from exc
        if len(data) > limit:
            raise StorageError(f"{path} has more than {limit} bytes, which it should not")
        return data

    def download(self, key: str, target: Path, size: int) -> None:
        path = self._regular(key)
        try:
            found = path.stat().st_size
            if found != size:
                raise CheckpointCorrupt(f"{path} has {found} bytes; {size} are wanted")
            with path.open("rb") as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{path} cannot be copied to {target}") from exc

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        start = prefix.rstrip("/")
        if start:
            self._path(f"{start}/any")  # which refuses what it should
        for key in self._keys(start):
            if key > after:
                try:
                    yield Entry(key, (self._root / key).stat().st_size)
                except FileNotFoundError:  # removed meanwhile
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
        path = self._root / plain_key(key, self.url)
        for parent in path.relative_to(self._root).parents:
            if (self._root / parent).is_symlink() and parent.parts:
                raise UnsafePath(f"{self._root / parent} is a symbolic link, which leads elsewhere")
        return path

    def _regular(self, key: str) -> Path:
        path = self._path(key)
        if path.is_symlink():
            raise UnsafePath(f"{path} is a symbolic link; objects are regular files")
        return path

    def _keys(self, directory: str) -> Iterator[str]:
        """Yield the keys below a directory in order, while the names of one directory are held."""
        try:
            with os.scandir(self._root / directory) as found:
                # With the slash that it has in a key, so that keys come in order.
                names = sorted(
                    f"{e.name}/" if is_dir else e.name
                    for e in found
                    if (is_dir := e.is_dir(follow_symlinks=False))
                    or (e.is_file(follow_symlinks=False) and not e.name.startswith(_ASIDE))
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise storage_error(exc, f"{self._root / directory} cannot be listed") from exc
        for name in names:
            key = joined(directory, name.rstrip("/"))
            if name.endswith("/"):
                yield from self._keys(key)
            else:
                yield key

    def _write_aside(self, target: Path, chunks: Iterable[bytes]) -> Path:
        files = current.get()
        aside = target.with_name(f"{_ASIDE}{secrets.token_hex(8)}")
        while True:
            make_directories(files, target.parent)
            try:
                descriptor = files.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                break
            except FileNotFoundError:  # somebody deleted the last object there just now
                continue
        try:
            for chunk in chunks:
                write_whole(files, descriptor, chunk)
            files.datasync(descriptor)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        finally:
            files.close(descriptor)
        return aside

    @staticmethod
    def _publish(aside: Path, target: Path) -> None:
        try:
            os.replace(aside, target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        current.get().sync_directory(target.parent)

    def _remove_empty(self, directory: Path) -> None:
        """Remove directories that hold nothing any more: objects have none."""
        while directory != self._root:
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent
