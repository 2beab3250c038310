"""Experiments that are kept in a storage, and go on from there on another machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import uuid
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.cli.main import main
from asynctune.errors import (
    ConfigError,
    ExperimentCorrupt,
    ExperimentLocked,
    StorageDenied,
    StorageError,
    TrialError,
)
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader, record
from asynctune.experiment.remote.journal import RemoteJournal
from asynctune.schedulers import PopulationBasedTraining
from asynctune.storage import FsspecStorage, LocalStorage, open_storage
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.records import Writer

pytestmark = pytest.mark.asyncio


class Counts(tune.Trainable):
    """Counts; where it began is told."""

    async def _setup(self, config):
        self.n = self.began = 0

    async def _train(self):
        self.n += 1
        return {"n": self.n, "began": self.began, "x": self.config["x"]}

    async def _save(self, directory):
        Path(directory, "n").write_text(str(self.n))
        Path(directory, "more").mkdir()
        Path(directory, "more", "again").write_text(str(self.n) * 100)
        return directory

    async def _restore(self, checkpoint):
        self.n = self.began = int(Path(checkpoint, "n").read_text())


class Durable(tune.DurableTrainable):
    def _setup(self, config):
        self.n = self.began = 0
        assert "trial" not in config
        assert self.storage_client.url == self.remote_checkpoint_dir

    def _train(self):
        self.n += 1
        return {
            "n": self.n, "began": self.began, "x": self.config["x"], "remote": self.remote_checkpoint_dir,
        }  # fmt: skip

    def _save(self, directory):
        return {"n": self.n}

    def _restore(self, checkpoint):
        self.n = self.began = checkpoint["n"]


async def run(place, remote, until, trainable=Counts, **arguments):
    given = {
        "name": "far", "verbose": 0, "grace_s": 2, "checkpoint_freq": 2, "num_samples": 2,
        "config": {"x": tune.uniform(0, 1)}, "stop": {"n": until}, "upload_dir": remote,
        "storage_path": place, "upload_interval_s": 0.2,
    }  # fmt: skip
    executor = ProcessExecutor(2) if trainable is Durable else InlineExecutor(2)
    async with executor as pool:
        return await tune.run(trainable, executor=pool, **given | arguments)


async def run_in_steps(place, until, trainable=Counts, **arguments):
    """Run and go on, so that each checkpoint is the last of a run, and none is passed over."""
    for number, step in enumerate(until):
        analysis = await run(place, None, step, trainable, resume=bool(number), **arguments)
    return analysis


@pytest.fixture(
    params=["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "fsspec"))]
)
def remote(request, tmp_path, s3_server):
    """A place, and the options that reach it."""
    if request.param == "local":
        return {"upload_dir": str(tmp_path / "remote")}
    if request.param == "fsspec":
        import fsspec

        filesystem = fsspec.filesystem("file", auto_mkdir=True)
        place = FsspecStorage(filesystem, str(tmp_path / "remote"), single_writer=True)
        return {"upload_dir": place}
    url = f"s3://bucket/{uuid.uuid4().hex}"
    return {"upload_dir": url, "storage_options": s3_server.options()}


def opened(remote):
    return open_storage(remote["upload_dir"], remote.get("storage_options"))


def lines(analysis):
    return {trial.trial_id: [row["n"] for row in trial.results] for trial in analysis.trials}


@pytest.mark.parametrize("trainable", [Counts, Durable])
async def test_it_goes_on_from_the_remote_side_alone(tmp_path, remote, trainable):
    first = await run(tmp_path / "a", None, 5, trainable, **remote)
    second = await run(tmp_path / "b", None, 9, trainable, resume=True, **remote)
    assert [t.trial_id for t in second.trials] == [t.trial_id for t in first.trials]
    assert [t.config for t in second.trials] == [t.config for t in first.trials]
    assert set(map(tuple, lines(second).values())) == {tuple(range(1, 10))}
    for trial in second.trials:
        assert trial.last_result["began"] == 4, "it went on from its last commit"
        logged = Path(trial.logdir, "result.json").read_text().splitlines()
        assert [json.loads(line)["n"] for line in logged] == list(range(1, 10))
    if trainable is Durable:
        url = opened(remote).below("far").url
        assert {t.last_result["remote"] for t in second.trials} == {
            f"{url}/{t.trial_id}" for t in second.trials
        }


async def test_all_that_was_logged_lies_there(tmp_path, remote):
    analysis = await run(tmp_path / "a", None, 4, keep_checkpoints_num=1, **remote)
    await asyncio.to_thread(check_files, analysis, opened(remote).below("far"))


def check_files(analysis, place):
    for trial in analysis.trials:
        own = place.below(trial.trial_id)
        for name in ("result.json", "progress.csv", "params.json"):
            assert own.read(name, limit=10**6) == Path(trial.logdir, name).read_bytes()
        commits = [commit.name for commit in Commits(own).newest_first()]
        assert commits == ["checkpoint_4"], "what is not kept here is not kept there"
        assert [e.key for e in own.list("checkpoint_2/")] == []


@pytest.mark.parametrize("trainable", [Counts, Durable])
async def test_what_the_journal_names_and_nobody_has_falls_back_to_what_there_is(
    tmp_path, remote, trainable, caplog
):
    """As when a driver dies before it has uploaded the newest checkpoint, and deleted the one before."""
    first = await run_in_steps(tmp_path / "a", (4, 6), trainable, keep_checkpoints_num=2, **remote)
    await asyncio.to_thread(forget, first, opened(remote).below("far"), "checkpoint_6", runs=2)
    second = await run(tmp_path / "b", None, 8, trainable, resume=True, **remote)
    for trial in second.trials:
        assert trial.last_result["began"] == 4
        assert lines(second)[trial.trial_id] == list(range(1, 9))


def forget(analysis, place, *names, runs=1):
    """Delete what the last of so many runs has committed, if it was not passed over."""
    for trial in analysis.trials:
        for name in names:
            writer = Writer(epoch=runs - 1, attempt=runs - 1)
            Commits(place.below(trial.trial_id), writer).delete(name)


async def test_a_checkpoint_that_the_journal_had_dropped_counts_again(tmp_path, remote, caplog):
    first = await run_in_steps(tmp_path / "a", (4, 6), **remote)
    place = opened(remote).below("far")
    await asyncio.to_thread(forget, first, place, "checkpoint_6", runs=2)
    await asyncio.to_thread(drop_the_older, first, tmp_path / "a" / "far" / "journal", place)
    second = await run(tmp_path / "b", None, 8, resume=True, **remote)
    assert {t.last_result["began"] for t in second.trials} == {4}
    assert set(map(tuple, lines(second).values())) == {tuple(range(1, 9))}
    assert "was not uploaded before its driver died" in caplog.text


def drop_the_older(first, journal, place):
    # The journal there says of all but the newest that nothing needs them.
    dropped = [
        ev.CheckpointDropped(t.trial_id, f"{t.trial_id}/checkpoint_{n}/")
        for t in first.trials
        for n in (2, 4)
    ]
    segments = RemoteJournal(place)
    segments.download(journal)
    segments.begin(2)
    data = b"".join(record(ev.encode(event, None)) for event in dropped)
    with journal.open("ab") as file:
        file.write(data)
    segments.append(data)


async def test_without_any_checkpoint_there_a_trial_begins_again_and_says_so(
    tmp_path, remote, caplog
):
    first = await run(tmp_path / "a", None, 5, **remote)
    place = opened(remote).below("far")
    await asyncio.to_thread(forget, first, place, "checkpoint_2", "checkpoint_4")
    await asyncio.to_thread(cut_the_ends, tmp_path / "a" / "far" / "journal", place)
    second = await run(tmp_path / "b", None, 7, resume=True, **remote)
    assert {t.last_result["began"] for t in second.trials} == {0}
    assert set(map(tuple, lines(second).values())) == {tuple(range(1, 8))}
    assert "was not uploaded before its driver died" in caplog.text


def cut_the_ends(journal, place):
    """Leave of the remote journal what a driver had written that was killed before any trial ended."""
    kept = b""
    with journal.open("rb") as file:
        for position, event in JournalReader(journal).events():
            if not isinstance(event, ev.TrialEnded | ev.RunEnded):
                kept += record(JournalReader.read_record(file, position))
    place.delete([entry.key for entry in place.list("journal/")])
    segments = RemoteJournal(place)
    segments.begin(0)
    segments.append(kept)


async def test_the_local_side_goes_on_if_it_knows_more(tmp_path, remote):
    await run(tmp_path / "a", None, 4, **remote)
    place = opened(remote).below("far")

    def lose_the_last():  # as if its driver had died before the last segment
        place.delete([max(entry.key for entry in place.list("journal/"))])

    await asyncio.to_thread(lose_the_last)
    second = await run(tmp_path / "a", None, 6, resume=True, **remote)
    third = await run(tmp_path / "b", None, 7, resume=True, **remote)
    assert set(map(tuple, lines(second).values())) == {tuple(range(1, 7))}
    assert set(map(tuple, lines(third).values())) == {tuple(range(1, 8))}


async def test_it_goes_back_and_forth_between_two_machines(tmp_path, remote):
    for until, machine in ((2, "a"), (4, "b"), (6, "a"), (8, "b"), (9, "a")):
        analysis = await run(tmp_path / machine, None, until, resume="AUTO", **remote)
        assert set(map(tuple, lines(analysis).values())) == {tuple(range(1, until + 1))}


async def test_two_ways_of_one_experiment_are_not_mixed(tmp_path, remote):
    await run(tmp_path / "a", None, 2, **remote)
    await run(tmp_path / "b", None, 4, resume=True, **remote)
    await run(tmp_path / "a", None, 4, resume=True, upload_dir=None)
    with pytest.raises(ExperimentCorrupt, match=r"two continuations.*move"):
        await run(tmp_path / "a", None, 5, resume=True, **remote)


async def test_a_name_that_is_taken_there_is_an_error(tmp_path, remote):
    await run(tmp_path / "a", None, 2, **remote)
    with pytest.raises(ConfigError, match="exists"):
        await run(tmp_path / "b", None, 2, **remote)
    with pytest.raises(ConfigError, match="no experiment"):
        await run(tmp_path / "b", None, 2, name="other", resume=True, **remote)


async def test_an_experiment_that_began_here_is_uploaded_whole_when_it_is_resumed(tmp_path, remote):
    await run(tmp_path / "a", None, 4, upload_dir=None)
    await run(tmp_path / "a", None, 6, resume=True, **remote)
    analysis = await run(tmp_path / "b", None, 7, resume=True, **remote)
    assert set(map(tuple, lines(analysis).values())) == {tuple(range(1, 8))}
    assert {t.last_result["began"] for t in analysis.trials} == {6}


@pytest.mark.parametrize("trainable", [Counts, Durable])
async def test_a_population_goes_on_from_there(tmp_path, remote, trainable):
    def population():
        return PopulationBasedTraining(
            time_attr="training_iteration", perturbation_interval=2, metric="x", mode="max",
            hyperparam_mutations={"x": tune.uniform(0, 1)}, quantile_fraction=0.5,
        )  # fmt: skip

    given = {"stop": {"training_iteration": 6}, "checkpoint_freq": 0, "checkpoint_at_end": True}
    await run(tmp_path / "a", None, 0, trainable, scheduler=population(), **given, **remote)
    given["stop"] = {"training_iteration": 10}
    second = await run(
        tmp_path / "b", None, 0, trainable, scheduler=population(), resume=True, **given, **remote
    )
    for trial in second.trials:
        assert trial.status == "TERMINATED"
        reached = [r["training_iteration"] for r in trial.results]
        # Whoever goes on from a donor that is ahead passes some over.
        assert reached == sorted(set(reached))
        # One that has the weights of a donor that had ended trains once more.
        assert reached[0] == 1
        assert reached[-1] in (10, 11)
    if (
        trainable is Counts
    ):  # two trials on one loop, neither of which is done before the other begins
        assert any(trial.lineage for trial in second.trials)


async def test_of_two_drivers_the_first_is_told_when_another_takes_over(tmp_path, remote):
    if isinstance(remote["upload_dir"], FsspecStorage):
        pytest.skip("whoever passes a filesystem has promised that there is one writer")
    takes_over = asyncio.Event()

    class Endless(Counts):
        async def _train(self):
            await asyncio.sleep(0)  # it is on the loop of everybody
            if self.n == 3:
                await takes_over.wait()
            self.n = min(self.n + 1, 3)
            return {"n": self.n, "began": self.began}

    first = asyncio.ensure_future(
        run(tmp_path / "a", None, 99, Endless, num_samples=1, checkpoint_freq=1, **remote)
    )
    place, second = opened(remote).below("far"), None
    while not await asyncio.to_thread(RemoteJournal(place).exists):
        pass
    while (
        second is None
    ):  # as long as the first one writes, it may be the second who comes too late
        with contextlib.suppress(ExperimentLocked):
            second = await run(tmp_path / "b", None, 3, num_samples=1, resume=True, **remote)
    assert [t.status for t in second.trials] == ["TERMINATED"]
    takes_over.set()
    with pytest.raises(ExperimentLocked, match="took it over") as raised:
        await first
    assert raised.value.pid == os.getpid()


async def test_a_durable_trainable_wants_a_remote_place(tmp_path):
    with pytest.raises(ConfigError, match="upload_dir"):
        await run(tmp_path / "a", None, 2, Durable, upload_dir=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upload_dir": "ftp://x/y"}, "upload_dir: .*must begin with s3://.*got 'ftp://x/y'"),
        ({"upload_dir": 17}, "upload_dir: the location of a storage must be .*got 17"),
        (
            {"upload_dir": None, "storage_options": {"region": "x"}},
            "storage_options must be None without upload_dir",
        ),
        (
            {"storage_path": "s3://bucket/x", "upload_dir": "s3://bucket/y"},
            "upload_dir must be None with",
        ),
        (
            {"upload_dir": None, "storage_path": "s3://"},
            "storage_path: .* form s3://bucket/path, got",
        ),
        ({"upload_interval_s": 0}, "upload_interval_s"),
        ({"storage_options": 3}, "storage_options"),
    ],
)
async def test_wrong_arguments_are_named_before_anything_starts(tmp_path, arguments, message):
    given = {"upload_dir": str(tmp_path / "r"), **arguments}
    with pytest.raises(ConfigError, match=message):
        await run(given.pop("storage_path", tmp_path / "a"), None, 2, **given)
    assert not (tmp_path / "a").exists()


async def test_a_remote_storage_path_is_written_to_the_results_folder_first(results_dir, s3_server):
    url, options = f"s3://bucket/{uuid.uuid4().hex}", s3_server.options()
    analysis = await run(url, None, 2, upload_dir=None, storage_options=options)
    assert analysis.path == str(results_dir / "far")
    assert open_storage(url, options).exists("far/journal/00000002")


async def test_wrong_credentials_end_the_run_before_it_starts(tmp_path, s3_server):
    options = s3_server.options(secret_access_key="wrong")
    with pytest.raises(StorageDenied, match=r"LIST s3://bucket/x/far/journal/ was refused \(403"):
        await run(tmp_path / "a", None, 2, upload_dir="s3://bucket/x", storage_options=options)


class Broken(LocalStorage):
    """Stores journals, and no checkpoints."""

    def upload(self, key, source):
        raise StorageError(f"PUT {key} failed: the server answered 400")


async def test_what_could_not_be_uploaded_is_told_at_the_end_with_all_that_was_achieved(
    tmp_path, caplog
):
    with pytest.raises(StorageError, match="not everything could be uploaded") as raised:
        await run(tmp_path / "a", None, 4, upload_dir=Broken(tmp_path / "remote"))
    assert set(map(tuple, lines(raised.value.analysis).values())) == {(1, 2, 3, 4)}
    assert "training continues" in caplog.text
    again = await run(tmp_path / "a", None, 4, resume=True, upload_dir=str(tmp_path / "remote"))
    place = LocalStorage(tmp_path / "remote" / "far")

    def newest():
        own = (place.below(trial.trial_id) for trial in again.trials)
        return [next(Commits(one).newest_first()).name for one in own]

    assert await asyncio.to_thread(newest) == ["checkpoint_4"] * 2


async def test_a_durable_trial_that_cannot_commit_fails_and_the_others_go_on(tmp_path):
    remote = str(tmp_path / "remote")
    with pytest.raises(TrialError, match="answered 400") as raised:
        async with ProcessExecutor(1) as pool:
            await tune.run(
                FailsOnce, executor=pool, name="far", verbose=0, num_samples=3, checkpoint_freq=1,
                config={"x": tune.grid_search([0])}, stop={"n": 2}, upload_dir=remote,
                storage_path=tmp_path / "a",
            )  # fmt: skip
    statuses = [t.status for t in raised.value.analysis.trials]
    assert statuses == ["ERROR", "TERMINATED", "TERMINATED"]


class FailsOnce(Durable):
    def _save(self, directory):
        if self.trial_id.endswith("00000"):
            self._commits._storage = Broken("nowhere")
        return {"n": self.n}


async def test_the_counts_of_uploads_are_there_at_any_time(tmp_path):
    remote = str(tmp_path / "remote")
    async with InlineExecutor(2) as pool:
        experiment = await tune.start(
            Counts, executor=pool, name="far", verbose=0, num_samples=2, checkpoint_freq=1,
            stop={"n": 3}, config={"x": 1}, upload_dir=remote, storage_path=tmp_path / "a",
        )  # fmt: skip
        await experiment
        stats = experiment.uploads
        assert stats.committed + stats.skipped == 6
        assert (stats.waiting, stats.error) == (0, None)
        assert stats.journal_bytes == os.path.getsize(Path(experiment.path, "journal"))
        assert stats.url in str(stats)
        await experiment.aclose()


async def test_the_command_fetch_brings_all_of_it(tmp_path, remote, s3_server, monkeypatch, capsys):
    if isinstance(remote["upload_dir"], FsspecStorage):
        pytest.skip("a command line names URLs")
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    first = await run(tmp_path / "a", None, 6, keep_checkpoints_num=2, **remote)
    url = f"{remote['upload_dir']}/far"
    assert await asyncio.to_thread(main, ["fetch", url, str(tmp_path / "b")]) == 0
    assert await asyncio.to_thread(main, ["fetch", url, str(tmp_path / "b")]) == 0, "again"
    there = tune.Analysis(tmp_path / "b")
    assert lines(there) == lines(first)
    for trial in there.trials:
        assert Path(trial.checkpoints[-1].path, "n").read_text() == "6"
        assert len(Path(trial.logdir, "result.json").read_text().splitlines()) == 6
    assert await asyncio.to_thread(main, ["fetch", f"{url}-not", str(tmp_path / "c")]) == 1
    assert "no experiment" in capsys.readouterr().err
    with pytest.raises(tune.TuneError, match="asynctune fetch s3://x/y"):
        tune.Analysis("s3://x/y")


class DurableFailsOnce(Durable):
    def _train(self):
        row = super()._train()
        if self.n == 5 and not self.began:
            raise ValueError("planted")
        return row


async def test_a_durable_trial_that_is_tried_again_keeps_and_deletes_as_any(tmp_path, remote):
    analysis = await run(
        tmp_path / "a", None, 9, DurableFailsOnce, max_failures=1, keep_checkpoints_num=1, **remote
    )
    for trial in analysis.trials:
        assert (trial.num_failures, trial.last_result["began"]) == (1, 4)
        own = opened(remote).below("far").below(trial.trial_id)
        names = await asyncio.to_thread(
            lambda own=own: [c.name for c in Commits(own).newest_first()]
        )
        assert names == ["checkpoint_8"]
        assert [Path(c.path).parent.name for c in trial.checkpoints] == names
        assert sorted(d for d in os.listdir(trial.logdir) if d.startswith("checkpoint")) == names


async def test_a_secret_in_the_options_reaches_the_server_and_nothing_else(
    tmp_path, s3_server, monkeypatch
):
    options = s3_server.options()
    canary = options["secret_access_key"]
    monkeypatch.setenv("THE_KEY", canary)
    options["secret_access_key"] = tune.Secret("env:THE_KEY")
    url = f"s3://bucket/{uuid.uuid4().hex}"
    analysis = await run(
        tmp_path / "a", None, 3, Durable, upload_dir=url, storage_options=options, num_samples=1
    )
    assert analysis.trials[0].status == "TERMINATED"

    def found():
        files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
        there = open_storage(url, s3_server.options())
        contents = [path.read_bytes() for path in files]
        contents += [there.read(entry.key, limit=10**7) for entry in list(there.list(""))]
        assert len(contents) > 8
        return [data for data in contents if canary.encode() in data]

    assert await asyncio.to_thread(found) == []
