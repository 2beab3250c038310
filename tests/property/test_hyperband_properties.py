"""HyperBand against the definition of it, and in every kind of trouble."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctune.schedulers.hyperband import HyperBandForBOHB, HyperBandScheduler, plan_band
from asynctune.testing.scripts import Script, curve, play

ODD = (math.nan, math.inf, -math.inf, 0, 1)
scores = st.one_of(st.sampled_from(ODD), st.floats(-9, 9))
limits = st.tuples(st.integers(1, 12), st.sampled_from([2, 2.5, 3, 4]))
few = st.lists(st.integers(0, 12), max_size=2)


def worth(score):
    return -math.inf if math.isnan(score) else score


def lengths(plan, eta, curves):
    """How far each trial of a bracket comes, by the definition."""
    last = [plan.milestones[-1]] * len(curves)
    left = list(range(len(curves)))
    for milestone in plan.milestones[:-1]:
        left.sort(key=lambda number: (-worth(curves[number][milestone - 1]), number))
        places = math.ceil(len(left) / eta)
        for number in left[places:]:
            last[number] = milestone
        left = left[:places]
    return last


@given(
    limits=limits, number=st.integers(1, 24), slots=st.integers(1, 6), seed=st.integers(0, 10**6)
)
@settings(max_examples=60)
@pytest.mark.parametrize("make", [HyperBandScheduler, HyperBandForBOHB])
def test_each_trial_comes_as_far_as_the_definition_says(make, limits, number, slots, seed):
    (max_t, eta), rng = limits, random.Random(seed)
    curves = [[rng.choice([*ODD, rng.random()]) for _ in range(max_t)] for _ in range(number)]
    played = play(
        lambda: make(max_t=max_t, reduction_factor=eta),
        [Script(curve(values)) for values in curves],
        slots=slots,
        seed=seed,
    )
    band, expected, begin = plan_band(max_t, eta), [], 0
    while begin < number:
        for plan in band:
            expected += lengths(plan, eta, curves[begin : begin + plan.size])
            begin += plan.size
    came = [trial.last_result["training_iteration"] for trial in played.trials.values()]
    assert came == expected[:number]


@given(
    limits=limits,
    rows=st.lists(st.tuples(scores, few, few, st.integers(0, 3)), min_size=1, max_size=12),
    slots=st.integers(1, 6),
    seed=st.integers(0, 99),
    crashes=few,
)
@settings(max_examples=100)
def test_whatever_is_in_its_way_somebody_comes_to_max_t_and_nobody_beyond(
    limits, rows, slots, seed, crashes
):
    max_t, eta = limits
    scripts = [
        Script(
            curve([score] * 20), fails_after=fails, retries=9, pauses_after=pauses, saves_every=n
        )
        for score, fails, pauses, n in rows
    ]
    played = play(
        lambda: HyperBandScheduler(max_t=max_t, reduction_factor=eta),
        scripts,
        slots=slots,
        seed=seed,
        crashes_after=crashes,
    )
    came = [trial.last_result["training_iteration"] for trial in played.trials.values()]
    assert len(came) == len(rows)
    assert max(came) == max_t
    milestones = {milestone for plan in plan_band(max_t, eta) for milestone in plan.milestones}
    disturbed = any(fails or pauses for _, fails, pauses, _ in rows) or crashes
    if not disturbed:
        assert set(came) <= milestones
