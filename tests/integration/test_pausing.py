"""Trials that pause, go on and begin from each other, in every kind of executor and trainable."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.experiment import events
from asynctune.schedulers import Exploit, TrialScheduler

pytestmark = pytest.mark.asyncio
EXECUTORS = [InlineExecutor, ProcessExecutor]


class Adds(tune.Trainable):
    """Adds its ``x`` up; says in which object it happens."""

    def _setup(self, config):
        self.total = 0

    def _train(self):
        self.total += self.config["x"]
        return {"total": self.total, "object": id(self), "pid": os.getpid()}

    def _save(self, directory):
        return {"total": self.total}

    def _restore(self, checkpoint):
        self.total = checkpoint["total"]


class Live(Adds):
    def reset_config(self, new_config):
        return True


def adds(config):
    total = (tune.get_checkpoint() or {"total": 0})["total"]
    while True:
        total += config["x"]
        tune.report(total=total, checkpoint={"total": total})


async def adds_async(config):
    total = (tune.get_checkpoint() or {"total": 0})["total"]
    while True:
        total += config["x"]
        await tune.report(total=total, checkpoint={"total": total})


def never_saves(config):
    while True:
        tune.report(total=1)


class CannotSave(tune.Trainable):
    def _train(self):
        return {"total": 1}


class TakesTurns(TrialScheduler):
    """Every trial pauses after each second result."""

    needs_checkpoints = True

    def on_trial_result(self, trial, result):
        return self.PAUSE if result["training_iteration"] % 2 == 0 else self.CONTINUE


class FromFirst(TrialScheduler):
    """At its second result, or soon, a trial begins from the first one, with another ``x``."""

    needs_checkpoints = True

    def begin(self, seed):
        self.first = None

    def on_trial_add(self, trial):
        self.first = self.first or trial

    def on_trial_result(self, trial, result):
        if trial is self.first:
            return self.SAVE
        ready = self.first.checkpoint is not None and not trial.lineage
        if ready and result["training_iteration"] >= 2:
            return Exploit(self.first.trial_id, {**self.first.config, "x": 100})
        return self.CONTINUE


class Dismisses(TrialScheduler):
    """Pauses everybody at the first result, and has done with all but the last."""

    needs_checkpoints = True

    def begin(self, seed):
        self.paused = []

    def on_trial_result(self, trial, result):
        if result["training_iteration"] > 1:
            return self.CONTINUE
        self.paused.append(trial.trial_id)
        return self.PAUSE

    def dismissed(self):
        return self.paused[:-1] if len(self.paused) == 4 else ()

    def choose(self, free):
        return free.paused[-1] if len(self.paused) == 4 and free.paused else None


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("trainable", [Adds, adds, adds_async])
async def test_paused_trials_take_turns_and_lose_nothing(tmp_path, executor, trainable):
    async with (
        executor(2) as pool,
        tune.start(
            trainable, config={"x": tune.grid_search([1, 2, 3, 4])}, stop={"training_iteration": 5},
            scheduler=TakesTurns(), executor=pool, storage_path=tmp_path, verbose=0,
        ) as experiment,
    ):  # fmt: skip
        seen = [event async for event in experiment.events()]
    for trial in experiment.trials:
        totals = [(row["training_iteration"], row["total"]) for row in trial.results]
        assert totals == [(n, n * trial.config["x"]) for n in range(1, 6)]
        assert trial.status == "TERMINATED"
        lines = Path(trial.logdir, "result.json").read_text().splitlines()
        assert [json.loads(line)["total"] for line in lines] == [total for _, total in totals]
    kinds = [event.kind for event in seen]
    assert kinds.count("trial_paused") == kinds.count("trial_resumed") == 8
    first = kinds.index("trial_resumed")
    assert kinds[:first].count("trial_added") == 4, "new trials come before those that are paused"


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("trainable", [Adds, Live, adds, adds_async])
async def test_a_trial_goes_on_from_another_and_keeps_its_identity(tmp_path, executor, trainable):
    async with executor(1) as pool:
        analysis = await tune.run(
            trainable, config={"x": tune.grid_search([1, 2])}, stop={"training_iteration": 4},
            scheduler=FromFirst(), executor=pool, storage_path=tmp_path, name="e", verbose=0,
        )  # fmt: skip
    first, second = analysis.trials
    assert [row["total"] for row in first.results] == [1, 2, 3, 4]
    # It had come to 4 at its second result, and went on from the last checkpoint of the first.
    began = first.checkpoint.iteration
    assert began in (3, 4)
    assert [row["training_iteration"] for row in second.results] == [1, 2, began + 1]
    assert [row["total"] for row in second.results] == [2, 4, began + 100]
    assert second.results[-1]["trial_id"] == second.trial_id
    assert second.results[-1]["config"] == {"x": 100}
    assert (second.initial_config, second.config) == ({"x": 2}, {"x": 100})
    (descent,) = second.lineage
    assert (descent.donor, descent.iteration, descent.target_iteration) == (
        first.trial_id,
        began,
        2,
    )
    assert json.loads(Path(second.logdir, "params.json").read_text()) == {"x": 100}
    assert "@perturbed[x=100]" in second.tag
    stored = tune.Analysis(tmp_path / "e").trials[1]
    assert (stored.config, stored.initial_config, stored.lineage) == (
        second.config, second.initial_config, second.lineage,
    )  # fmt: skip
    if trainable is Live:
        objects = [row["object"] for row in second.results]
        assert len(set(objects)) == 1, "the live object took the new configuration"
    elif trainable is Adds and executor is InlineExecutor:
        assert second.results[1]["pid"] == second.results[2]["pid"]


async def test_a_donor_keeps_what_others_begin_from(tmp_path):
    async with InlineExecutor(2) as pool:
        analysis = await tune.run(
            Adds, config={"x": tune.grid_search([1, 2, 3])}, stop={"training_iteration": 40},
            keep_checkpoints_num=1, scheduler=FromFirst(), executor=pool, storage_path=tmp_path, verbose=0,
        )  # fmt: skip
    last = analysis.trials[-1]
    assert len(last.lineage) == 1
    assert last.results[-1]["total"] > 100


async def test_the_scheduler_ends_what_it_has_done_with(tmp_path):
    async with InlineExecutor(2) as pool:
        analysis = await tune.run(
            Adds, config={"x": tune.grid_search([1, 2, 3, 4])}, stop={"training_iteration": 3},
            scheduler=Dismisses(), executor=pool, storage_path=tmp_path, verbose=0,
        )  # fmt: skip
    counts = sorted(trial.num_results for trial in analysis.trials)
    assert counts == [1, 1, 1, 3]
    reasons = sorted(str(trial.stop_reason) for trial in analysis.trials)
    assert reasons == ["scheduler"] * 3 + ["stop criterion"]


async def test_paused_trials_end_when_nobody_is_chosen(tmp_path):
    class Forgets(TakesTurns):
        def choose(self, free):
            return None

    async with InlineExecutor(2) as pool:
        analysis = await tune.run(
            Adds, config={"x": tune.grid_search([1, 2, 3])}, scheduler=Forgets(), executor=pool,
            storage_path=tmp_path, verbose=0,
        )  # fmt: skip
    assert [trial.num_results for trial in analysis.trials] == [2, 2, 2]
    assert {trial.stop_reason for trial in analysis.trials} == {"scheduler"}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("trainable", [Adds, adds])
async def test_a_trial_pauses_and_goes_on_by_hand(tmp_path, executor, trainable):
    async with (
        executor(1) as pool,
        tune.start(
            trainable, config={"x": 1}, num_samples=2, executor=pool, storage_path=tmp_path, verbose=0,
        ) as experiment,
    ):  # fmt: skip
        held = None
        async for event in experiment.events():
            match event:
                case events.TrialAdded() if held is None:
                    held = experiment.trials[0]
                    held.pause()
                case events.TrialPaused():
                    assert event.by_hand
                    assert event.trial_id == held.trial_id
                    assert held.status == "PAUSED"
                case events.TrialStarted() if event.trial_id != held.trial_id:
                    other = experiment.trials[1]  # it has the one slot that there is
                    other.stop()
                case events.TrialEnded() if event.trial_id != held.trial_id:
                    held.resume()
                case events.TrialResumed():
                    held.stop()
        await held
    assert held.stop_reason == "stopped by hand"
    totals = [row["total"] for row in held.results]
    assert totals == list(range(1, len(totals) + 1))
    assert len(totals) >= 2


async def test_a_paused_trial_can_be_stopped_and_the_whole_run_too(tmp_path):
    async with (
        InlineExecutor(2) as pool,
        tune.start(
            Adds, config={"x": 1}, num_samples=2, executor=pool, storage_path=tmp_path, verbose=0,
        ) as experiment,
    ):  # fmt: skip
        paused = 0
        async for event in experiment.events():
            if isinstance(event, events.TrialAdded):
                experiment.trials[-1].pause()
            if isinstance(event, events.TrialPaused):
                paused += 1
                if paused == 1:
                    experiment.trials[event.trial_id.endswith("1")].stop()
                else:
                    experiment.stop()
    assert paused == 2
    assert sorted(trial.stop_reason for trial in experiment.trials) == [
        "experiment stopped", "stopped by hand",
    ]  # fmt: skip
    assert {trial.num_results for trial in experiment.trials} == {1}


async def test_who_cannot_save_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(
        tune.TuneError, match=r"scheduler must not pause .*, got TakesTurns; CannotSave defines"
    ):
        await tune.run(CannotSave, scheduler=TakesTurns(), storage_path=tmp_path, verbose=0)
    assert list(tmp_path.iterdir()) == []


async def test_who_cannot_save_cannot_be_paused_by_hand(tmp_path):
    async with (
        InlineExecutor(1) as pool,
        tune.start(CannotSave, executor=pool, storage_path=tmp_path, verbose=0) as experiment,
    ):
        async for _ in experiment:
            with pytest.raises(tune.TuneError, match="cannot be paused: CannotSave defines"):
                experiment.trials[0].pause()
            experiment.stop()


async def test_a_function_that_never_saves_is_an_error_that_says_how(tmp_path):
    async with InlineExecutor(1) as pool:
        with pytest.raises(tune.TuneError, match=r"never_saves has reported none.*checkpoint="):
            await tune.run(
                never_saves, scheduler=TakesTurns(), executor=pool, storage_path=tmp_path, verbose=0
            )


async def test_an_exploit_of_nobody_is_an_error_that_names_the_scheduler(tmp_path):
    class Wrong(TrialScheduler):
        def on_trial_result(self, trial, result):
            return Exploit("nobody", {})

    async with InlineExecutor(1) as pool:
        with pytest.raises(
            tune.TuneError, match=r"Wrong must name .* donor of Adds_.*, got 'nobody'"
        ):
            await tune.run(
                Adds,
                config={"x": 1},
                scheduler=Wrong(),
                executor=pool,
                storage_path=tmp_path,
                verbose=0,
            )


async def test_what_a_resume_finds_paused_goes_on_from_its_checkpoint(tmp_path):
    arguments = {
        "config": {"x": tune.grid_search([1, 2, 3, 4])}, "stop": {"training_iteration": 5},
        "storage_path": tmp_path, "name": "e", "verbose": 0,
    }  # fmt: skip
    async with InlineExecutor(1) as pool:
        async with tune.start(
            Adds, scheduler=TakesTurns(), executor=pool, **arguments
        ) as experiment:
            paused = 0
            async for event in experiment.events():
                paused += isinstance(event, events.TrialPaused)
                if paused == 3:
                    experiment.cancel()
        async with tune.start(
            Adds, scheduler=TakesTurns(), executor=pool, resume=True, **arguments
        ) as experiment:
            pass
    for trial in experiment.trials:
        totals = [(row["training_iteration"], row["total"]) for row in trial.results]
        assert totals == [(n, n * trial.config["x"]) for n in range(1, 6)]
