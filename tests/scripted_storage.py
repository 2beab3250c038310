"""A storage in memory with scripted faults: deaths, lost answers, wrong listings and damaged objects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from asynctune.errors import CheckpointCorrupt, StorageError
from asynctune.storage.base import Entry, check_key, join_key


class Died(BaseException):
    """The process that used the storage was killed."""


class Script:
    """The content of a bucket, and its behaviour towards all storages that share the bucket.

    Attributes:
        objects: Key -> bytes.
        calls: The calls so far, such as ``"create commits/00000001"``.
        before: Called with each call before its effect; may raise.
        after: Called with each changing call after its effect; may raise, so that the answer is lost.
        serve: Maps key and bytes to the bytes that a reader gets.
        listed: Additional entries of listings, or None.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda call: None
        self.after: Callable[[str], None] = lambda call: None
        self.serve: Callable[[str, bytes], bytes] = lambda key, data: data
        self.listed: Callable[[], Iterable[Entry]] | None = None
        self.lock = threading.Lock()

    def behave(self) -> None:
        """Set the behaviour from now on."""
        self.before = self.after = lambda call: None
        self.serve = lambda key, data: data
        self.listed = None

    def die_at(self, number: int, *, effect: bool = False) -> None:
        """Let the process die in a call: this call and all later ones raise.

        Args:
            number: The number of the call from now on, from 1.
            effect: Whether the call has its effect first.
        """
        first = len(self.calls) + number

        def before(call: str) -> None:
            if len(self.calls) > first or (len(self.calls) == first and not effect):
                raise Died

        def after(call: str) -> None:
            if len(self.calls) >= first:
                raise Died

        self.before, self.after = before, after

    def fail(self, *calls: str, times: int = 1, effect: bool = False) -> None:
        """Let the next calls fail that begin with one of these texts.

        Args:
            *calls: The texts, such as ``"create"`` or ``"upload checkpoint_1/"``.
            times: The number of failing calls.
            effect: Whether the calls have their effects first.
        """
        left = times

        def break_down(call: str) -> None:
            nonlocal left
            if left and call.startswith(calls):
                left -= 1
                raise StorageError(f"{call} failed")

        if effect:
            self.after = break_down
        else:
            self.before = break_down


class ScriptedStorage:
    """A prefix in a scripted bucket."""

    def __init__(self, script: Script | None = None, prefix: str = "") -> None:
        self.script = script or Script()
        self._prefix = prefix

    @property
    def url(self) -> str:
        return f"memory://{join_key('bucket', self._prefix)}".rstrip("/")

    def below(self, prefix: str) -> Self:
        return type(self)(self.script, join_key(self._prefix, check_key(prefix, self.url)))

    def limited(self) -> Self:
        return self

    def upload(self, key: str, source: Path) -> None:
        data = source.read_bytes()
        self._record("upload", key)
        self.script.objects[self._key(key)] = data
        self.script.after(f"upload {key}")

    def create(self, key: str, data: bytes) -> bool:
        self._record("create", key)
        with self.script.lock:
            if self._key(key) in self.script.objects:
                return False
            self.script.objects[self._key(key)] = data
        self.script.after(f"create {key}")
        return True

    def read(self, key: str, limit: int) -> bytes:
        data = self._served("read", key)
        if len(data) > limit:
            raise StorageError(f"{key} has {len(data)} bytes, more than the limit of {limit}")
        return data

    def download(self, key: str, target: Path, size: int) -> None:
        data = self._served("download", key)
        if len(data) != size:
            raise CheckpointCorrupt(f"{key} has {len(data)} bytes instead of {size}")
        with target.open("xb") as file:
            file.write(data)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        self._record("list", prefix)
        if self.script.listed is not None:
            yield from self.script.listed()
        root = join_key(self._prefix, "") if self._prefix else ""
        for path in sorted(self.script.objects):
            key = path.removeprefix(root)
            if path.startswith(root) and key.startswith(prefix) and key > after:
                yield Entry(key, len(self.script.objects[path]))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._record("delete", key)
            self.script.objects.pop(self._key(key), None)
            self.script.after(f"delete {key}")

    def exists(self, key: str) -> bool:
        self._record("exists", key)
        return self._key(key) in self.script.objects

    def close(self) -> None:
        pass

    def _key(self, key: str) -> str:
        return join_key(self._prefix, check_key(key, self.url))

    def _record(self, verb: str, key: str) -> None:
        call = f"{verb} {key}"
        with self.script.lock:
            self.script.calls.append(call)
            self.script.before(call)

    def _served(self, verb: str, key: str) -> bytes:
        self._record(verb, key)
        path = self._key(key)
        if path not in self.script.objects:
            raise FileNotFoundError(key)
        return self.script.serve(key, self.script.objects[path])
