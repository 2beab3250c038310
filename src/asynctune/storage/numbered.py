"""Objects named by consecutive numbers, each of which can be created only once."""

from __future__ import annotations

import re
from array import array

from asynctune.errors import UnsafePath
from asynctune.storage.base import Storage, check_key

_NUMBER = re.compile(r"[0-9]{8}\Z")


class NumberedObjects:
    """The numbered objects below one prefix.

    Args:
        storage: The storage of the objects.
        folder: The prefix, without a slash at the end.
        description: The kind of the objects in the plural, for error messages.
    """

    def __init__(self, storage: Storage, folder: str, description: str) -> None:
        self._storage = storage
        self._prefix = f"{folder}/"
        self._description = description

    def numbers(self) -> array[int]:
        """Return the numbers that exist, in ascending order.

        Raises:
            UnsafePath: An object below the prefix is not named by a number.
        """
        # The bucket is not trusted: 8 bytes a number keep a listing of very many objects small.
        found = array("q")
        for entry in self._storage.list(self._prefix):
            name = check_key(entry.key, self._storage.url).removeprefix(self._prefix)
            if not _NUMBER.match(name):
                raise UnsafePath(
                    f"{self._storage.url} has {entry.key[:100]!r} among {self._description}, whose names "
                    "must have 8 digits. Remove the object"
                )
            found.append(int(name))
        return found

    def key(self, number: int) -> str:
        """Return the key of an object."""
        return f"{self._prefix}{number:08d}"

    def url(self, number: int) -> str:
        """Return the URL of an object as shown to users."""
        return f"{self._storage.url}/{self.key(number)}"

    def create(self, number: int, data: bytes) -> bool:
        """Create an object. Return False if the number exists."""
        return self._storage.create(self.key(number), data)

    def read(self, number: int, limit: int) -> bytes:
        """Return the content of an object of at most ``limit`` bytes.

        Raises:
            FileNotFoundError: The object does not exist.
            StorageError: The object is larger than the limit.
        """
        return self._storage.read(self.key(number), limit)
