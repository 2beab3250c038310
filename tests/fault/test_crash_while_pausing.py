"""The driver dies between any two calls while trials pause, take turns and begin from each other."""

from __future__ import annotations

import pytest
from simulated import CONTROL, ITERATIONS, exists, experiment, rows_of, undisturbed

import asynctune as tune
from asynctune.schedulers import Exploit, TrialScheduler
from harness.faults import Crash, FaultyFileSystem, using
from harness.ledger import Ledger

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(300)]


class TakesTurns(TrialScheduler):
    """Every trial pauses after each result."""

    needs_checkpoints = True

    def on_trial_result(self, trial, result):
        return self.PAUSE


class Clones(TrialScheduler):
    """Every other result of a trial but the first makes it begin from the first trial's state."""

    needs_checkpoints = True

    def begin(self, seed):
        self.trials = []

    def on_trial_add(self, trial):
        self.trials.append(trial)

    def on_trial_result(self, trial, result):
        first = self.trials[0]
        if trial is first:
            return self.SAVE
        if result["training_iteration"] % 2 or first.checkpoint is None:
            return self.CONTINUE
        return Exploit(first.trial_id, {"x": 10 * trial.config["x"]})


async def crash_before_every(call_counter, tmp_path, scheduler, check):
    for call in call_counter:
        parent, ledger = tmp_path / f"at-{call}", tmp_path / f"ledger-{call}"
        with using(FaultyFileSystem(crash_at=call)):
            try:
                analysis = await experiment(parent, ledger, scheduler=scheduler())
                crashed = False
            except Crash:
                crashed = True
        if crashed:
            if exists(parent):
                balance = Ledger(ledger).compare(tune.Analysis(parent / "simulated"))
                assert balance.lost == ()
            analysis = await undisturbed(parent, ledger, scheduler=scheduler())
        check(analysis)
        if not crashed:
            return call
    raise AssertionError("it never came to its end")


async def test_paused_trials_go_on_from_where_they_were(tmp_path, is_long):
    def check(analysis):
        assert rows_of(analysis) == CONTROL
        assert {trial.status for trial in analysis.trials} == {"TERMINATED"}

    calls = range(1, 10_000) if is_long else range(1, 10_000, 3)
    assert await crash_before_every(calls, tmp_path, TakesTurns, check) > 100


async def test_a_trial_that_began_from_another_is_whole_again(tmp_path, is_long):
    cloned = [0]

    def check(analysis):
        first, *others = analysis.trials
        assert first.lineage == ()
        for trial in others:
            iterations = [row["training_iteration"] for row in trial.results]
            assert iterations == sorted(set(iterations)), "no iteration twice"
            assert iterations[-1] >= ITERATIONS
            cloned[0] += len(trial.lineage)
            assert {descent.donor for descent in trial.lineage} <= {first.trial_id}
            powers = len(trial.lineage)
            assert trial.config["x"] == trial.initial_config["x"] * 10**powers

    calls = range(1, 10_000) if is_long else range(1, 10_000, 3)
    assert await crash_before_every(calls, tmp_path, Clones, check) > 60
    assert cloned[0] > 60
