"""The contract of storages, as a test class to subclass. Needs pytest.

::

    class TestMyStorage(StorageContract):
        def make_storage(self, directory):
            return MyStorage(directory)
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from asynctune.errors import CheckpointCorrupt, StorageError, UnsafePath
from asynctune.storage import Storage

MIB = 1 << 20


def put(storage: Storage, key: str, data: bytes, directory: Path) -> None:
    """Upload bytes through a file in a directory."""
    source = directory / "source"
    source.write_bytes(data)
    storage.upload(key, source)


def keys(storage: Storage, prefix: str = "", after: str = "") -> list[str]:
    """Return the keys of a listing."""
    return [entry.key for entry in storage.list(prefix, after)]


class StorageContract:
    """The promises of :class:`asynctune.storage.Storage`. Override :meth:`make_storage`.

    Attributes:
        creates_once: Whether ``create`` never replaces an object.
        creates_atomically: Whether exactly one of several concurrent callers of ``create`` succeeds.
        quotes_urls: Whether ``url`` percent-encodes the characters that are special in URLs.
        many: The number of objects in the test of long listings, more than fit one page.
    """

    creates_once: ClassVar[bool] = True
    creates_atomically: ClassVar[bool] = True
    quotes_urls: ClassVar[bool] = False
    many: ClassVar[int] = 1500

    def make_storage(self, directory: Path) -> Storage:
        """Return an empty storage.

        Args:
            directory: A path that does not exist yet, for a storage that needs a directory or a file.
        """
        raise NotImplementedError(f"{type(self).__name__} must override make_storage(directory)")

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        """An empty storage."""
        return self.make_storage(tmp_path / "storage")

    def test_it_is_a_storage(self, storage: Storage) -> None:
        assert isinstance(storage, Storage)
        assert "://" in storage.url

    @pytest.mark.parametrize("size", [0, 1, 9 * MIB])
    def test_an_uploaded_object_is_read_listed_and_downloaded(
        self, storage: Storage, tmp_path: Path, size: int
    ) -> None:
        data = os.urandom(size)
        put(storage, "a/b", data, tmp_path)
        assert storage.read("a/b", limit=size) == data
        storage.download("a/b", tmp_path / "target", size)
        assert (tmp_path / "target").read_bytes() == data
        assert [(entry.key, entry.size) for entry in storage.list("a/")] == [("a/b", size)]

    def test_an_upload_replaces_an_object(self, storage: Storage, tmp_path: Path) -> None:
        put(storage, "a", b"old and long", tmp_path)
        put(storage, "a", b"new", tmp_path)
        assert storage.read("a", limit=100) == b"new"

    def test_an_object_is_created_once(self, storage: Storage) -> None:
        assert storage.create("m", b"first")
        if not self.creates_once:
            pytest.skip("this storage cannot tell whether an object exists")
        assert not storage.create("m", b"second")
        assert storage.read("m", limit=10) == b"first"

    def test_of_many_callers_who_create_one_object_one_wins(self, storage: Storage) -> None:
        if not self.creates_atomically:
            pytest.skip("this storage needs a single writer")
        winners: list[int] = []

        def create(number: int) -> None:
            if storage.create("m", b"%d" % number):
                winners.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert storage.read("m", limit=10) == b"%d" % winners[0]

    def test_a_missing_object_is_reported(self, storage: Storage, tmp_path: Path) -> None:
        assert not storage.exists("nope")
        assert keys(storage) == []
        assert keys(storage, "no/where/") == []
        storage.delete(["nope", "no/where"])
        with pytest.raises(FileNotFoundError):
            storage.read("nope", limit=1)
        with pytest.raises(FileNotFoundError):
            storage.download("nope", tmp_path / "target", 1)

    def test_a_listing_is_in_order_and_continues_after_a_key(self, storage: Storage) -> None:
        created = ["b/2", "b/10", "a", "b/1", "c/d/e", "bb"]
        for key in created:
            storage.create(key, b"x")
        assert keys(storage) == sorted(created)
        assert keys(storage, "b/") == ["b/1", "b/10", "b/2"]
        assert keys(storage, "b/", after="b/10") == ["b/2"]

    def test_a_part_of_a_storage_has_only_its_own_objects(self, storage: Storage) -> None:
        inner = storage.below("x").below("y")
        inner.create("k", b"1")
        storage.create("k", b"2")
        assert keys(storage) == ["k", "x/y/k"]
        assert keys(inner) == ["k"]
        assert inner.url == f"{storage.url}/x/y"
        inner.delete(["k"])
        assert keys(storage) == ["k"]
        assert storage.exists("k")

    def test_an_object_of_another_size_is_refused(self, storage: Storage, tmp_path: Path) -> None:
        storage.create("k", b"12345")
        for size in (4, 6):
            with pytest.raises(CheckpointCorrupt, match=rf"\b5\b.*\b{size}\b"):
                storage.download("k", tmp_path / f"t{size}", size)
        with pytest.raises(StorageError, match="4"):
            storage.read("k", limit=4)

    def test_a_target_that_cannot_be_written_is_an_error_of_the_storage(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        storage.create("k", b"12345")
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="Not a directory"):
            storage.download("k", tmp_path / "file" / "target", 5)

    @pytest.mark.parametrize(
        "key", ["../x", "/etc/x", "a/../../x", "a//b", "a/./b", "a\0b", "a\nb"]
    )
    def test_a_key_that_is_no_plain_path_is_refused(
        self, storage: Storage, tmp_path: Path, key: str
    ) -> None:
        (tmp_path / "source").write_bytes(b"x")
        calls: list[Callable[[], object]] = [
            lambda: storage.upload(key, tmp_path / "source"),
            lambda: storage.create(key, b"x"),
            lambda: storage.download(key, tmp_path / "t", 1),
            lambda: storage.below(key),
        ]
        for call in calls:
            with pytest.raises(UnsafePath):
                call()
        assert not (tmp_path / "x").exists()

    def test_a_storage_can_be_pickled(self, storage: Storage) -> None:
        storage.create("k", b"1")
        copy = pickle.loads(pickle.dumps(storage.below("x")))
        assert copy.url == storage.below("x").url
        copy.create("k", b"2")
        assert storage.read("x/k", limit=1) == b"2"

    @pytest.mark.parametrize("name", ["lr#1", "what?", "50% a", "a@b", "%23"])
    def test_a_name_may_have_characters_that_are_special_in_urls(
        self, storage: Storage, name: str
    ) -> None:
        part = storage.below(name)
        assert part.create("k", b"1")
        copy = pickle.loads(pickle.dumps(part)).below("deep")
        copy.create("k", b"2")
        assert keys(storage) == [f"{name}/deep/k", f"{name}/k"]
        assert copy.url == part.below("deep").url
        if not self.quotes_urls:
            assert copy.url == f"{storage.url}/{name}/deep"

    def test_many_objects_are_listed_and_removed(self, storage: Storage) -> None:
        for number in range(self.many):
            storage.create(f"n/{number:04d}", b"x")
        assert len(keys(storage, "n/")) == self.many
        storage.delete(f"n/{number:04d}" for number in range(self.many - 1))
        assert keys(storage) == [f"n/{self.many - 1:04d}"]
