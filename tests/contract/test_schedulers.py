"""The schedulers that come with asynctune keep the contract of schedulers."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_harness import CANDIDATES, ETA, GRACE, MAX_T, TIME, calm_scripts, rows, run_of

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers import Decision
from asynctune.schedulers.asha import AsyncHyperBandScheduler
from asynctune.testing.scheduling import Call, Script, play, replay

every = pytest.mark.parametrize("name", CANDIDATES)
seeds = st.integers(0, 10**9)
some = settings(max_examples=8)


@every
@given(seed=seeds)
@some
def test_every_trial_ends_whatever_happens(name, seed):
    scripts, how = run_of(name, seed, troubled=True, crashes=True)
    played = play(CANDIDATES[name].make, scripts, **how)
    assert len(played.trials) == len(scripts)
    for trial in played.trials.values():
        assert trial.status.is_final


@every
@given(seed=seeds, cut=st.floats(0, 1))
@some
def test_one_that_is_told_the_same_without_being_asked_answers_the_same_from_then_on(
    name, seed, cut
):
    scripts, how = run_of(name, seed, troubled=True, crashes=True)
    played = play(CANDIDATES[name].make, scripts, **how)
    replay(played, CANDIDATES[name].make, asked_from=int(cut * len(played.steps)))


@every
@given(seed=seeds, change=st.integers(0, 10**6))
@some
def test_no_decision_depends_on_what_comes_later(name, seed, change):
    scripts, how = run_of(name, seed, troubled=True)
    rng = random.Random(change)
    number = rng.randrange(len(scripts))
    old = scripts[number].rows
    first = rng.randint(0, len(old))
    new = tuple(row | {"score": rng.uniform(-9, 9), "cost": 1} for row in old[first:])
    changed = list(scripts)
    changed[number] = replace(scripts[number], rows=old[:first] + new)
    before = play(CANDIDATES[name].make, scripts, **how).calls
    after = play(CANDIDATES[name].make, changed, **how).calls
    pairs = list(zip(before, after, strict=False))
    same = list(takewhile(lambda pair: repr(pair[0]) == repr(pair[1]), pairs))
    if len(same) < len(pairs):
        one, other = pairs[len(same)]
        assert one.trial_id == other.trial_id == f"t{number}"
        assert (one.method, repr(one.given)) != (other.method, repr(other.given)), (
            "it was told the same"
        )


@every
@given(seed=seeds)
@some
def test_nobody_is_stopped_before_its_grace_is_over(name, seed):
    scripts, how = run_of(name, seed, troubled=True)
    candidate = CANDIDATES[name]
    for call in play(candidate.make, scripts, **how).calls:
        if call.method == "on_trial_result" and call.answer is Decision.STOP:
            assert call.given[TIME] >= candidate.grace


@every
@given(seed=seeds, which=st.integers(0, 99))
@some
def test_a_trial_of_nan_harms_others_no_more_than_the_worst_one_would(name, seed, which):
    scripts, how = run_of(name, seed, odd=False)
    candidate = CANDIDATES[name]
    number = which % len(scripts)

    def fates(score):
        length = len(scripts[number].rows)
        bad = replace(scripts[number], rows=rows([score] * length))
        played = play(candidate.make, [*scripts[:number], bad, *scripts[number + 1 :]], **how)
        return {
            trial_id: (played.verdicts(trial_id), trial.stop_reason)
            for trial_id, trial in played.trials.items()
        }

    assert fates(math.nan) == fates(candidate.worst)


@every
@given(seed=seeds)
@some
def test_trials_that_are_all_nan_end_too(name, seed):
    scripts, how = run_of(name, seed)
    bad = [replace(script, rows=rows([math.nan] * len(script.rows))) for script in scripts]
    played = play(CANDIDATES[name].make, bad, **how)
    assert all(trial.status == "TERMINATED" for trial in played.trials.values())


@every
def test_it_serves_one_run_only(name):
    scheduler = CANDIDATES[name].make()
    scheduler.bind("score", "max")
    with pytest.raises(ConfigError, match="was already used by another run; make a new one"):
        scheduler.bind("score", "max")


@every
@pytest.mark.parametrize("missing", ["score", TIME])
def test_a_key_that_is_missing_is_an_error_that_lists_those_there_are(name, missing):
    given_rows = [
        {"cost": 1, **{key: value for key, value in row.items() if key != missing}}
        for row in rows([1, 2, 3])
    ]
    if not CANDIDATES[name].needs_metric:
        play(CANDIDATES[name].make, [Script(given_rows)])
        return
    with pytest.raises(MetricMissing, match=rf"{missing}.*cost"):
        play(CANDIDATES[name].make, [Script(given_rows, {"x": 1})])


@every
def test_it_needs_an_objective_unless_it_has_its_own(name):
    scheduler = CANDIDATES[name].make()
    if scheduler.needs_metric:
        with pytest.raises(ConfigError, match=f"{type(scheduler).__name__} needs an objective"):
            scheduler.bind(None, None)
    else:
        scheduler.bind(None, None)


@pytest.mark.slow
@pytest.mark.timeout(600)
@every
def test_hundreds_of_troubled_runs_keep_the_contract(name, is_long):
    for seed in range(20_000 if is_long else 200):
        scripts, how = run_of(name, seed, troubled=True, crashes=True)
        played = play(CANDIDATES[name].make, scripts, **how)
        assert all(trial.status.is_final for trial in played.trials.values()), f"seed {seed}"
        replay(played, CANDIDATES[name].make, asked_from=seed % len(played.steps))


DIGEST = """
import hashlib, random
from scheduler_harness import CANDIDATES, calm_scripts
from asynctune.testing.scheduling import play
for name, candidate in CANDIDATES.items():
    calls = play(candidate.make, calm_scripts(random.Random(7), odd=False, most=9), slots=3).calls
    print(name, hashlib.sha256(repr(calls).encode()).hexdigest())
"""


def test_the_hashes_of_strings_decide_nothing():
    digests = []
    for seed in ("1", "2"):
        path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", DIGEST]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        digests.append(process.stdout)
    assert digests[0] == digests[1]
    assert digests[0].count("\n") == len(CANDIDATES)


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


@given(seed=seeds)
@settings(max_examples=100)
def test_who_is_promoted_by_asha_is_among_the_best_of_its_rung_at_that_moment(seed):
    scripts, how = run_of("ASHA-promote", seed, troubled=True)
    scripts = [replace(script, pauses_after=(), never_starts=False) for script in scripts]
    played = play(CANDIDATES["ASHA-promote"].make, scripts, **how)
    check_promotions(played.calls, [2, 4, 8])


def test_the_check_of_promotions_sees_promotions_and_wrong_ones():
    scripts = calm_scripts(random.Random(3), odd=False) * 2
    calls = play(CANDIDATES["ASHA-promote"].make, scripts, slots=3).calls
    assert check_promotions(calls, [2, 4, 8]) >= 3

    def careless():
        return AsyncHyperBandScheduler(
            max_t=MAX_T, grace_period=GRACE, reduction_factor=1.2, promote=True
        )

    with pytest.raises(AssertionError):
        check_promotions(play(careless, scripts, slots=3).calls, [2, 4, 8])
