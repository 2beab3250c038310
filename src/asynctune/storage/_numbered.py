"""Objects that are called by numbers, each of which can be taken once."""

from __future__ import annotations

import re
from array import array

from asynctune.errors import UnsafePath
from asynctune.storage.base import Storage, plain_key

_NUMBER = re.compile(r"[0-9]{8}\Z")


class NumberedObjects:
    """The numbered objects of one folder.

    Args:
        storage: Where the folder is.
        folder: Its name.
        what: What the objects are, for errors.
    """

    def __init__(self, storage: Storage, folder: str, what: str) -> None:
        self._storage = storage
        self._prefix = f"{folder}/"
        self._what = what

    def all(self) -> array[int]:
        """Return the numbers that are taken, in order; 8 bytes each, however many somebody put there.

        Raises:
            UnsafePath: Something there is called otherwise.
        """
        found = array("q")
        for entry in self._storage.list(self._prefix):
            name = plain_key(entry.key, self._storage.url).removeprefix(self._prefix)
            if not _NUMBER.match(name):
                raise UnsafePath(
                    f"{self._storage.url} has {entry.key[:100]!r} among {self._what}; they are called by "
                    "8 digits. Remove it"
                )
            found.append(int(name))
        return found

    def key(self, number: int) -> str:
        """Return the key of a number."""
        return f"{self._prefix}{number:08d}"

    def named(self, number: int) -> str:
        """Return what people are shown of a number."""
        return f"{self._storage.url}/{self.key(number)}"

    def create(self, number: int, data: bytes) -> bool:
        """Take a number; False if it is taken."""
        return self._storage.create(self.key(number), data)

    def read(self, number: int, limit: int) -> bytes:
        """Read an object of at most so many bytes.

        Raises:
            FileNotFoundError: There is none.
        """
        return self._storage.read(self.key(number), limit)
