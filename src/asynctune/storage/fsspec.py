"""Any file system of fsspec as a place for objects, for one writer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from asynctune.errors import ConfigError, StorageDenied, StorageError
from asynctune.storage._download import write_pieces
from asynctune.storage._retries import Retries, Transient
from asynctune.storage.base import Entry, Timeouts, joined, plain_key
from asynctune.storage.filesystem import storage_error

T = TypeVar("T")


class FsspecStorage:
    """A path of an fsspec file system.

    fsspec has no call that creates a file only if there is none, so of two drivers, or two attempts of a
    trial, that write here at once neither would be told: results could be mixed, or lost. Whoever passes
    ``single_writer=True`` says that this cannot happen. Prefer a URL, which needs no such promise.

    Args:
        filesystem: The file system, e.g. ``s3fs.S3FileSystem()``. It has to travel by pickle. How long
            its calls may take is set there; what is set here bounds how often they are repeated.
        path: The path in it, e.g. ``"bucket/experiments"``.
        single_writer: Has to be True, see above.
        timeouts: Limits of time.

    Raises:
        ConfigError: ``single_writer`` is not True, or this is no file system.
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
            raise ConfigError(f"{filesystem!r} is no file system of fsspec")
        if single_writer is not True:
            raise ConfigError(
                "an fsspec file system cannot create a file only if there is none, so two writers would "
                "not notice each other; pass single_writer=True if there is never more than one at a "
                "time, or use a URL such as s3://bucket/path"
            )
        self._filesystem = filesystem
        self._path = path.rstrip("/")
        self._retries = Retries(timeouts or Timeouts())

    def __repr__(self) -> str:
        return f"FsspecStorage({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._filesystem, self._path, self._retries.timeouts)

    @property
    def url(self) -> str:
        protocol = self._filesystem.protocol
        name = protocol if isinstance(protocol, str) else protocol[0]
        return f"{name}://{self._path.lstrip('/')}"

    def below(self, prefix: str) -> Self:
        path = joined(self._path, plain_key(prefix, self.url))
        return self._copy(path, self._retries.part())

    def limited(self) -> Self:
        return self._copy(self._path, self._retries.limited())

    def upload(self, key: str, source: Path) -> None:
        try:
            source.open("rb").close()  # what is wrong with it is not the file system's fault
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{source} cannot be read") from exc
        self._call(key, "PUT", lambda path: self._put(path, source))

    def create(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        self._call(key, "PUT", lambda path: self._pipe(path, data))
        return True

    def read(self, key: str, limit: int) -> bytes:
        size = self._size(key)
        if size > limit:
            raise StorageError(f"{self._named(key)} has {size} bytes; at most {limit} are wanted")
        data: bytes = self._call(key, "GET", self._filesystem.cat_file)
        return data

    def download(self, key: str, target: Path, size: int) -> None:
        def read(start: int, length: int) -> bytes:
            get = partial(self._filesystem.cat_file, start=start, end=start + length)
            data: bytes = self._call(key, "GET", get)
            return data

        write_pieces(target, size, self._size(key), read, self._named(key))

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        def find(path: str) -> dict[str, Any]:
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
        def look(path: str) -> bool:
            self._filesystem.invalidate_cache()
            return bool(self._filesystem.exists(path))

        return self._call(key, "HEAD", look)

    def close(self) -> None:
        self._retries.close()

    def _copy(self, path: str, retries: Retries) -> Self:
        copied = type(self)(self._filesystem, path, single_writer=True)
        copied._retries = retries
        return copied

    def _put(self, path: str, source: Path) -> None:
        self._make_parents(path)
        self._filesystem.put_file(str(source), path)

    def _pipe(self, path: str, data: bytes) -> None:
        self._make_parents(path)
        self._filesystem.pipe_file(path, data)

    def _size(self, key: str) -> int:
        return self._call(key, "HEAD", lambda path: int(self._filesystem.info(path)["size"]))

    def _make_parents(self, path: str) -> None:
        self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _named(self, key: str) -> str:
        return joined(self.url, key)

    def _call(self, key: str, verb: str, function: Callable[[str], T]) -> T:
        path = joined(self._path, plain_key(key, self.url)) if key else self._path
        what = f"{verb} {self._named(key)}"

        def attempt(_: float) -> T:
            try:
                return function(path)
            except FileNotFoundError:
                raise
            except PermissionError as exc:
                raise StorageDenied(f"{what} was refused: {exc}") from exc
            except Exception as exc:
                raise Transient(f"{type(exc).__name__}: {exc}") from exc

        return self._retries.call(attempt, what)


def _again(
    cls: type[FsspecStorage], filesystem: Any, path: str, timeouts: Timeouts
) -> FsspecStorage:
    return cls(filesystem, path, single_writer=True, timeouts=timeouts)
