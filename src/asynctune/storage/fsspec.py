"""The storage over any file system of fsspec, for one writer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from asynctune.errors import ConfigError, StorageDenied, StorageError
from asynctune.storage._download import download_in_chunks
from asynctune.storage._retries import Retries, Transient
from asynctune.storage.base import Entry, Timeouts, check_key, join_key
from asynctune.storage.filesystem import storage_error

T = TypeVar("T")


class FsspecStorage:
    """A storage below a path of an fsspec file system.

    fsspec has no call that creates a file only if the file does not exist. If two drivers, or two attempts
    of a trial, wrote at the same time, neither would notice the other, and results could be mixed or lost.
    With ``single_writer=True`` the caller guarantees that this does not happen. Prefer a URL, which
    needs no such guarantee.

    Args:
        filesystem: The file system, e.g. ``s3fs.S3FileSystem()``, which must be picklable. The duration
            of its calls is limited by its own settings.
        path: The path in the file system, e.g. ``"bucket/experiments"``.
        single_writer: The guarantee described above; must be True.
        timeouts: The limits of time, which bound how long failed calls are repeated.

    Raises:
        ConfigError: ``single_writer`` is not True, or ``filesystem`` is no fsspec file system.
    """

    def __init__(
        self,
        filesystem: Any,
        path: str,
        *,
        single_writer: bool = False,
        timeouts: Timeouts | None = None,
    ) -> None:
        if not all(hasattr(filesystem, name) for name in ("put_file", "cat_file", "find", "info")):
            raise ConfigError(
                f"filesystem of FsspecStorage must be a file system of fsspec, got {filesystem!r}"
            )
        if single_writer is not True:
            raise ConfigError(
                f"single_writer of FsspecStorage must be True, got {single_writer!r}. fsspec cannot create "
                "a file only if the file does not exist, so two writers would not notice each other. Pass "
                "single_writer=True if never more than one driver writes at a time, or use a URL such as "
                "s3://bucket/path"
            )
        self._filesystem = filesystem
        self._path = path.rstrip("/")
        self._retries = Retries(timeouts or Timeouts())

    def __repr__(self) -> str:
        return f"FsspecStorage({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self._filesystem, self._path, self._retries.timeouts)

    @property
    def url(self) -> str:
        protocol = self._filesystem.protocol
        name = protocol if isinstance(protocol, str) else protocol[0]
        return f"{name}://{self._path.lstrip('/')}"

    def below(self, prefix: str) -> Self:
        path = join_key(self._path, check_key(prefix, self.url))
        return self._copy(path, self._retries.child())

    def limited(self) -> Self:
        return self._copy(self._path, self._retries.limited())

    def upload(self, key: str, source: Path) -> None:
        try:
            # An unreadable source is reported as such, and not retried as a failure of the file system.
            source.open("rb").close()
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{source} cannot be read") from exc
        self._call(key, "PUT", lambda path: self._put_file(path, source))

    def create(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        self._call(key, "PUT", lambda path: self._put_bytes(path, data))
        return True

    def read(self, key: str, limit: int) -> bytes:
        size = self._size(key)
        if size > limit:
            raise StorageError(
                f"{self._key_url(key)} has {size} bytes, more than the limit of {limit}"
            )
        data: bytes = self._call(key, "GET", self._filesystem.cat_file)
        return data

    def download(self, key: str, target: Path, size: int) -> None:
        def read(start: int, length: int) -> bytes:
            get = partial(self._filesystem.cat_file, start=start, end=start + length)
            data: bytes = self._call(key, "GET", get)
            return data

        download_in_chunks(target, size, self._size(key), read, self._key_url(key))

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        def find(path: str) -> dict[str, Any]:
            # fsspec caches listings, which another process may have changed since.
            self._filesystem.invalidate_cache()
            try:
                found: dict[str, Any] = self._filesystem.find(path, detail=True)
            except FileNotFoundError:
                return {}
            return found

        root = self._filesystem._strip_protocol(self._path).rstrip("/") + "/"
        found = self._call(prefix.rstrip("/"), "LIST", find)
        for path, info in sorted(found.items()):
            key = path.removeprefix(root)
            if key > after and key.startswith(prefix):
                yield Entry(key, int(info.get("size") or 0))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                self._call(key, "DELETE", self._filesystem.rm_file)
            except FileNotFoundError:
                continue

    def exists(self, key: str) -> bool:
        def check(path: str) -> bool:
            self._filesystem.invalidate_cache()
            return bool(self._filesystem.exists(path))

        return self._call(key, "HEAD", check)

    def close(self) -> None:
        self._retries.close()

    def _copy(self, path: str, retries: Retries) -> Self:
        copied = type(self)(self._filesystem, path, single_writer=True)
        copied._retries = retries
        return copied

    def _put_file(self, path: str, source: Path) -> None:
        self._make_parents(path)
        self._filesystem.put_file(str(source), path)

    def _put_bytes(self, path: str, data: bytes) -> None:
        self._make_parents(path)
        self._filesystem.pipe_file(path, data)

    def _size(self, key: str) -> int:
        return self._call(key, "HEAD", lambda path: int(self._filesystem.info(path)["size"]))

    def _make_parents(self, path: str) -> None:
        self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _key_url(self, key: str) -> str:
        return join_key(self.url, key)

    def _call(self, key: str, verb: str, function: Callable[[str], T]) -> T:
        path = join_key(self._path, check_key(key, self.url)) if key else self._path
        operation = f"{verb} {self._key_url(key)}"

        def attempt(_: float) -> T:
            try:
                return function(path)
            except FileNotFoundError:
                raise
            except PermissionError as exc:
                raise StorageDenied(f"{operation} was refused: {exc}") from exc
            except Exception as exc:
                raise Transient(f"{type(exc).__name__}: {exc}") from exc

        return self._retries.call(attempt, operation)


def _unpickle(
    cls: type[FsspecStorage], filesystem: Any, path: str, timeouts: Timeouts
) -> FsspecStorage:
    return cls(filesystem, path, single_writer=True, timeouts=timeouts)
