"""What names a place and its server, and what an object store may answer, without a whole run."""

from __future__ import annotations

import contextlib
import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.errors import ConfigError, StorageError, UnsafePath
from asynctune.runner.plan.plan import make_plan
from asynctune.storage import (
    LocalStorage,
    ObjectStorage,
    Timeouts,
    open_storage,
)
from asynctune.storage import (
    _retries as retries,
)
from asynctune.storage._obstore_errors import first_line, safe_cause, translate_error
from asynctune.storage._obstore_settings import make_settings
from asynctune.storage._retries import Doubtful, Retries, Transient

S3_OPTIONS = ["endpoint", "ENDPOINT", "endpoint_url", "aws_endpoint", "AWS_Endpoint_Url"]
S3_OPTIONS += ["endpoint_url_s3", "AWS_ENDPOINT_URL_S3"]
S3_VARIABLES = ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_endpoint"]
SPELLINGS = [("s3", name) for name in S3_OPTIONS] + [
    ("s3a", "endpoint_url"), ("gs", "base_url"), ("gs", "GOOGLE_BASE_URL"), ("az", "endpoint"),
    ("abfs", "azure_storage_endpoint"), ("az", "AZURE_ENDPOINT"),
]  # fmt: skip
VARIABLES = [("s3", name) for name in S3_VARIABLES] + [
    ("gs", "GOOGLE_BASE_URL"), ("az", "AZURE_ENDPOINT"), ("abfss", "AZURE_STORAGE_ENDPOINT"),
]  # fmt: skip
KEYS = {"region": "us-east-1", "access_key_id": "k", "secret_access_key": "s"}
LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><KeyCount>1</KeyCount>
<IsTruncated>false</IsTruncated><Contents><Key>x/a</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>
<ETag>"x"</ETag><Size>1</Size></Contents></ListBucketResult>"""
PAGE = b"<!DOCTYPE html><html><head><meta charset=utf-8><br></head><body>Log in</body></html>"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for _, name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def soon(monkeypatch):
    """What is tried again is tried again at once."""
    monkeypatch.setattr(retries, "_INITIAL_DELAY_S", 0.001)
    monkeypatch.setattr(retries, "_MAX_DELAY_S", 0.001)


@contextlib.contextmanager
def answering(*answers):
    """Run a server that gives these answers in turn, the last one again and again.

    Each is a status, headers and a body; a body without a Content-Length ends where the connection does.
    """

    class Answer(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.command)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Answer, f"do_{method}", Answer.answer)
    asked = []
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            yield open_storage("s3://bucket/x", {"endpoint": endpoint, **KEYS}), asked
        finally:
            server.shutdown()
            thread.join()


def whole(status, body=b"", **headers):
    return status, {"Content-Length": str(len(body)), **headers}, body


# The endpoint


@pytest.mark.parametrize(("scheme", "name"), SPELLINGS)
def test_an_option_that_names_a_server_is_taken_at_its_word(scheme, name):
    settings = make_settings(scheme, {name: "http://host:1", "region": "r"}, {})
    known = "base_url" if scheme == "gs" else "endpoint"
    assert settings.config == {known: "http://host:1", "region": "r"}
    assert settings.client == {"allow_http": True}
    assert make_settings(scheme, {name: "https://host"}, {}).client == {}


@pytest.mark.parametrize(("scheme", "name"), VARIABLES)
def test_a_variable_that_names_a_server_is_taken_at_its_word(scheme, name):
    settings = make_settings(scheme, {}, {name: "http://host:1", "OTHER": "x"})
    assert list(settings.config.values()) == ["http://host:1"]
    assert settings.client == {"allow_http": True}
    assert make_settings(scheme, {}, {name.lower(): "http://host:1"}).config == {}, "obstore's rule"


@pytest.mark.parametrize("name", S3_VARIABLES[:3])
def test_each_of_the_variables_reaches_the_server(s3_server, monkeypatch, name):
    environment = s3_server.environment()
    monkeypatch.setenv(name, environment.pop("AWS_ENDPOINT_URL"))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert not open_storage("s3://bucket/x").exists("nope")


@pytest.mark.parametrize("name", [*S3_OPTIONS[:5], "aws_endpoint_url_s3"])
def test_each_of_the_options_reaches_the_server(s3_server, name):
    options = s3_server.options()
    options[name] = options.pop("endpoint")
    assert not open_storage("s3://bucket/x", options).exists("nope")


@pytest.mark.parametrize("name", ["allow_http", "AWS_ALLOW_HTTP"])
def test_allow_http_goes_to_the_client_whatever_it_is_called(name):
    settings = make_settings("s3", {name: "true", "client_options": {"user_agent": "u"}}, {})
    assert settings.config == {}
    assert settings.client == {"user_agent": "u", "allow_http": "true"}


@pytest.mark.parametrize(("scheme", "name"), SPELLINGS)
@pytest.mark.parametrize(
    "endpoint", ["http://u:canary@host:1", "u:canary@host", "https://u:12/canary@host"]
)
def test_an_option_with_a_password_is_refused_and_not_shown(scheme, name, endpoint):
    with pytest.raises(
        ConfigError, match=f"{name} in storage_options must not contain a user or password"
    ) as raised:
        open_storage(f"{scheme}://bucket/x", {name: endpoint})
    assert "canary" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(("scheme", "name"), VARIABLES)
def test_a_variable_with_a_password_is_refused_and_not_shown(monkeypatch, scheme, name):
    monkeypatch.setenv(name, "http://u:canary@127.0.0.1:9")
    with pytest.raises(
        ConfigError, match=f"variable {name} must not contain a user or password"
    ) as raised:
        open_storage(f"{scheme}://bucket/x", {"operation_timeout_s": 1}).exists("k")
    assert "canary" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("127.0.0.1:8333", "must begin with http:// or https://"),
        ("host", "must begin with http:// or https://"),
        ("", "must begin with http:// or https://"),
        ("http://[::1", "must be the URL of a server"),
        ("http://", "must be the URL of a server"),
        ("https://host:99999", "must be the URL of a server"),
        ("https://ho st", "must be the URL of a server"),
        ("https://host\n", "must be the URL of a server"),
        ("https://host?x=1", "must be the URL of a server"),
        (None, "must be a URL such as"),
    ],
)
def test_an_endpoint_that_is_none_is_refused_before_obstore_gives_up(capfd, endpoint, message):
    with pytest.raises(ConfigError, match=rf"endpoint in storage_options {message}.*, got "):
        open_storage("s3://bucket/x", {"endpoint": endpoint})
    assert capfd.readouterr() == ("", "")


def test_an_endpoint_that_a_secret_names_is_looked_at_too(monkeypatch):
    monkeypatch.setenv("MY_ENDPOINT", "canary-host:80")
    storage = open_storage("s3://bucket/x", {"endpoint": tune.Secret("env:MY_ENDPOINT"), **KEYS})
    with pytest.raises(
        ConfigError, match=r"must begin with http://.*got .*env:MY_ENDPOINT"
    ) as raised:
        storage.exists("k")
    assert "canary" not in str(raised.value)


def test_two_names_of_one_thing_are_refused():
    options = {"endpoint": "https://a", "AWS_ENDPOINT_URL": "https://b"}
    with pytest.raises(
        ConfigError, match="one name of the endpoint, got 'endpoint' and 'AWS_ENDPOINT_URL'"
    ):
        open_storage("s3://bucket/x", options)


def test_an_option_goes_before_the_environment_but_where_obstore_does_not_let_it(monkeypatch):
    options, environment = {"endpoint": "https://a"}, {"AWS_ENDPOINT_URL": "http://b"}
    assert make_settings("s3", options, environment).config == options
    environment = {"AWS_ENDPOINT_URL_S3": "http://b"}
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL_S3 names another server"):
        make_settings("s3", options, environment)
    both = environment | {"AWS_ENDPOINT_URL": "http://c"}
    assert make_settings("s3", {}, both).config == {"endpoint": "http://b"}


@pytest.mark.parametrize("given", [[1], "x", {1: 2}])
def test_client_options_that_are_no_options_are_refused(given):
    with pytest.raises(
        ConfigError, match=r"client_options in storage_options must be a dict .*, got "
    ):
        open_storage("s3://bucket/x", {"client_options": given})


def test_an_option_at_which_obstore_gives_up_is_an_error_of_ours(capfd):
    with pytest.raises(ConfigError, match="timeout"):
        open_storage("s3://bucket/x", {"timeout": "1s", **KEYS}).exists("k")
    capfd.readouterr()  # obstore's library has printed where it gave up


def test_no_text_shows_a_user_of_a_url():
    from obstore import exceptions

    text = "Error performing GET http://u:canary@h/b/k - HTTP error: builder error\nkind: Builder"
    for error in (
        exceptions.GenericError(text),
        exceptions.GenericError(text[:-13]),
        OSError(text),
    ):
        shown = translate_error(error, "GET s3://b/k")
        assert "canary" not in str(shown)
        assert "http://...@h/b/k" in str(shown)
        assert safe_cause(error) is None, "which a traceback would show"
    plain = OSError("GET http://h/b/a@b")
    assert safe_cause(plain) is plain
    assert first_line(plain) == "GET http://h/b/a@b"


# Answers


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (whole(301, b"<Error><Code>PermanentRedirect</Code></Error>"), "region is wrong"),
        (whole(307, Location="http://127.0.0.1:1/"), "answered 307"),
        (whole(302, Location="/login"), "answered 302"),
        (whole(501, b"<Error><Code>NotImplemented</Code></Error>"), "501 NotImplemented"),
        (
            whole(400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"),
            "check the region",
        ),
        (whole(404, b"<Error><Code>NoSuchBucket</Code></Error>"), None),
    ],
)
def test_an_answer_that_will_not_change_is_not_asked_for_again(answer, message):
    with answering(answer) as (storage, asked):
        with pytest.raises(OSError, match=message):
            storage.create("k", b"x")
        assert asked == ["PUT"]


def test_a_server_that_sends_round_in_circles_is_not_asked_until_the_time_is_over():
    with answering(whole(302, Location="/login")) as (storage, asked):
        with pytest.raises(StorageError, match="in circles"):
            storage.read("k", 1)
        assert len(asked) < 15, "what the client itself follows"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_may_change_is_asked_for_again(status, soon):
    with answering(whole(status), whole(200, b"x", ETag='"x"')) as (storage, asked):
        assert storage.create("k", b"x")
        assert asked == ["PUT", "PUT"]


@pytest.mark.parametrize(
    "call",
    [
        lambda storage: storage.create("k", b"x"),
        lambda storage: list(storage.list("")),
        lambda storage: storage.delete(["k"]),
    ],
)
def test_a_page_of_a_proxy_ends_the_call_after_a_few_times(call, soon):
    with answering(whole(200, PAGE)) as (storage, asked):
        with pytest.raises(
            StorageError, match="5 times in a row: the response is not that of an object"
        ):
            call(storage)
        assert len(asked) == 5


def test_a_listing_that_is_cut_is_asked_for_again(soon):
    cuts = [(200, {}, LISTING[:size]) for size in (0, 150, len(LISTING) - 3)]
    with answering(*cuts, whole(503), *cuts, whole(200, LISTING)) as (storage, asked):
        assert [entry.key for entry in storage.list("")] == ["a"]
        assert len(asked) == 8


def test_doubts_count_in_a_row_only(soon):
    outcomes = [Doubtful("?")] * 4 + [Transient("!")] + [Doubtful("?")] * 4

    def function(left_s):
        if outcomes:
            raise outcomes.pop()
        return "done"

    assert Retries(Timeouts()).call(function, "it") == "done"


def test_nothing_begins_in_what_is_closed(s3_server):
    whole, called = Retries(Timeouts()), []
    assert whole.call(lambda left_s: called.append(1), "it") is None
    child = whole.limited()
    whole.close()
    for closed in (whole, child, whole.child()):
        with pytest.raises(StorageError, match="it was given up: this storage has been closed"):
            closed.call(lambda left_s: called.append(2), "it")
    assert called == [1]
    storage = open_storage("s3://bucket/x", s3_server.options())
    storage.close()
    with pytest.raises(StorageError, match="closed"):
        storage.exists("k")


# The place


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("s3:/bucket/x", "'s3://bucket/x'"),
        ("S3:bucket/x", "'s3://bucket/x'"),
        ("gs:bucket/x", "'gs://bucket/x'"),
        (" s3:/bucket/x", "'s3://bucket/x'"),
        ("abfss:\\\\bucket", "'abfss://bucket'"),
        ("file:/tmp/x", "'file:///tmp/x'"),
        (Path("s3://bucket/x"), "'s3://bucket/x'"),
        ("s3:/me:canary@bucket/x", "'s3://bucket/...'"),
        (" s3://bucket/x", "white space"),
        ("s3://bucket/x\n", "white space"),
        ("\tfile:///x", "white space"),
        (" s3://me:canary@[x/y ", "white space"),
    ],
)
def test_what_is_almost_a_url_is_no_directory(tmp_path, monkeypatch, where, right):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: open_storage(where),
        lambda: make_plan("T", {"storage_path": where}),
        lambda: make_plan("T", {"local_dir": where}),
        lambda: make_plan("T", {"upload_dir": where}),
    ):
        with pytest.raises(ConfigError, match=right) as raised:
            call()
        assert "canary" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_directory_may_still_be_called_like_a_scheme(tmp_path):
    for name in ("s3", "s3x:y", "./s3:x", f"{tmp_path}/gs:", "my s3://x"):
        assert isinstance(open_storage(name), LocalStorage)
    assert isinstance(open_storage("s3://bucket/a b"), ObjectStorage)


@pytest.mark.parametrize("path", ["a//b", "../b", "a/./b", "a\\b", "x" * 300])
def test_a_url_of_the_users_is_nobody_elses_fault(path):
    with pytest.raises(ConfigError, match="must consist of names with single slashes") as raised:
        open_storage(f"s3://bucket/{path}")
    assert not isinstance(raised.value, UnsafePath)
    assert repr(f"s3://bucket/{path}") in str(raised.value)


@pytest.mark.parametrize(
    "url", ["s3://[x/y", "s3://me:canary@[x/y?k=canary", "gs://bu\ncket/x", "file://[x/y"]
)
def test_what_cannot_be_read_as_a_url_is_refused(url):
    with pytest.raises(ConfigError, match="cannot be read as a URL") as raised:
        open_storage(url)
    assert "canary" not in "".join(traceback.format_exception(raised.value))


def test_what_would_be_ignored_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"storage_options has 'operation_timeout_s', which .* does not support"
    ):
        open_storage(tmp_path, {"operation_timeout_s": 1})
    with pytest.raises(
        ConfigError, match=r"storage_options must be empty for .*, which has its own options"
    ):
        open_storage(LocalStorage(tmp_path), {"operation_timeout_s": 1})
