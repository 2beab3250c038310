"""A real S3 server behind a proxy that cuts, stalls, freezes and answers 503; kills on the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import anyio
import pytest
from uploader import FILES, SIZE, Writes

import asynctune as tune
from asynctune.errors import (
    CheckpointCorrupt,
    StorageDenied,
    StorageTimeout,
)
from asynctune.executors import InlineExecutor
from asynctune.storage import open_storage
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.directory import verify
from tcp_proxy import Faults, TcpProxy, tcp_proxy

UPLOADER = Path(__file__).with_name("uploader.py")
ONE_REQUEST = {"pool_max_idle_per_host": "0"}
"""Each request has a connection of its own, and so its own fate."""


@pytest.fixture
def url():
    return f"s3://bucket/{uuid.uuid4().hex}"


@contextlib.asynccontextmanager
async def proxied(port, **faults):
    proxy = await asyncio.to_thread(TcpProxy, port, Faults(**faults))
    try:
        yield proxy
    finally:
        await asyncio.to_thread(proxy.close)


def check(root):
    """Check that a checkpoint is of one save; return which."""
    verify(root)
    texts = {Path(root, "deep", f"{number}").read_text()[:8] for number in range(FILES)}
    assert len(texts) == 1, "files of two saves"
    for number in range(FILES):
        assert Path(root, "deep", f"{number}").stat().st_size == SIZE // 8 * 8
    return int(texts.pop())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_checkpoints_through_errors_cuts_and_stalls_are_twenty_right_commits(
    tmp_path, s3_server, url
):
    faults = {"errors": 0.3, "cuts": 0.1, "stalls": 0.05, "cut_after": 200_000}
    with tcp_proxy(s3_server.port, seed=5, **faults) as proxy:
        options = s3_server.options(proxy.port, client_options=ONE_REQUEST)
        trainable = Writes(url, {}, storage_options=options)
        for _ in range(20):
            trainable.train()
            trainable.save()
        trainable.stop()
        assert all(proxy.counts[fault] > 3 for fault in ("error", "cut", "stall")), proxy.counts
        fetched = [*Commits(open_storage(url, options)).newest_first()]
        through = Commits(open_storage(url, options)).fetch(fetched[0], tmp_path / "through")
        assert check(through) == 20
    direct = Commits(open_storage(url, s3_server.options()))
    commits = list(direct.newest_first())
    assert [c.name for c in commits] == [f"checkpoint_{n}" for n in range(20, 0, -1)]
    for commit in commits:
        root = direct.fetch(commit, tmp_path / "direct")
        assert f"checkpoint_{check(root)}" == commit.name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_reader_sees_the_old_or_the_new_checkpoint_whenever_the_uploader_is_killed(
    tmp_path, s3_server, url, is_long
):
    points = 200 if is_long else 50
    # From the first byte to the end of the third checkpoint: of one are some 1.5 MB, in 6 requests.
    step = 3 * FILES * SIZE // points
    seen, in_midst = set(), 0
    for number in range(points):
        place = f"{url}/{number}"
        printed = killed_after(1 + number * step, place, s3_server, tmp_path)
        commits = Commits(open_storage(place, s3_server.options()))
        names = [commit.name for commit in commits.newest_first()]
        # The answer to the last commit may not have come back.
        assert len(names) in (printed, printed + 1), (
            f"{printed} were acknowledged, {names} are there"
        )
        for commit in commits.newest_first():
            root = commits.fetch(commit, tmp_path / f"{number}")
            assert f"checkpoint_{check(root)}" == commit.name
        seen.add(len(names))
        files = {e.key.split("/")[0] for e in open_storage(place, s3_server.options()).list("")}
        in_midst += len(files - {"commits"}) > len(names)
    assert seen >= {0, 1, 2}, "kills before the first commit, behind it and behind the second"
    assert in_midst > points // 3, "many left a part of a checkpoint, which nobody sees"


def killed_after(count, place, server, tmp_path):
    """Kill an uploader when so many bytes of it have passed; return what it had said was committed."""
    passed, struck = 0, threading.Event()

    def watch(size):
        nonlocal passed
        passed += size
        if passed >= count and not struck.is_set():
            struck.set()
            os.kill(process.pid, signal.SIGKILL)

    with tcp_proxy(server.port) as proxy:
        proxy.watch = watch
        options = json.dumps(server.options(proxy.port, client_options=ONE_REQUEST))
        environment = {**os.environ, "PLACE": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, UPLOADER, place, options], stdout=subprocess.PIPE, env=environment
        )
        with process:
            lines = process.stdout.read().split()
        assert process.returncode == -9
    return len(lines)


def test_a_server_that_never_answers_is_given_up_in_time(s3_server, url):
    with tcp_proxy(s3_server.port, frozen=True) as proxy:
        options = s3_server.options(
            proxy.port, connect_timeout_s=1, read_timeout_s=0.25, operation_timeout_s=1
        )
        storage = open_storage(url, options)
        began = time.monotonic()
        for call in (
            lambda: storage.create("k", b"x"),
            lambda: storage.read("k", limit=1),
            lambda: list(storage.list("")),
        ):
            with pytest.raises(StorageTimeout, match=r"within 1 s, in \d+ attempts?.*not answer"):
                call()
        # Three calls of 1 s each; a control would be a server that answers, which takes milliseconds.
        assert time.monotonic() - began < 3 * (1 + 0.25) + 2
        assert proxy.counts["frozen"] >= 6


def test_a_commit_as_a_whole_has_one_limit(tmp_path, s3_server, url):
    trainable = Writes(url, {}, storage_options=s3_server.options())
    trainable.train()
    path = Path(trainable.save())
    trainable.stop()
    with tcp_proxy(s3_server.port, rate=60_000) as proxy:
        options = s3_server.options(proxy.port, operation_timeout_s=2)
        began = time.monotonic()
        with pytest.raises(StorageTimeout, match="within 2 s"):
            Commits(open_storage(f"{url}/other", options)).commit(path)
        assert time.monotonic() - began < 2 * 4, "five files, each of which takes 5 s"


def test_refused_credentials_name_the_call_and_are_not_tried_again(s3_server, url):
    with tcp_proxy(s3_server.port) as proxy:
        options = s3_server.options(
            proxy.port, secret_access_key="wrong", client_options=ONE_REQUEST
        )
        storage = open_storage(url, options)
        with pytest.raises(StorageDenied, match=rf"PUT {url}/k was refused \(403 Signature"):
            storage.create("k", b"x")
        assert proxy.counts["passed"] == 1


def test_credentials_are_read_anew_at_each_attempt(s3_server, url, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    storage = open_storage(url)
    assert storage.create("a", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    with pytest.raises(StorageDenied):
        storage.create("b", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.environment()["AWS_SECRET_ACCESS_KEY"])
    assert storage.create("b", b"x")


def test_credentials_that_are_renewed_between_two_attempts_are_used(s3_server, url, monkeypatch):
    environment = s3_server.environment()
    with tcp_proxy(s3_server.port, errors=1.0) as proxy:
        for name, value in {**environment, **s3_server.environment(proxy.port)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
        storage = open_storage(url)

        def renew(size):
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", environment["AWS_SECRET_ACCESS_KEY"])
            proxy.faults.errors = 0.0

        proxy.on_error = renew
        assert storage.create("k", b"x")
        assert proxy.counts["error"] == 1


def test_a_download_that_comes_short_is_read_again_and_then_is_corrupt(tmp_path, s3_server, url):
    trainable = Writes(url, {}, storage_options=s3_server.options())
    trainable.train()
    trainable.save()
    trainable.stop()
    storage = open_storage(url, s3_server.options())
    commit = next(Commits(storage).newest_first())
    (tmp_path / "short").write_text("short")
    storage.upload(f"{commit.prefix}deep/3", tmp_path / "short")
    with pytest.raises(CheckpointCorrupt, match=r"deep/3.*5 bytes"):
        Commits(storage).fetch(commit, tmp_path / "here")
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.slow
@pytest.mark.asyncio
async def test_training_goes_on_while_the_server_does_not_answer(tmp_path, s3_server, url, caplog):
    """And the run says in the end, within its limits, that the bucket is not complete."""

    class Counts(tune.Trainable):
        async def _setup(self, config):
            self.n = 0

        async def _train(self):
            self.n += 1
            if self.n == 3:
                proxy.faults.frozen = True
            return {"n": self.n}

        async def _save(self, directory):
            return {"n": self.n}

    async with proxied(s3_server.port) as proxy:
        options = s3_server.options(
            proxy.port, read_timeout_s=0.5, operation_timeout_s=1.5, client_options=ONE_REQUEST
        )
        with anyio.fail_after(40), pytest.raises(StorageTimeout, match="not everything") as raised:
            async with InlineExecutor(2) as pool:
                await tune.run(
                    Counts, executor=pool, name="x", num_samples=2, stop={"n": 300}, verbose=0,
                    checkpoint_freq=1, keep_checkpoints_num=2, upload_dir=url, storage_options=options,
                    storage_path=tmp_path / "a", upload_interval_s=0.1,
                )  # fmt: skip
        trials = raised.value.analysis.trials
        assert [(t.status, t.last_result["n"]) for t in trials] == [("TERMINATED", 300)] * 2
    assert f"complete in {tmp_path / 'a'}" in str(raised.value)
    async with InlineExecutor(2) as pool:  # the server answers again: the rest is uploaded
        analysis = await tune.run(
            Counts, executor=pool, name="x", num_samples=2, stop={"n": 300}, verbose=0, resume=True,
            upload_dir=url, storage_options=s3_server.options(), storage_path=tmp_path / "a",
        )  # fmt: skip
    place = open_storage(f"{url}/x", s3_server.options())

    def committed():
        return [next(Commits(place.below(t.trial_id)).newest_first()).name for t in analysis.trials]

    assert await asyncio.to_thread(committed) == ["checkpoint_300"] * 2, "the last is never skipped"


@pytest.mark.asyncio
async def test_newer_checkpoints_pass_the_older_ones_by_and_the_last_comes_through(
    tmp_path, s3_server, url
):
    class Counts(tune.Trainable):
        async def _setup(self, config):
            self.n = 0

        async def _train(self):
            self.n += 1
            return {"n": self.n}

        async def _save(self, directory):
            Path(directory, "data").write_bytes(os.urandom(100_000))
            return directory

    async with proxied(s3_server.port, rate=400_000) as proxy, InlineExecutor(1) as pool:
        experiment = await tune.start(
            Counts, executor=pool, name="x", stop={"n": 40}, verbose=0, checkpoint_freq=1,
            upload_dir=url, storage_options=s3_server.options(proxy.port), storage_path=tmp_path / "a",
        )  # fmt: skip
        analysis = await experiment
        stats = experiment.uploads
        await experiment.aclose()
    assert stats.committed + stats.skipped == 40
    assert 1 <= stats.committed < 40
    assert stats.waiting == 0
    place = open_storage(f"{url}/x/{analysis.trials[0].trial_id}", s3_server.options())
    newest = await asyncio.to_thread(lambda: next(Commits(place).newest_first()).name)
    assert newest == "checkpoint_40"


def test_a_store_that_was_used_before_a_fork_says_so_in_the_child(s3_server, url):
    code = f"""
import os
from asynctune.storage import open_storage
storage = open_storage({url!r}, {s3_server.options()!r})
storage.create("k", b"x")
child = os.fork()
if not child:
    try:
        storage.create("l", b"x")
    except OSError as exc:
        print(exc, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "was used before this process was forked" in done.stdout
