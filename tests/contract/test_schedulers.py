"""The schedulers that come with asynctune keep the contract of schedulers."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctune.schedulers import (
    PB2,
    ASHAScheduler,
    Decision,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    MultiObjectiveASHAScheduler,
    PopulationBasedTraining,
)
from asynctune.testing._random_scripts import TIME, calm_scripts
from asynctune.testing.schedulers import SchedulerContract
from asynctune.testing.scripts import Call, play, replay

MAX_T, GRACE, ETA = 9, 2, 2
ASHA = {"time_attr": TIME, "max_t": MAX_T, "grace_period": GRACE, "reduction_factor": ETA}
HYPERBAND = {"time_attr": TIME, "max_t": MAX_T, "reduction_factor": ETA}
MEDIAN = {"time_attr": TIME, "grace_period": GRACE, "min_samples_required": 2}
PBT = {"time_attr": TIME, "perturbation_interval": 2, "quantile_fraction": 0.5}


class Contract(SchedulerContract):
    test_the_hashes_of_strings_decide_nothing = None  # below, in one process for all of them

    @pytest.fixture(params=range(8))
    def seed(self):
        return random.randrange(10**9)

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_hundreds_of_troubled_runs_keep_the_contract(self, is_long):
        for seed in range(20_000 if is_long else 200):
            played = self.play(self.random_run(seed, troubled=True, crashes=True))
            assert all(trial.status.is_final for trial in played.trials.values()), f"seed {seed}"
            replay(played, self.make_scheduler, asked_from=seed % len(played.steps))


class TestFIFO(Contract):
    reads_metric = False

    def make_scheduler(self):
        return FIFOScheduler()


class TestASHA(Contract):
    grace = GRACE

    def make_scheduler(self):
        return ASHAScheduler(**ASHA)


class TestASHAWithBrackets(Contract):
    grace = GRACE

    def make_scheduler(self):
        return ASHAScheduler(brackets=3, **ASHA)


class TestASHAThatPromotes(Contract):
    grace = MAX_T

    def make_scheduler(self):
        return ASHAScheduler(promote=True, **ASHA)


class TestASHAThatPromotesInBrackets(Contract):
    grace = MAX_T

    def make_scheduler(self):
        return ASHAScheduler(promote=True, brackets=3, **ASHA)


class TestMultiObjectiveASHA(Contract):
    grace = GRACE

    def make_scheduler(self):
        return MultiObjectiveASHAScheduler(metrics=["score", "cost"], modes=["max", "min"], **ASHA)


class TestHyperBand(Contract):
    grace = 1

    def make_scheduler(self):
        return HyperBandScheduler(**HYPERBAND)


class TestHyperBandForBOHB(Contract):
    grace = 1

    def make_scheduler(self):
        return HyperBandForBOHB(**HYPERBAND)


class TestMedian(Contract):
    grace = GRACE

    def make_scheduler(self):
        return MedianStoppingRule(**MEDIAN)


class TestMedianThatPauses(Contract):
    def make_scheduler(self):
        return MedianStoppingRule(hard_stop=False, **MEDIAN)


class TestPBT(Contract):
    def make_scheduler(self):
        mutations = {"x": [0, 1, 2], "y": lambda: 7}
        return PopulationBasedTraining(hyperparam_mutations=mutations, **PBT)


class TestPB2(Contract):
    worst_score = -math.inf  # the size of a change of the score matters
    most_trials = 5

    def make_scheduler(self):
        return PB2(hyperparam_bounds={"x": [0.0, 2.0]}, **PBT)


CONTRACTS = Contract.__subclasses__()
DIGESTS = """
from test_schedulers import CONTRACTS
for contract in CONTRACTS:
    print(contract.__name__, contract().digest())
"""


def test_the_hashes_of_strings_decide_nothing():
    digests = []
    for seed in ("1", "2"):
        path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", DIGESTS]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        digests.append(process.stdout)
    assert digests[0] == digests[1]
    assert digests[0].count("\n") == len(CONTRACTS)


# Who goes on at a rung of ASHA


def first_is_best(entries):
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))


def check_promotions(calls: list[Call], levels: list[float]) -> int:
    """See that each trial that passes a rung is among the best there at that moment; count them."""
    rungs: dict[float, list[tuple[float, int, str]]] = {level: [] for level in levels}
    reached: dict[str, float] = {}
    may_pass: dict[str, float] = {}

    def check(trial_id):
        rung = rungs[reached[trial_id]]
        best = first_is_best(rung)[: int(len(rung) / ETA)]
        assert trial_id in {entry[2] for entry in best}, (
            f"{trial_id} at {reached[trial_id]}: {rung}"
        )
        may_pass[trial_id] = reached[trial_id]

    for call in calls:
        if call.method == "choose" and call.answer is not None:
            check(call.answer)
        if call.method != "on_trial_result":
            continue
        time, score = call.given[TIME], call.given["score"]
        level = max((level for level in levels if level <= time), default=0)
        if level > reached.get(call.trial_id, 0):
            reached[call.trial_id] = level
            worth = -math.inf if math.isnan(score) else score
            rungs[level].append((worth, len(rungs[level]), call.trial_id))
        passed = may_pass.get(call.trial_id, 0)
        if call.answer is Decision.CONTINUE and level == reached.get(call.trial_id) != passed:
            check(call.trial_id)
    return len(may_pass)


@given(seed=st.integers(0, 10**9))
@settings(max_examples=100)
def test_who_is_promoted_by_asha_is_among_the_best_of_its_rung_at_that_moment(seed):
    contract = TestASHAThatPromotes()
    run = contract.random_run(seed, troubled=True)
    scripts = [replace(script, pauses_after=(), never_starts=False) for script in run.scripts]
    check_promotions(contract.play(run, scripts).calls, [2, 4, 8])


def test_the_check_of_promotions_sees_promotions_and_wrong_ones():
    scripts = calm_scripts(random.Random(3), odd=False) * 2
    calls = play(TestASHAThatPromotes().make_scheduler, scripts, slots=3).calls
    assert check_promotions(calls, [2, 4, 8]) >= 3

    def careless():
        return ASHAScheduler(promote=True, **ASHA | {"reduction_factor": 1.2})

    with pytest.raises(AssertionError):
        check_promotions(play(careless, scripts, slots=3).calls, [2, 4, 8])
