"""What a place for objects has to do: hold bytes under keys, whole or not at all.

Everything here blocks: a worker calls it directly, the driver in threads. How checkpoints and journals are
laid out in such a place is said in :mod:`asynctune.storage.checkpoints.commits`
and :mod:`asynctune.experiment.remote.journal`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

from asynctune.errors import ConfigError, UnsafePath

_LONGEST_KEY = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing.

    Args:
        key: Its key, relative to the storage; it is a name that somebody gave, and no path.
        size: How many bytes it has.
    """

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long storage may take, in seconds.

    Args:
        connect_timeout_s: Until a connection stands.
        read_timeout_s: Until the next bytes of an answer are there, the sending of a part included.
        operation_timeout_s: One call with all its retries.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    operation_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "read_timeout_s", "operation_timeout_s"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 < value < math.inf):
                raise ConfigError(f"{name} is {value!r}; a number of seconds above 0 is wanted")


@runtime_checkable
class Storage(Protocol):
    """A place for objects. A new kind of place implements all of this; it has to travel by pickle.

    Every method raises a :class:`~asynctune.errors.StorageError` when the place fails for good, after it
    has tried as often as its limits allow: ``StorageTimeout``, ``StorageDenied``, ``StorageFull``.
    """

    @property
    def url(self) -> str:
        """How it is shown to people; without credentials."""
        ...

    def below(self, prefix: str) -> Self:
        """Return the part of it whose keys begin with ``prefix/``."""
        ...

    def limited(self) -> Self:
        """Return the same place, where all calls together may take as long as one operation."""
        ...

    def upload(self, key: str, source: Path) -> None:
        """Store a file. Readers see the object that was there before, or all of the new one."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Store bytes unless there is an object with this key; False if there is.

        Of several who do this at once one is told True. When an answer is lost, the one who had won may be
        told False: whoever cares reads what is there.
        """
        ...

    def read(self, key: str, limit: int) -> bytes:
        """Return the bytes of a small object.

        Args:
            key: Its key.
            limit: How many bytes it may have.

        Raises:
            FileNotFoundError: There is none.
            StorageError: It is larger.
        """
        ...

    def download(self, key: str, target: Path, size: int) -> None:
        """Write an object into a new file.

        Args:
            key: Its key.
            target: The file.
            size: How many bytes it has to have; never are more written.

        Raises:
            FileNotFoundError: There is none.
            CheckpointCorrupt: It has another size.
        """
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """Yield the objects whose keys begin with ``prefix``, in the order of their keys, page by page.

        Args:
            prefix: ``""``, or ends with a slash.
            after: Only those whose keys are greater.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects. A missing one is no error."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether there is an object with this key."""
        ...

    def close(self) -> None:
        """Let calls here and in parts of this fail, in whatever thread, instead of trying again."""
        ...


def plain_key(key: str, where: str) -> str:
    """Return a key, or a name from a listing, that may become a path below a directory.

    Args:
        key: The key.
        where: Where it was found.

    Raises:
        UnsafePath: It may not.
    """
    parts = key.split("/")
    unsafe = not key or "\0" in key or "\\" in key or not key.isprintable()
    if unsafe or any(part in ("", ".", "..") for part in parts) or _is_long(key):
        raise UnsafePath(
            f"{where} has an object called {key[:100]!r}, which is no plain path; whoever wrote it "
            "there is no asynctune. Remove it"
        )
    return key


def _is_long(key: str) -> bool:
    try:
        return len(key.encode()) > _LONGEST_KEY or any(
            len(part.encode()) > 255 for part in key.split("/")
        )
    except UnicodeEncodeError:
        return True


def joined(prefix: str, key: str) -> str:
    """Put a key behind a prefix."""
    return f"{prefix.rstrip('/')}/{key}" if prefix.rstrip("/") else key


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown: a user, a password or a query in it is left out."""
    if "://" not in url or not ("@" in url or "?" in url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # whose text has a part of the URL
        return f"{url.partition('://')[0]}://..."
    return f"{parts.scheme}://{parts.hostname or ''}/..."
