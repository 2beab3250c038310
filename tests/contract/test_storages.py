"""The storages that come with asynctune keep the contract of storages."""

import json
import uuid

import pytest

from asynctune.errors import ConfigError, StorageError
from asynctune.storage import FsspecStorage, LocalStorage, ObjectStorage, open_storage
from asynctune.testing.storages import StorageContract
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


class Contract(StorageContract):
    @pytest.mark.slow
    def test_many_objects_are_listed_and_removed(self, storage):
        super().test_many_objects_are_listed_and_removed(storage)


class TestLocalStorage(Contract):
    quotes_urls = True

    def make_storage(self, directory):
        return LocalStorage(directory)


class TestFsspecStorage(Contract):
    creates_atomically = False

    def make_storage(self, directory):
        filesystem = fsspec.filesystem("file", auto_mkdir=True)
        return FsspecStorage(filesystem, str(directory), single_writer=True)


class TestS3(Contract):
    @pytest.fixture
    def storage(self, s3_server):
        return open_storage(f"s3://bucket/{uuid.uuid4().hex}", s3_server.options())


class TestGS(Contract):
    creates_once = False  # the server that stands in for GS ignores preconditions
    creates_atomically = False
    many = 10  # client and server page as those of S3

    @pytest.fixture
    def storage(self, anonymous_server):
        return open_storage(f"gs://bucket/{uuid.uuid4().hex}", gs_options(anonymous_server))


def test_an_fsspec_filesystem_wants_the_promise_of_a_single_writer(tmp_path):
    filesystem = fsspec.filesystem("file")
    with pytest.raises(
        ConfigError,
        match=r"single_writer .* must be True, got False.*Pass single_writer=True",
    ):
        FsspecStorage(filesystem, str(tmp_path))
    with pytest.raises(ConfigError, match="must be a file system of fsspec, got 's3'"):
        FsspecStorage("s3", str(tmp_path), single_writer=True)
    with pytest.raises(ConfigError, match="FsspecStorage"):
        open_storage(filesystem)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("http://x/y", "must begin with s3://.* or file://, got 'http://x/y'"),
        ("s3://", "must have the form s3://bucket/path, got 's3://'"),
        ("s3://bucket/../x", "the path in the URL of a bucket must .* got 's3://bucket/../x'"),
        ("s3://key:secret@bucket/x", "must not contain credentials"),
        ("file://elsewhere/x", "only files of this machine are supported"),
        (17, "the location of a storage must be .*, got 17"),
    ],
)
def test_a_place_that_is_none_is_refused(where, message):
    with pytest.raises(ConfigError, match=message) as raised:
        open_storage(where)
    assert "secret" not in str(raised.value)


def test_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"storage_options has .region."):
        open_storage(tmp_path, {"region": "x"})
    with pytest.raises(
        ConfigError, match=r"storage_options: read_timeout_s must be .* more than 0, got 0"
    ):
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
