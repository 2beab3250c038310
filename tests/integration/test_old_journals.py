"""What the build before the modules moved has written is read, gone on with and restored.

``tests/data/make_old_journals.py`` made the files with that build. Beside each experiment, ``<kind>.json``
says what that build itself found in it, and what configurations a whole run draws.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))  # workers find the trainables there, too
old = importlib.import_module("old_trainables")

JOURNALS, PICKLES = DATA / "old_journals", DATA / "old_pickles"
KINDS = sorted(path.name for path in JOURNALS.iterdir() if (path / "journal").is_file())
IN_PROCESSES = ("plain", "function", "durable")
ENDINGS = ("stop criterion", "scheduler")


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv(old.SECRET, "not to be shown")
    return "not to be shown"


class Started(tune.Callback):
    """Notes the trials that are built."""

    def __init__(self):
        self.trial_ids = []

    async def on_trial_start(self, trial):
        self.trial_ids.append(trial.trial_id)


def found_then(name):
    """Return what the old build found in an experiment, trial by trial, and the configurations of all."""
    described = json.loads((JOURNALS / f"{name}.json").read_text())
    return described["trials"], described


def copied(kind, tmp_path):
    """Copy an experiment and its bucket, as it may be moved to another machine."""
    shutil.copytree(JOURNALS / kind, tmp_path / kind)
    if kind == "durable":
        shutil.copytree(JOURNALS / "durable_bucket", tmp_path / "bucket")
    return tmp_path / kind


async def resumed(kind, tmp_path, resume: Any = True, **more):
    """Go on with an experiment; return its analysis, and which trials were built for that."""
    started = Started()
    trainable, arguments = old.arguments(kind)
    if kind == "durable":
        arguments["upload_dir"] = str(tmp_path / "bucket")
    given = {"name": kind, "storage_path": tmp_path, "resume": resume, "callbacks": [started]}
    async with ProcessExecutor(2) if kind in IN_PROCESSES else InlineExecutor(2) as pool:
        analysis = await tune.run(trainable, executor=pool, **arguments | given | more)
    return analysis, started.trial_ids


def as_json(config):
    return json.loads(json.dumps(config, default=repr))


def iterations(rows):
    return [row["training_iteration"] for row in rows]


def has_ended(trial):
    """Tell whether the old build ended a trial by itself, or only did not come to write that down."""
    return trial["stop_reason"] in ENDINGS or trial["num_failures"] > 1


def up_to(rows, iteration):
    return [row for row in rows if row["training_iteration"] <= (iteration or 0)]


def check_ended(before, analysis, started):
    """Those that had ended were not trained again, and are what they were."""
    for trial in analysis.trials:
        was = before.get(trial.trial_id)
        if was is not None and has_ended(was):
            assert trial.trial_id not in started
            assert trial.results == was["rows"]
            assert trial.stop_reason == was["stop_reason"]


def check_rows(before, analysis):
    """What was written before is there: all up to the checkpoint as it was, the rest in value."""
    now = {trial.trial_id: trial for trial in analysis.trials}
    assert list(before) == list(now)[: len(before)]
    for trial_id, was in before.items():
        rows = now[trial_id].results
        assert as_json(now[trial_id].initial_config) == was["initial_config"]
        kept = up_to(was["rows"], was["checkpoint"])
        assert rows[: len(kept)] == kept
        assert len(rows) >= len(was["rows"])
        if not was["donors"]:  # else it may go on with what it takes over next
            values = [(row["training_iteration"], row["total"]) for row in was["rows"]]
            again = [(row["training_iteration"], row["total"]) for row in rows]
            assert again[: len(values)] == values


def check_goes_on(before, analysis, started):
    """Those that were built again began from their checkpoints; return how many."""
    count = 0
    for trial in analysis.trials:
        was = before.get(trial.trial_id)
        if trial.trial_id not in started or was is None or not was["checkpoint"]:
            continue
        count += 1
        kept = up_to(was["rows"], was["checkpoint"])
        rows = trial.results[len(kept) :]
        assert rows, f"{trial.name} was built for nothing"
        assert rows[0]["iterations_since_restore"] == 1
        assert rows[0]["training_iteration"] == was["checkpoint"] + 1
        # Only a checkpoint carries these; a trial that begins anew has others.
        assert rows[0]["token"] == kept[-1]["token"]
        assert rows[0]["trained"] == kept[-1]["trained"] + 1
        assert rows[0]["total"] == kept[-1]["total"] + trial.config["x"]
    return count


def check_logs(analysis):
    for trial in analysis.trials:
        lines = Path(trial.logdir, "result.json").read_text().splitlines()
        assert iterations(map(json.loads, lines)) == iterations(trial.results)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_experiment_is_read_as_the_build_that_wrote_it_read_it(tmp_path, kind):
    before, _ = found_then(kind)
    analysis = tune.Analysis(copied(kind, tmp_path))
    assert [trial.trial_id for trial in analysis.trials] == list(before)
    for trial in analysis.trials:
        was = before[trial.trial_id]
        assert (trial.index, trial.name, trial.num_failures) == (
            was["index"], was["name"], was["num_failures"],
        )  # fmt: skip
        assert (trial.status, trial.stop_reason) == (was["status"], was["stop_reason"])
        assert as_json(trial.config) == was["config"]
        assert trial.results == was["rows"]
        assert (trial.checkpoint and trial.checkpoint.iteration) == was["checkpoint"]
        assert trial.checkpoint is None or Path(trial.checkpoint.path).exists()
        assert [descent.donor for descent in trial.lineage] == was["donors"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("failed", "pbt")])
@pytest.mark.asyncio
async def test_an_old_experiment_goes_on_from_its_checkpoints_and_loses_no_row(tmp_path, kind):
    copied(kind, tmp_path)
    before, described = found_then(kind)
    analysis, started = await resumed(kind, tmp_path)
    assert {trial.status for trial in analysis.trials} == {"TERMINATED"}
    assert {trial.stop_reason for trial in analysis.trials} <= set(ENDINGS)
    for trial in analysis.trials:
        assert iterations(trial.results) == list(range(1, trial.num_results + 1))
    check_ended(before, analysis, started)
    check_rows(before, analysis)
    assert check_goes_on(before, analysis, started) > 0
    check_logs(analysis)
    if kind != "optuna" or importlib.metadata.version("optuna") == described["optuna"]:
        # Those that had still to be drawn are the ones that a single run would have drawn.
        drawn = [as_json(trial.initial_config) for trial in analysis.trials]
        assert drawn == described["configs"]
    assert len(analysis.trials) == len(described["configs"])
    assert not list((tmp_path / kind).rglob(".tmp-*")), "what the old driver left half written"


@pytest.mark.asyncio
async def test_an_old_experiment_that_has_come_to_its_end_trains_nothing_again(tmp_path):
    copied("plain", tmp_path)
    first, _ = await resumed("plain", tmp_path)
    again, started = await resumed("plain", tmp_path)
    assert started == []
    assert [trial.results for trial in again.trials] == [trial.results for trial in first.trials]


@pytest.mark.asyncio
async def test_bounds_of_an_old_experiment_are_raised_and_its_ended_trials_go_on(tmp_path):
    copied("cancelled", tmp_path)
    before, _ = found_then("cancelled")
    analysis, started = await resumed("cancelled", tmp_path, stop={"training_iteration": 8})
    assert {tuple(iterations(trial.results)) for trial in analysis.trials} == {tuple(range(1, 9))}
    assert sorted(set(started)) == sorted(trial.trial_id for trial in analysis.trials)
    check_rows(before, analysis)
    assert check_goes_on(before, analysis, started) == len(before)


@pytest.mark.asyncio
async def test_another_space_than_the_old_one_is_refused(tmp_path):
    copied("plain", tmp_path)
    with pytest.raises(tune.SpecMismatch, match=r"config\['x'\] was Uniform"):
        await resumed("plain", tmp_path, config={"x": tune.uniform(0, 2), "kind": "plain"})


@pytest.mark.asyncio
async def test_secrets_in_an_old_configuration_and_checkpoint_are_resolved_and_not_shown(
    tmp_path, secret
):
    copied("cancelled", tmp_path)
    before, _ = found_then("cancelled")
    analysis, _ = await resumed("cancelled", tmp_path)
    last = [trial.last_result for trial in analysis.trials]
    saved = [row["saved_config"]["key"] for row in last if "saved_config" in row]
    assert len(saved) == sum(not has_ended(was) for was in before.values())
    assert set(saved) == {f"Secret('env:{old.SECRET}')"}
    for path in (tmp_path / "cancelled").rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()


@pytest.mark.asyncio
async def test_trials_that_failed_in_the_old_build_are_final_until_they_are_asked_for(tmp_path):
    copied("failed", tmp_path)
    before, _ = found_then("failed")
    given = {"num_samples": len(before)}
    with pytest.raises(tune.TrialError, match="it was to fail here") as caught:
        await resumed("failed", tmp_path, **given)
    analysis = caught.value.analysis
    assert [trial.results for trial in analysis.trials] == [was["rows"] for was in before.values()]
    analysis, started = await resumed("failed", tmp_path, resume="errored", **given)
    assert {trial.status for trial in analysis.trials} == {"TERMINATED"}
    check_rows(before, analysis)
    assert check_goes_on(before, analysis, started) == len(before)
    check_logs(analysis)
    for trial in analysis.trials:
        assert (trial.num_failures, trial.num_forgiven, trial.error) == (2, 2, None)
        assert Path(trial.logdir, "error.txt").read_text().count("Traceback") == 2


@pytest.mark.asyncio
async def test_an_old_population_goes_on_and_nobody_in_it_begins_again(tmp_path):
    copied("pbt", tmp_path)
    before, described = found_then("pbt")
    analysis, _ = await resumed("pbt", tmp_path)
    tokens = {row["token"] for was in before.values() for row in was["rows"]}
    assert len(analysis.trials) == len(described["configs"])
    exploits = 0
    for trial in analysis.trials:
        was = before[trial.trial_id]
        assert trial.status == "TERMINATED"
        # One may take over a state that has come as far, and trains once more from there.
        assert trial.results[-1]["training_iteration"] >= 9
        assert as_json(trial.initial_config) == was["initial_config"]
        assert [descent.donor for descent in trial.lineage][: len(was["donors"])] == was["donors"]
        kept = up_to(was["rows"], was["checkpoint"])
        assert trial.results[: len(kept)] == kept
        assert {row["token"] for row in trial.results} <= tokens, "a state that nobody had"
        exploits += len(trial.lineage)
    global_file = tmp_path / "pbt" / "pbt_global.txt"
    assert len(global_file.read_text().splitlines()) == exploits
    assert global_file.read_text().startswith((JOURNALS / "pbt" / "pbt_global.txt").read_text())
    check_logs(analysis)


@pytest.mark.asyncio
async def test_an_old_bucket_alone_is_enough_to_go_on(tmp_path):
    shutil.copytree(JOURNALS / "durable_bucket", tmp_path / "bucket")
    before, _ = found_then("durable_bucket")
    analysis, started = await resumed("durable", tmp_path)
    assert {trial.status for trial in analysis.trials} == {"TERMINATED"}
    check_ended(before, analysis, started)
    check_rows(before, analysis)
    assert check_goes_on(before, analysis, started) > 0
    check_logs(analysis)


# -- checkpoints alone ----------------------------------------------------------------------------


def newest(kind):
    """Return the newest checkpoint of the first trial of a kind, and its row."""
    (trial_id, was) = next(iter(found_then(kind)[0].items()))
    (row,) = (row for row in was["rows"] if row["training_iteration"] == was["checkpoint"])
    return trial_id, f"checkpoint_{was['checkpoint']}", row


@pytest.mark.parametrize(("kind", "inner"), [("plain", ""), ("pbt", "checkpoint")])
def test_an_old_checkpoint_is_restored_by_a_trainable_alone(tmp_path, kind, inner):
    trial_id, name, row = newest(kind)
    shutil.copytree(JOURNALS / kind / trial_id / name, tmp_path / name)
    trainable = (old.Sums if kind == "plain" else SyncDictSums)({"x": 0.25})
    try:
        trainable.restore(str(tmp_path / name / inner))
        after = trainable.train()
    finally:
        trainable.stop()
    assert after["token"] == row["token"]
    assert after["total"] == row["total"] + 0.25
    assert after["training_iteration"] == row["training_iteration"] + 1
    assert after["time_total_s"] >= row["time_total_s"]


class SyncDictSums(old.DictSums):
    def _train(self):
        return old.Sums._train(self)


def test_an_old_commit_in_a_bucket_is_restored_where_the_disk_is_empty(tmp_path):
    trial_id, name, row = newest("durable")
    shutil.copytree(JOURNALS / "durable_bucket" / "durable" / trial_id, tmp_path / "bucket")
    trainable = old.DurableSums(str(tmp_path / "bucket"), {"x": 0.25})
    try:
        (path,) = (path for path in trainable.commits() if Path(path).name == name)
        trainable.restore(path)
        after = trainable.train()
    finally:
        trainable.stop()
    assert (after["token"], after["trained"]) == (row["token"], row["trained"] + 1)


@pytest.mark.asyncio
async def test_a_new_experiment_begins_from_an_old_checkpoint(tmp_path):
    trial_id, name, row = newest("plain")
    shutil.copytree(JOURNALS / "plain" / trial_id / name, tmp_path / name)
    given = {"restore": tmp_path / name, "stop": {"training_iteration": 8}}
    analysis, _ = await resumed("plain", tmp_path, resume=False, **given)
    for trial in analysis.trials:
        assert iterations(trial.results) == [7, 8]
        assert {result["token"] for result in trial.results} == {row["token"]}


# -- pickles --------------------------------------------------------------------------------------


def unpickled(name):
    return pickle.loads((PICKLES / f"{name}.pickle").read_bytes())


def test_pickled_resources_load():
    resources = unpickled("resources")
    assert type(resources) is tune.Resources
    assert resources == tune.Resources(2, 0.5, 1, 1, {"license": 3})


def test_a_pickled_secret_loads():
    loaded = unpickled("secret")
    assert loaded == {"key": tune.Secret("env:X"), "lr": 0.1}
    assert type(loaded["key"]) is tune.Secret


def test_a_pickled_configuration_whose_secret_was_resolved_resolves_it_again(monkeypatch, secret):
    loaded = unpickled("resolved_secret")
    assert loaded == {"key": secret, "lr": 0.1}
    assert repr(loaded["key"]) == f"Secret('env:{old.SECRET}')"
    monkeypatch.delenv(old.SECRET)
    assert unpickled("resolved_secret")["key"] == tune.Secret(f"env:{old.SECRET}")


def test_pickled_errors_load():
    errors = [
        tune.ConfigError("a"), tune.TrialError("b", trial_id="1"), tune.TrialTimeout("c", trial_id="2"),
        tune.StorageError("d"), tune.CheckpointCorrupt("e"), tune.NotSerializable("f"),
    ]  # fmt: skip
    loaded = unpickled("errors")
    assert [type(error) for error in loaded] == [type(error) for error in errors]
    assert [str(error) for error in loaded] == [str(error) for error in errors]
