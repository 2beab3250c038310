"""What every storage does, whatever is behind it."""

import json
import os
import pickle
import threading
import uuid

import pytest

from asynctune.errors import CheckpointCorrupt, ConfigError, StorageError, UnsafePath
from asynctune.storage import (
    FsspecStorage,
    LocalStorage,
    ObjectStorage,
    Storage,
    open_storage,
)
from tcp_proxy import tcp_proxy

fsspec = pytest.importorskip("fsspec")


def gs_options(server):
    """GS's client speaks to an S3 server that wants no signatures, but for preconditions."""
    account = {
        "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": "",
    }  # fmt: skip
    return {
        "base_url": server.url,
        "service_account_key": json.dumps(account),
        "client_options": {"allow_http": True},
        "operation_timeout_s": 20,
    }


@pytest.fixture(params=["local", "fsspec", "s3", "gs"])
def storage(request, tmp_path, s3_server, anonymous_server):
    place = f"test-{uuid.uuid4().hex}"
    if request.param == "local":
        return LocalStorage(tmp_path / place)
    if request.param == "fsspec":
        filesystem = fsspec.filesystem("file", auto_mkdir=True)
        return FsspecStorage(filesystem, str(tmp_path / place), single_writer=True)
    if request.param == "s3":
        return open_storage(f"s3://bucket/{place}", s3_server.options())
    return open_storage(f"gs://bucket/{place}", gs_options(anonymous_server))


def put(storage, key, data, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(data)
    storage.upload(key, source)


def keys(storage, prefix="", after=""):
    return [entry.key for entry in storage.list(prefix, after)]


def test_it_is_a_storage(storage):
    assert isinstance(storage, Storage)
    assert "://" in storage.url


@pytest.mark.parametrize("size", [0, 1, 9 << 20])
def test_what_was_uploaded_is_read_and_downloaded(storage, tmp_path, size):
    data = os.urandom(size)
    put(storage, "a/b", data, tmp_path)
    assert storage.read("a/b", limit=size) == data
    storage.download("a/b", tmp_path / "target", size)
    assert (tmp_path / "target").read_bytes() == data
    assert [(entry.key, entry.size) for entry in storage.list("a/")] == [("a/b", size)]


def test_an_upload_replaces_what_was_there(storage, tmp_path):
    put(storage, "a", b"old and long", tmp_path)
    put(storage, "a", b"new", tmp_path)
    assert storage.read("a", limit=100) == b"new"


def test_an_object_is_created_once(storage, request):
    assert storage.create("m", b"first")
    if storage.url.startswith("gs://"):
        pytest.skip("the server that stands in for GS does not know its preconditions")
    assert not storage.create("m", b"second")
    assert storage.read("m", limit=10) == b"first"


def test_of_many_who_create_one_object_one_wins(storage):
    if not isinstance(storage, LocalStorage) and not storage.url.startswith("s3://"):
        pytest.skip("it has no such promise")
    won = []
    threads = [
        threading.Thread(
            target=lambda n=n: won.append(n) if storage.create("m", b"%d" % n) else None
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("m", limit=10) == b"%d" % won[0]


def test_what_is_missing_is_said_to_be(storage, tmp_path):
    assert not storage.exists("nope")
    assert keys(storage) == []
    assert keys(storage, "no/where/") == []
    storage.delete(["nope", "no/where"])
    for call in (
        lambda: storage.read("nope", limit=1),
        lambda: storage.download("nope", tmp_path / "t", 1),
    ):
        with pytest.raises(FileNotFoundError):
            call()


def test_a_listing_is_in_order_and_goes_on_behind_a_key(storage):
    for key in ("b/2", "b/10", "a", "b/1", "c/d/e", "bb"):
        storage.create(key, b"x")
    assert keys(storage) == sorted(["b/2", "b/10", "a", "b/1", "c/d/e", "bb"])
    assert keys(storage, "b/") == ["b/1", "b/10", "b/2"]
    assert keys(storage, "b/", after="b/10") == ["b/2"]


def test_a_part_of_it_knows_nothing_else(storage):
    inner = storage.below("x").below("y")
    inner.create("k", b"1")
    storage.create("k", b"2")
    assert keys(storage) == ["k", "x/y/k"]
    assert keys(inner) == ["k"]
    assert inner.url == f"{storage.url}/x/y"
    inner.delete(["k"])
    assert keys(storage) == ["k"]
    assert storage.exists("k")


def test_an_object_of_another_size_is_refused(storage, tmp_path):
    storage.create("k", b"12345")
    for size in (4, 6):
        with pytest.raises(CheckpointCorrupt, match=f"5 bytes; {size} are wanted"):
            storage.download("k", tmp_path / f"t{size}", size)
    with pytest.raises(StorageError, match="4"):
        storage.read("k", limit=4)


def test_a_disk_that_refuses_the_file_of_a_download_is_told_of(storage, tmp_path):
    storage.create("k", b"12345")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"):
        storage.download("k", tmp_path / "file" / "target", 5)


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", "a//b", "a/./b", "a\0b", "a\nb"])
def test_a_key_that_is_no_plain_path_is_refused(storage, tmp_path, key):
    (tmp_path / "source").write_bytes(b"x")
    for call in (
        lambda: storage.upload(key, tmp_path / "source"),
        lambda: storage.create(key, b"x"),
        lambda: storage.download(key, tmp_path / "t", 1),
        lambda: storage.below(key),
    ):
        with pytest.raises(UnsafePath):
            call()
    assert not (tmp_path / "x").exists()


def test_it_travels_by_pickle(storage):
    storage.create("k", b"1")
    again = pickle.loads(pickle.dumps(storage.below("x")))
    assert again.url == storage.below("x").url
    again.create("k", b"2")
    assert storage.read("x/k", limit=1) == b"2"


@pytest.mark.parametrize("name", ["lr#1", "what?", "50% a", "a@b", "%23"])
def test_a_name_may_have_what_means_something_in_a_url(storage, name):
    part = storage.below(name)
    assert part.create("k", b"1")
    again = pickle.loads(pickle.dumps(part)).below("deep")
    again.create("k", b"2")
    assert keys(storage) == [f"{name}/deep/k", f"{name}/k"]
    assert again.url == part.below("deep").url
    if not isinstance(storage, LocalStorage):
        assert again.url == f"{storage.url}/{name}/deep"


@pytest.mark.slow
def test_1500_objects_are_listed_and_removed(storage):
    if storage.url.startswith("gs://"):
        pytest.skip("as S3, whose client and server these are")
    for number in range(1500):
        storage.create(f"n/{number:04d}", b"x")
    assert len(keys(storage, "n/")) == 1500
    storage.delete(f"n/{number:04d}" for number in range(1499))
    assert keys(storage) == ["n/1499"]


def test_an_fsspec_filesystem_wants_the_promise_of_a_single_writer(tmp_path):
    filesystem = fsspec.filesystem("file")
    with pytest.raises(ConfigError, match="single_writer=True"):
        FsspecStorage(filesystem, str(tmp_path))
    with pytest.raises(ConfigError, match="no file system"):
        FsspecStorage("s3", str(tmp_path), single_writer=True)
    with pytest.raises(ConfigError, match="FsspecStorage"):
        open_storage(filesystem)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("http://x/y", "unknown kind"),
        ("s3://", "no place in a bucket"),
        ("s3://bucket/../x", "s3://bucket/../x' has no plain path behind the bucket"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("file://elsewhere/x", "no file of this machine"),
        (17, "no place to store"),
    ],
)
def test_a_place_that_is_none_is_refused(where, message):
    with pytest.raises(ConfigError, match=message) as raised:
        open_storage(where)
    assert "secret" not in str(raised.value)


def test_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"storage_options has .region."):
        open_storage(tmp_path, {"region": "x"})
    with pytest.raises(ConfigError, match="storage_options: read_timeout_s"):
        open_storage("s3://bucket/x", {"read_timeout_s": 0})
    with pytest.raises(ConfigError, match="storage_options"):
        open_storage("s3://bucket/x", {"no_such_option": "x"}).exists("k")


def test_nothing_shows_the_credentials(s3_server):
    storage = open_storage("s3://bucket/x", s3_server.options(secret_access_key="wrong-canary"))
    with pytest.raises(StorageError) as raised:
        storage.create("k", b"x")
    shown = f"{storage!r} {raised.value} {storage.url}"
    assert "canary" not in shown
    assert isinstance(storage, ObjectStorage)


def test_closing_a_part_of_a_place_leaves_the_place_as_it_was(s3_server):
    with tcp_proxy(s3_server.port, errors=1.0) as proxy:
        options = s3_server.options(proxy.port, client_options={"pool_max_idle_per_host": "0"})
        whole = open_storage(f"s3://bucket/{uuid.uuid4().hex}", options)
        part = whole.below("part")
        inner = part.below("inner")
        part.close()
        for closed in (part, inner, part.below("later"), part.limited()):
            with pytest.raises(StorageError, match="was given up"):
                closed.create("k", b"x")

        def recover(size):
            proxy.faults.errors = 0.0

        proxy.on_error = recover
        assert whole.create("k", b"x")
