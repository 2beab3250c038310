"""A population trains in the real runner: it takes turns, takes over, writes it down, and is replayed."""

from __future__ import annotations

import json
from asyncio import to_thread
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor
from asynctune.experiment import events
from asynctune.schedulers import PB2, PopulationBasedTraining, PopulationBasedTrainingReplay
from asynctune.schedulers.policies import read_policy

pytestmark = pytest.mark.asyncio
INTERVAL = 2
ROWS = 12


class Climber(tune.Trainable):
    """Gains the more the nearer its ``x`` is to 0.8; every step and ``x`` of its state is in ``path``."""

    def _setup(self, config):
        self.score, self.path = 0.0, []

    def _train(self):
        self.score += 1 - (self.config["x"] - 0.8) ** 2
        self.path.append(self.config["x"])
        return {"score": self.score}

    def _save(self, directory):
        return {"score": self.score, "path": self.path}

    def _restore(self, checkpoint):
        self.score, self.path = checkpoint["score"], list(checkpoint["path"])


def make_scheduler(kind):
    common = {"time_attr": "training_iteration", "perturbation_interval": INTERVAL}
    if kind is PB2:
        return PB2(hyperparam_bounds={"x": [0, 1]}, **common)
    return PopulationBasedTraining(hyperparam_mutations={"x": tune.uniform(0, 1)}, **common)


def population(tmp_path, pool, **arguments):
    return {
        "config": {"x": tune.grid_search([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), "data": "kept"},
        "metric": "score", "mode": "max", "stop": {"training_iteration": ROWS}, "seed": 3,
        "checkpoint_at_end": True, "executor": pool, "storage_path": tmp_path, "name": "e", "verbose": 0,
        **arguments,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [PopulationBasedTraining, PB2])
async def test_a_population_larger_than_the_slots_takes_turns_and_takes_over(tmp_path, kind):
    async with (
        InlineExecutor(2) as pool,
        tune.start(
            Climber, **population(tmp_path, pool, scheduler=make_scheduler(kind))
        ) as experiment,
    ):
        seen = [event async for event in experiment.events()]
    added = [i for i, event in enumerate(seen) if isinstance(event, events.TrialAdded)]
    far = [
        i
        for i, event in enumerate(seen)
        if isinstance(event, events.Reported) and event.row["training_iteration"] > 2 * INTERVAL
    ]
    assert added[-1] < far[0], "everybody has had a turn before somebody has had three"
    trials = experiment.trials
    assert {trial.status for trial in trials} == {"TERMINATED"}
    assert all(trial.last_result["training_iteration"] == ROWS for trial in trials)
    assert {trial.config["data"] for trial in trials} == {"kept"}
    changed = [trial for trial in trials if trial.lineage]
    assert changed
    assert all(0 <= trial.config["x"] <= 1 for trial in trials)
    for trial in changed:
        assert trial.lineage[-1].donor != trial.trial_id
    whole = await to_thread(read_policy, tmp_path / "e" / "pbt_global.txt")
    assert len(whole) == sum(len(trial.lineage) for trial in trials)


async def test_what_a_trial_went_through_is_replayed_from_its_policy_file(tmp_path):
    async with InlineExecutor(2) as pool:
        scheduler = make_scheduler(PopulationBasedTraining)
        analysis = await tune.run(Climber, **population(tmp_path, pool, scheduler=scheduler))
        changed = [trial for trial in analysis.trials if trial.lineage]
        assert changed
        for trial in changed:
            path = tmp_path / "e" / f"pbt_policy_{trial.trial_id}.txt"
            replay = await to_thread(PopulationBasedTrainingReplay, path)
            again = await tune.run(
                Climber, config=replay.config, scheduler=replay, stop={"training_iteration": ROWS},
                executor=pool, storage_path=tmp_path, name=f"again-{trial.trial_id}", verbose=0,
            )  # fmt: skip
            (copy,) = again.trials
            assert copy.last_result["score"] == pytest.approx(trial.last_result["score"])
            assert copy.config == trial.config
            params = json.loads(Path(copy.logdir, "params.json").read_text())
            assert params == trial.config


async def test_no_policy_files_are_written_if_none_are_wanted(tmp_path):
    scheduler = PopulationBasedTraining(
        "training_iteration", perturbation_interval=INTERVAL, hyperparam_mutations={"x": [0.1, 0.9]},
        log_config=False,
    )  # fmt: skip
    async with InlineExecutor(2) as pool:
        analysis = await tune.run(Climber, **population(tmp_path, pool, scheduler=scheduler))
    assert any(trial.lineage for trial in analysis.trials)
    assert not list((tmp_path / "e").glob("pbt_*"))


async def test_a_replay_of_several_trials_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text('["t", "d", 2, 2, {"x": 0.1}, {"x": 0.2}]\n')
    replay = await to_thread(PopulationBasedTrainingReplay, path)
    async with InlineExecutor(1) as pool:
        with pytest.raises(tune.TuneError, match="one trial, but the run has a second one"):
            await tune.run(
                Climber, config={"x": 0.1}, num_samples=2, executor=pool, verbose=0,
                scheduler=replay, stop={"training_iteration": 3},
                storage_path=tmp_path,
            )  # fmt: skip
