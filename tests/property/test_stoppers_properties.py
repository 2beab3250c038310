"""Whatever trials report: stoppers decide by the rows that count, and find themselves where they were."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctune.schedulers.stoppers.limits import (
    CombinedStopper,
    MaximumIterationStopper,
    TimeoutStopper,
)
from asynctune.schedulers.stoppers.plateau import EarlyStopping, TrialPlateauStopper

LOSSES = st.lists(st.integers(0, 2).map(float), max_size=30)


def row(iteration, loss):
    return {
        "training_iteration": iteration,
        "loss": loss,
        "timestamp": 1000 + iteration,
        "time_since_restore": 1.0,
    }


def several():
    return CombinedStopper(
        MaximumIterationStopper(9),
        TimeoutStopper(20),
        TrialPlateauStopper("loss", num_results=3),
        EarlyStopping("loss", top=4, patience=2),
    )


def told(stopper, rows):
    return [(stopper(trial_id, result), stopper.stop_all()) for trial_id, result in rows]


@st.composite
def streams(draw, losses, backs=(0, 0, 0, 1, 4)):
    """Rows of three trials, which now and then go back by so many iterations."""
    reached, rows = {}, []
    for trial_id, back, loss in draw(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(backs), losses), max_size=40)
    ):
        iteration = max(1, reached.get(trial_id, 0) + 1 - back)
        reached[trial_id] = iteration
        rows.append((trial_id, row(iteration, loss)))
    return rows


@given(streams(st.floats()))
def test_any_values_are_decided_upon_and_the_same_rows_are_decided_upon_alike(rows):
    assert told(several(), rows) == told(several(), rows)


@given(streams(st.integers(0, 3).map(float), backs=(0,)), st.integers(0, 40))
def test_an_instance_that_is_told_the_same_again_finds_itself_where_it_was(rows, at):
    fresh, used = several(), several()
    told(fresh, rows)
    told(used, rows[:at])
    told(used, rows)
    more = [("d", row(iteration, iteration / 7)) for iteration in range(1, 9)]
    assert [stops for stops, _ in told(used, more)] == [stops for stops, _ in told(fresh, more)]


@given(LOSSES, st.integers(2, 5), st.integers(0, 6))
def test_a_trial_stops_exactly_at_the_plateaus_that_numpy_sees(losses, num_results, grace):
    stopper = TrialPlateauStopper("loss", std=0.6, num_results=num_results, grace_period=grace)
    for iteration, loss in enumerate(losses, 1):
        last = losses[max(0, iteration - num_results) : iteration]
        plateau = len(last) == num_results and iteration >= grace and np.std(last) < 0.6
        assert stopper("t", row(iteration, loss)) == plateau


@given(LOSSES, st.integers(2, 5), st.integers(0, 3), st.sampled_from(["min", "max"]))
def test_a_run_stops_exactly_when_the_rule_of_the_seed_says_so(losses, top, patience, mode):
    stopper = EarlyStopping("loss", std=0.6, top=top, mode=mode, patience=patience)
    count = 0
    for iteration, loss in enumerate(losses, 1):
        ranked = sorted(losses[:iteration], reverse=mode == "max")[:top]
        plateau = len(ranked) == top and np.std(ranked) <= 0.6
        count = count + 1 if plateau else 0
        stops = plateau and count >= patience
        assert stopper(f"t{iteration % 3}", row(iteration, loss)) == stops == stopper.stop_all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 40))
def test_one_trial_without_a_break_counts_as_long_as_it_trained(steps, timeout):
    stopper, trained = TimeoutStopper(timeout), 0
    for step in steps:
        trained += step
        stopper("t", {"timestamp": 1000 + trained, "time_since_restore": float(trained)})
        assert stopper.stop_all() == (trained >= timeout)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@given(LOSSES, st.data())
def test_what_is_not_finite_takes_no_place_among_the_best(value, losses, data):
    place = data.draw(st.integers(0, len(losses)), label="place")
    stopper, control = (EarlyStopping("loss", std=0.6, top=3) for _ in range(2))
    with_value = [*losses[:place], value, *losses[place:]]
    stops = told(stopper, [("t", row(*numbered)) for numbered in enumerate(with_value, 1)])
    expected = told(control, [("t", row(*numbered)) for numbered in enumerate(losses, 1)])
    assert stops[:place] + stops[place + 1 :] == expected
