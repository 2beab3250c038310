"""Runs with a remote side, where something comes at a bad moment."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import anyio
import pytest
from counting import Counts
from remote_helpers import Durable, commits_of, run

import asynctune as tune
from asynctune.cli.main import main
from asynctune.errors import ConfigError, ExperimentLocked, StorageError, StorageTimeout
from asynctune.executors import InlineExecutor
from asynctune.experiment.remote.journal import RemoteJournal
from asynctune.storage import LocalStorage, open_storage
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.records import Writer

pytestmark = pytest.mark.asyncio


def begin_elsewhere(remote, machine):
    """Take the experiment over, as a driver on another machine does; return its number."""
    segments = RemoteJournal(LocalStorage(remote / "x"))
    machine.mkdir()
    segments.download(machine / "journal")
    return segments.begin(1)


async def test_a_run_that_learns_at_its_end_that_it_is_not_the_owner_ends(tmp_path):
    remote = tmp_path / "remote"

    class TakenOver(Counts):
        async def _train(self):
            if self.n == 3:
                await asyncio.to_thread(begin_elsewhere, remote, tmp_path / "other")
            return await super()._train()

    with anyio.fail_after(30), pytest.raises(ExperimentLocked, match="took it over"):
        await run(tmp_path / "a", remote, 5, TakenOver, upload_interval_s=100)


@pytest.mark.parametrize("trainable", [Counts, Durable])
async def test_a_checkpoint_that_is_saved_again_under_a_forgotten_name_stays(tmp_path, trainable):
    remote = tmp_path / "remote"
    first = await run(tmp_path / "a", remote, 4, trainable, checkpoint_freq=2)
    trial = first.trials[0]

    def lose():  # as if the driver had died before they were uploaded
        place = Commits(LocalStorage(remote / "x" / trial.trial_id))
        place.delete("checkpoint_2")  # if it was not passed over
        assert place.delete("checkpoint_4")

    await asyncio.to_thread(lose)
    second = await run(
        tmp_path / "b", remote, 5, trainable, checkpoint_freq=2, resume=True, upload_interval_s=2
    )
    names = [Path(c.path).parts[-2] for c in second.trials[0].checkpoints]
    here = {name for name in os.listdir(second.trials[0].logdir) if name.startswith("checkpoint")}
    there = await asyncio.to_thread(commits_of, remote, trial)
    assert set(names) == here == {"checkpoint_2", "checkpoint_4"}
    # One that waits is passed over when a newer one comes, but for durable trainables.
    passed_over = set() if trainable is Durable else {"checkpoint_2"}
    assert here - passed_over <= set(there) <= here


async def test_a_resume_looks_at_several_trials_at_once(tmp_path):
    remote = tmp_path / "remote"
    await run(tmp_path / "a", remote, 2, num_samples=4)
    both, looked = threading.Barrier(2), set()

    class Slow(LocalStorage):
        """Answers what the first two trials have when both were asked for."""

        def list(self, prefix):
            is_recovery = threading.current_thread().name.startswith("asynctune storage")
            if is_recovery and len(looked) < 2 and self.url not in looked:
                looked.add(self.url)
                both.wait(timeout=20)
            return super().list(prefix)

    analysis = await run(tmp_path / "b", Slow(remote), 3, num_samples=4, resume=True)
    assert len(looked) == 2
    assert [len(trial.results) for trial in analysis.trials] == [3] * 4


async def test_bringing_checkpoints_leaves_the_threads_of_others_alone(tmp_path):
    remote = tmp_path / "remote"
    await run(tmp_path / "a", remote, 2, num_samples=12)
    lock, eight = threading.Lock(), threading.Barrier(8)
    came, now, most = 0, 0, 0

    class Slow(LocalStorage):
        """Lets nobody have a checkpoint before eight want one."""

        def download(self, key, target, size):
            nonlocal came, now, most
            with lock:
                came, now = came + 1, now + 1
                most, waits = max(most, now), came <= 8
            if waits:
                eight.wait(timeout=20)
            super().download(key, target, size)
            with lock:
                now -= 1

    anyio.to_thread.current_default_thread_limiter().total_tokens = 2
    async with InlineExecutor(12) as pool:
        analysis = await run(
            tmp_path / "b", Slow(remote), 3, num_samples=12, resume=True, executor=pool
        )
    assert [len(trial.results) for trial in analysis.trials] == [3] * 12
    assert (came, most) == (12, 8)


async def test_who_is_overtaken_at_a_checkpoint_is_told_by_whom(tmp_path):
    remote = tmp_path / "remote"

    def take_over():
        begin_elsewhere(remote, tmp_path / "other")
        own = LocalStorage(remote / "x" / next(path.name for path in (remote / "x").glob("*_0*")))
        Commits(own, Writer(epoch=1)).claim()

    class TakenOver(Counts):
        async def _train(self):
            if self.n == 2:
                while not list((remote / "x").glob("*_0*/commits/*")):
                    await asyncio.sleep(0)
                await asyncio.to_thread(take_over)
            return await super()._train()

    with anyio.fail_after(30), pytest.raises(ExperimentLocked, match="took it over") as raised:
        await run(tmp_path / "a", remote, 9, TakenOver, upload_interval_s=100)
    assert raised.value.pid == os.getpid()


async def test_a_resume_goes_on_behind_a_durable_driver_that_died_before_its_journal_came(tmp_path):
    remote = tmp_path / "remote"
    first = await run(tmp_path / "a", remote, 2, Durable)

    def begin_and_die():
        writer = Writer(begin_elsewhere(remote, tmp_path / "dead"), attempt=1)
        Commits(LocalStorage(remote / "x" / first.trials[0].trial_id), writer).claim()

    await asyncio.to_thread(begin_and_die)
    second = await run(tmp_path / "b", remote, 4, Durable, resume=True)
    assert [row["n"] for row in second.trials[0].results] == [1, 2, 3, 4]


async def test_what_is_kept_for_its_score_is_there_in_the_end_though_it_was_passed_over(tmp_path):
    remote = tmp_path / "remote"
    on_its_way, may_end = threading.Event(), threading.Event()

    class Slow(LocalStorage):
        def upload(self, key, source):
            if "checkpoint_1/" in key:
                on_its_way.set()
                may_end.wait(20)
            super().upload(key, source)

    class Peaks(Counts):
        async def _train(self):
            self.n += 1
            if self.n == 2:
                await asyncio.to_thread(on_its_way.wait, 20)
            if self.n == 5:
                may_end.set()
            return {"n": self.n, "score": -abs(self.n - 3)}

    analysis = await run(
        tmp_path / "a",
        Slow(remote),
        6,
        Peaks,
        keep_checkpoints_num=1,
        checkpoint_score_attr="score",
    )
    names = await asyncio.to_thread(commits_of, remote, analysis.trials[0])
    assert set(names) == {"checkpoint_3", "checkpoint_6"}


async def test_a_store_that_ignores_conditions_is_refused_before_anything_starts(tmp_path):
    class TakesTwice(LocalStorage):
        def create(self, key, data):
            self._path(key).unlink(missing_ok=True)
            return super().create(key, data)

    with pytest.raises(StorageError, match=r"twice.*single_writer=True"):
        await run(tmp_path / "a", TakesTwice(tmp_path / "remote"), 2)


async def test_a_resume_goes_on_where_one_was_killed_while_it_pulled(tmp_path):
    remote = tmp_path / "remote"
    await run(tmp_path / "a", remote, 2)

    def die():
        (tmp_path / "b" / "x").mkdir(parents=True)
        (tmp_path / "b" / "x" / "lock").touch()
        (tmp_path / "b" / "x" / "journal.pulled").write_text("half of ")

    await asyncio.to_thread(die)
    second = await run(tmp_path / "b", remote, 3, resume=True)
    assert [row["n"] for row in second.trials[0].results] == [1, 2, 3]
    assert not (tmp_path / "b" / "x" / "journal.pulled").exists()


class Stuck(LocalStorage):
    """Takes journals, and no checkpoints."""

    def upload(self, key, source):
        if "checkpoint_" in key:
            raise StorageTimeout(f"PUT {key} did not succeed")
        super().upload(key, source)


async def test_the_last_commit_stays_until_a_newer_one_has_come(tmp_path):
    remote = tmp_path / "remote"
    first = await run(tmp_path / "a", remote, 2, keep_checkpoints_num=1)
    for until in (5, 7):
        with pytest.raises(StorageTimeout):
            await run(tmp_path / "a", Stuck(remote), until, keep_checkpoints_num=1, resume=True)
        assert await asyncio.to_thread(commits_of, remote, first.trials[0]) == ["checkpoint_2"]
    await run(tmp_path / "a", remote, 8, keep_checkpoints_num=1, resume=True)
    newest, *_ = await asyncio.to_thread(commits_of, remote, first.trials[0])
    assert newest == "checkpoint_8"
    await run(tmp_path / "a", remote, 9, keep_checkpoints_num=1, resume=True)
    assert await asyncio.to_thread(commits_of, remote, first.trials[0]) == ["checkpoint_9"]


async def test_a_fault_of_one_trial_keeps_no_other_from_being_uploaded(tmp_path):
    remote = tmp_path / "remote"

    class Writes(Counts):
        async def _save(self, directory):
            if self.trial_id.endswith("0"):
                Path(self.logdir, "a\\b").write_text("")  # no object can be called so
            return await super()._save(directory)

    with pytest.raises(
        StorageError, match="cannot be uploaded: no object can have this name"
    ) as raised:
        await run(tmp_path / "a", remote, 2, Writes, num_samples=6)
    trials = raised.value.analysis.trials
    there = [(remote / "x" / trial.trial_id / "result.json").exists() for trial in trials]
    assert there == [True] * 6
    newest = await asyncio.to_thread(lambda: [commits_of(remote, t)[0] for t in trials])
    assert newest == ["checkpoint_2"] * 6


async def test_logs_of_trials_that_had_ended_are_uploaded_by_a_resume_that_begins_to(tmp_path):
    await run(tmp_path / "a", None, 2, checkpoint_freq=0)
    analysis = await run(tmp_path / "a", tmp_path / "remote", 2, resume=True, num_samples=2)
    for trial in analysis.trials:
        assert (tmp_path / "remote" / "x" / trial.trial_id / "result.json").exists()


async def test_fetch_goes_on_behind_a_damaged_record(tmp_path, capsys):
    remote = tmp_path / "remote"
    analysis = await run(tmp_path / "a", remote, 2, num_samples=3, checkpoint_freq=2)
    first = remote / "x" / analysis.trials[0].trial_id / "commits"
    max(first.iterdir()).write_bytes(b"rubbish")
    assert await asyncio.to_thread(main, ["fetch", str(remote / "x"), str(tmp_path / "f")]) == 1
    assert "is no valid record of a checkpoint" in capsys.readouterr().out
    for trial in tune.Analysis(tmp_path / "f").trials[1:]:
        assert Path(trial.logdir, "checkpoint_2").is_dir()


@pytest.mark.parametrize("resume", [False, "AUTO"])
async def test_a_cancelled_start_does_not_wait_for_a_place_that_does_not_answer(
    tmp_path, s3_server, resume
):
    from tcp_proxy import Faults, TcpProxy

    proxy = await asyncio.to_thread(TcpProxy, 1, Faults(frozen=True))
    options = {
        "endpoint": f"http://127.0.0.1:{proxy.port}", "access_key_id": "a", "secret_access_key": "b",
        "region": "us-east-1", "read_timeout_s": 0.5, "operation_timeout_s": 600,
    }  # fmt: skip
    task = asyncio.ensure_future(
        run(tmp_path / "a", "s3://bucket/x", 2, storage_options=options, resume=resume)
    )
    while not proxy.counts["frozen"]:
        await asyncio.sleep(0)
    task.cancel()
    with anyio.fail_after(30), pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(proxy.close)


@pytest.mark.parametrize(
    "where",
    [
        "sftp://me:canary@host/x",
        "https://AK:canary@host/x",
        "file://me:canary@host/x",
        "s3://b/x?key=canary",
    ],
)
async def test_no_message_shows_what_a_url_should_not_have(where):
    with pytest.raises(ConfigError) as raised:
        open_storage(where)
    assert "canary" not in str(raised.value)


async def test_an_upload_to_where_it_is_written_anyway_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"upload_dir must be another place than .*written"):
        await run(tmp_path / "a", tmp_path / "a", 2)
    assert not (tmp_path / "a").exists()


async def test_the_case_of_a_scheme_does_not_matter():
    assert open_storage("S3://bucket/x").url == "s3://bucket/x"


async def test_control_characters_in_keys_are_told_of(s3_server, capfd):
    options = s3_server.options() | {"access_key_id": "someone\n"}
    storage = open_storage("s3://bucket/x", options)
    with pytest.raises(StorageError, match="control characters"):
        await asyncio.to_thread(storage.exists, "k")
    capfd.readouterr()  # obstore's library has printed where it gave up
