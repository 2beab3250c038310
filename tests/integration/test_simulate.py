"""Whole runs on a table of curves: the rows of a real run, at the times that the table says."""

from __future__ import annotations

import asyncio
import heapq
import os
import random
import tempfile
from pathlib import Path

import anyio
import pytest

import asynctune as tune
from asynctune import simulate
from asynctune.executors import InlineExecutor
from asynctune.schedulers import Exploit, TrialScheduler
from asynctune.simulate import Curve, Curves, SimulatedExecutor

STEPS = 5
GOAL = {"metric": "loss", "mode": "min"}


@pytest.fixture(scope="module")
def curves():
    """Eight curves; each step of curve n takes n + 1 seconds."""
    table = []
    for number in range(8):
        losses = [number + 1 / (step + 1) for step in range(STEPS)]
        table.append(Curve({"lr": 0.1 * (number + 1)}, [number + 1.0] * STEPS, {"loss": losses}))
    return Curves(table)


def simulated(curves, **arguments):
    return simulate.run(simulate.tune(curves, **GOAL, **arguments))


def without_ids(row):
    left_out = {"trial_id", "experiment_id", "experiment_tag"}
    return {key: value for key, value in row.items() if key not in left_out}


def test_the_rows_are_those_of_a_real_run_with_the_times_of_the_table(curves, tmp_path):
    async def real():
        async with InlineExecutor() as pool:
            analysis = await tune.run(
                curves.trainable, config=curves.space("grid"), executor=pool, verbose=0, **GOAL
            )
            return [row for trial in analysis.trials for row in trial.results]

    def keyed(rows):
        return {(row["config"]["curve"], row["training_iteration"]): row for row in rows}

    there = keyed(asyncio.run(real()))
    here = keyed(simulated(curves, config=curves.space("grid")).rows)
    assert len(here) == 8 * STEPS
    assert here.keys() == there.keys()
    machine = {"trial_id", "experiment_id", "date", "timestamp", "pid", "hostname", "node_ip"}
    for key, row in here.items():
        assert row.keys() - there[key].keys() == {"simulated_s"}
        assert there[key].keys() - row.keys() == set()
        for name in there[key].keys() - machine:
            assert row[name] == there[key][name], name


def test_the_times_are_those_of_as_many_workers_as_there_are(curves):
    found = simulated(curves, workers=3, config=curves.space("grid"))
    free, ends = [0.0] * 3, {}
    for number in range(8):
        ends[number] = heapq.heappop(free) + (number + 1) * STEPS
        heapq.heappush(free, ends[number])
    last = {row["config"]["curve"]: row["simulated_s"] for row in found.rows}
    assert last == ends
    assert found.seconds == max(ends.values())
    assert [row["simulated_s"] for row in found.rows] == sorted(
        row["simulated_s"] for row in found.rows
    )
    assert all(row["timestamp"] == int(row["simulated_s"]) for row in found.rows)


def test_two_runs_of_the_same_seed_are_the_same_to_the_last_row(curves):
    arguments = {"num_samples": 30, "seed": 5, "config": curves.space("domains")}
    one, other = (simulated(curves, **arguments) for _ in range(2))
    assert [without_ids(row) for row in one.rows] == [without_ids(row) for row in other.rows]
    assert one.seconds == other.seconds
    different = simulated(curves, **arguments | {"seed": 6})
    assert [without_ids(row) for row in different.rows] != [without_ids(row) for row in one.rows]


def test_building_saving_and_restoring_take_the_time_that_they_are_given(curves):
    config = {"curve": 0}
    plain = simulated(curves, config=config)
    slow = simulated(curves, config=config, setup_s=100, save_s=10, checkpoint_freq=2)
    assert slow.seconds == plain.seconds + 100 + 2 * 10


class Takeover(TrialScheduler):
    """Saves the donor at its third step, and lets the other go on from there at its own second one."""

    needs_checkpoints = True

    def __init__(self):
        super().__init__()
        self.saved = False

    def on_trial_result(self, trial, result):
        step = result["training_iteration"]
        if trial.config["curve"] == 0 and step == 3:
            self.saved = True
            return self.SAVE
        if trial.config["curve"] == 3 and self.saved and len(trial.lineage) == 0:
            donor = trial.trial_id.replace("00001", "00000")
            return Exploit(donor, {"curve": 2})
        return self.CONTINUE


def test_a_trial_goes_on_from_the_checkpoint_of_another_on_its_own_curve(curves):
    config = {"curve": tune.grid_search([0, 3])}
    found = simulated(curves, config=config, scheduler=Takeover(), restore_s=7)
    steps = [
        (row["config"]["curve"], row["training_iteration"], row["loss"], row["simulated_s"])
        for row in found.rows
        if row["trial_id"].endswith("00001")
    ]
    assert steps == [
        (3, 1, 4.0, 4.0),
        (2, 4, 2.25, 4.0 + 7 + 3),
        (2, 5, 2.2, 4.0 + 7 + 6),
    ]


def test_a_paused_trial_goes_on_where_it_was(curves, tmp_path):
    async def main():
        pool = SimulatedExecutor(curves, 1, restore_s=1)
        async with pool, tune.start(
            curves.trainable, config={"curve": 1}, executor=pool, loggers=[], verbose=0,
            storage_path=tmp_path,
        ) as experiment:  # fmt: skip
            rows = []
            async for row in experiment:
                rows.append((row["training_iteration"], row["simulated_s"]))
                if row["training_iteration"] == 2:
                    experiment.trials[0].pause()
                    await anyio.sleep(50)
                    experiment.trials[0].resume()
            return rows

    # It was told when its third step was under way.
    assert simulate.run(main) == [(1, 2), (2, 4), (3, 6), (4, 57), (5, 59)]


def test_a_budget_of_time_is_one_of_simulated_time(curves):
    found = simulated(curves, workers=1, config={"curve": 3}, num_samples=-1, time_budget_s=50)
    assert found.seconds == pytest.approx(50, abs=4)
    assert {trial.stop_reason for trial in found.analysis.trials[:-1]} == {"done"}
    assert found.analysis.trials[-1].stop_reason == "time budget"


def test_a_limit_of_a_step_is_one_of_simulated_time(curves):
    with pytest.raises(tune.TrialTimeout, match=r"step_timeout_s=3\.5"):
        simulated(curves, config={"curve": 3}, step_timeout_s=3.5)


def test_an_actor_alone_is_a_trainable_in_memory(curves):
    async def main():
        pool = SimulatedExecutor(curves)
        async with pool, pool.actor(curves.trainable, {"curve": 1}) as actor:
            await actor.train()
            state = await actor.save_to_object()
            path = await actor.save()
            again = await actor.save()
            second = await actor.train()
            await actor.restore(path)
            assert (await actor.train())["loss"] == second["loss"]
            await actor.restore_from_object(state)
            assert (await actor.train())["loss"] == second["loss"]
            assert again != path, "two checkpoints of one step are two"
            assert not os.path.exists(path)
            await actor.delete_checkpoint(path)
            with pytest.raises(tune.TrialError, match="no checkpoint of this executor"):
                await actor.restore(path)
            assert await actor.reset_config({"curve": 2})
            assert await actor.get_config() == {"curve": 2}
            assert (await actor.train())["loss"] == 3.0
            assert await actor.export_model("model") == {}

    simulate.run(main)


def test_in_an_ordinary_loop_it_takes_the_time_that_the_table_says():
    async def main():
        pool = SimulatedExecutor(curves)
        async with pool, pool.actor(curves.trainable) as actor:
            began = asyncio.get_running_loop().time()
            await actor.train()
            return asyncio.get_running_loop().time() - began

    curves = Curves([Curve({}, [0.03], {"loss": [1.0]})])
    assert asyncio.run(main()) >= 0.03


def test_another_trainable_is_refused(curves):
    async def main(trainable):
        async with SimulatedExecutor(curves) as pool:
            await tune.run(trainable, executor=pool, verbose=0)

    other = Curves([Curve({}, [1.0], {"loss": [1.0]})])
    for wrong in (lambda config: None, other.trainable):
        with pytest.raises(tune.ConfigError, match=r"pass curves\.trainable"):
            simulate.run(main, wrong)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("curves", {}), ("workers", 0), ("workers", 1.5), ("workers", True), ("setup_s", -1),
        ("save_s", "x"), ("restore_s", float("nan")), ("restore_s", True),
    ],
)  # fmt: skip
def test_each_wrong_argument_is_refused_by_name(curves, argument, value):
    given = {"curves": curves} | {argument: value}
    with pytest.raises(tune.ConfigError, match=f"^{argument} of SimulatedExecutor must be "):
        SimulatedExecutor(**given)


def test_a_configuration_without_a_curve_fails_its_trial_by_name(curves):
    with pytest.raises(tune.TrialError, match=r"config has no 'lr'"):
        simulated(curves, config={"momentum": 1})


def test_nothing_is_left_on_the_disk(curves, tmp_path, monkeypatch, results_dir):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    simulated(curves, num_samples=3)
    with pytest.raises(tune.ConfigError):
        simulated(curves, num_samples="x")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not results_dir.exists()


def test_with_a_folder_of_results_they_are_there_afterwards(curves, tmp_path):
    found = simulated(curves, num_samples=3, storage_path=tmp_path, name="kept")
    assert Path(found.analysis.path) == tmp_path / "kept"
    read = tune.Analysis(tmp_path / "kept")
    assert sum(len(trial.results) for trial in read.trials) == len(found.rows) == 3 * STEPS


def test_loggers_are_waited_for_and_not_cut(curves, tmp_path):
    found = simulated(
        curves, num_samples=3, storage_path=tmp_path, loggers=[tune.loggers.CSVLogger]
    )
    for trial in found.analysis.trials:
        lines = Path(trial.logdir, "progress.csv").read_text().splitlines()
        assert len(lines) == 1 + STEPS


def test_thousands_of_simulated_hours_pass():
    rng = random.Random(3)
    table = [
        Curve({"n": n}, [rng.uniform(1, 20) * 3600] * 4, {"loss": [rng.random()] * 4})
        for n in range(10)
    ]
    found = simulated(Curves(table), workers=8, num_samples=100)
    assert found.seconds * 8 > 1000 * 3600


def test_the_public_names_are_documented():
    text = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text()
    for name in simulate.__all__:
        assert name in text, name
