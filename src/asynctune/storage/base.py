"""The interface of a storage: objects, which are bytes under keys, are stored whole or not at all.

All calls block: a worker makes them directly, the driver makes them in threads. The layout of checkpoints
in a storage is described in :mod:`asynctune.storage.checkpoints.commits`, the layout of journals in
:mod:`asynctune.experiment.remote.journal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

from asynctune._checks import check_seconds
from asynctune.errors import UnsafePath

_MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing.

    Args:
        key: The key of the object, relative to the storage. Untrusted: pass the key through
            :func:`check_key` before it becomes a path.
        size: The size of the object in bytes.
    """

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of time for the calls of a storage, in seconds.

    Args:
        connect_timeout_s: The limit for opening a connection.
        read_timeout_s: The limit until the next bytes of a response arrive; sending a part of an upload
            counts too.
        operation_timeout_s: The limit for one call with all its retries.

    Raises:
        ConfigError: A limit is not a finite number above 0.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    operation_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "read_timeout_s", "operation_timeout_s"):
            object.__setattr__(self, name, check_seconds("", name, getattr(self, name)))


@runtime_checkable
class Storage(Protocol):
    """A storage of objects. A new kind implements all of these methods and can be pickled.

    A new kind needs no base class. Several threads may call a storage and its parts at once. Every method
    retries within its limits of time. When the storage fails for good, the method raises a
    :class:`~asynctune.errors.StorageError`: ``StorageTimeout``, ``StorageDenied`` or ``StorageFull`` where
    one of them fits. ``upload``, ``create``, ``download`` and ``below`` refuse a key that is no plain
    relative path with an ``UnsafePath``, see :func:`check_key`.
    """

    @property
    def url(self) -> str:
        """The URL of the storage as shown to users, without credentials."""
        ...

    def below(self, prefix: str) -> Self:
        """Return the part of the storage whose keys begin with ``prefix/``."""
        ...

    def limited(self) -> Self:
        """Return the same storage with one limit of time, that of one operation, for all calls together."""
        ...

    def upload(self, key: str, source: Path) -> None:
        """Store a file. Readers see either the object that existed before or the whole new one."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Store bytes unless an object with this key exists.

        Returns:
            True if the object was created, False if it exists. Of several concurrent callers one gets True;
            if the response to that caller is lost, its retry may return False. To be sure who won, read the
            object.
        """
        ...

    def read(self, key: str, limit: int) -> bytes:
        """Return the bytes of a small object.

        Args:
            key: The key of the object.
            limit: The maximum size of the object in bytes.

        Raises:
            FileNotFoundError: The object does not exist.
            StorageError: The object is larger than the limit.
        """
        ...

    def download(self, key: str, target: Path, size: int) -> None:
        """Write an object into a new file.

        Args:
            key: The key of the object.
            target: The path of the file.
            size: The expected size in bytes; no more bytes than these are ever written.

        Raises:
            FileNotFoundError: The object does not exist.
            CheckpointCorrupt: The object has another size.
            StorageError: The file cannot be written; :func:`storage_error` makes one of an ``OSError``.
        """
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """Yield the objects whose keys begin with ``prefix``, in the order of their keys, page by page.

        Args:
            prefix: The beginning of the keys, ``""`` or with a slash at the end.
            after: The key behind which the listing starts; only greater keys are listed.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects. Missing objects are ignored."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether an object with this key exists."""
        ...

    def close(self) -> None:
        """Let running calls of the storage and its parts fail instead of retrying, and new calls at once.

        May be called from any thread.
        """
        ...


def check_key(key: str, location: str) -> str:
    """Return a key, or a name from a listing, if it is safe as a path below a directory.

    Args:
        key: The key.
        location: The storage or directory where the key was found, as named in the error.

    Raises:
        UnsafePath: The key is not a plain relative path, or is too long.
    """
    parts = key.split("/")
    unsafe = not key or "\0" in key or "\\" in key or not key.isprintable()
    if unsafe or any(part in ("", ".", "..") for part in parts) or _is_too_long(key):
        raise UnsafePath(
            f"{location} has an object called {key[:100]!r}, which is no plain relative path and was not "
            "written by asynctune. Remove the object"
        )
    return key


def _is_too_long(key: str) -> bool:
    try:
        return len(key.encode()) > _MAX_KEY_BYTES or any(
            len(part.encode()) > 255 for part in key.split("/")
        )
    except UnicodeEncodeError:
        return True


def join_key(prefix: str, key: str) -> str:
    """Return a key below a prefix."""
    return f"{prefix.rstrip('/')}/{key}" if prefix.rstrip("/") else key


def redact_url(url: str) -> str:
    """Return a URL for messages: a URL with a user, password or query is cut to scheme and host."""
    if "://" not in url or not ("@" in url or "?" in url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # The text of this error quotes a part of the URL.
        return f"{url.partition('://')[0]}://..."
    return f"{parts.scheme}://{parts.hostname or ''}/..."
