"""BOHBSearch: which budget's model suggests, and what it learns from."""

from __future__ import annotations

import math

import pytest

import asynctune as tune
from asynctune.errors import MetricMissing
from asynctune.space.space import Space
from asynctune.suggest.bohb import BOHBSearch

CONFIG = {"x": tune.uniform(0, 1)}


def bound(seed=0, mode="min", config=CONFIG, **arguments):
    searcher = BOHBSearch(seed=seed, **arguments)
    searcher.bind(Space(config), "loss", mode, 99)
    return searcher


def observe(searcher, budget, best, count, first=0, *, sign=1):
    """Adopt trials all over the range, and report how far from ``best`` each is."""
    for number in range(count):
        trial_id, x = f"{budget}:{first + number}", (number + 0.5) / count
        searcher.adopt(trial_id, {"x": x})
        result = {"loss": sign * abs(x - best), "training_iteration": budget}
        searcher.on_trial_result(trial_id, result)


def near(searcher, place, count=12):
    xs = [searcher.suggest(f"t{number}")["x"] for number in range(count)]
    return sum(abs(x - place) < 0.2 for x in xs) / count


def test_the_largest_budget_that_has_enough_observations_suggests():
    searcher = bound(random_fraction=0)
    observe(searcher, 1, best=0.1, count=30)
    observe(searcher, 3, best=0.9, count=20)
    observe(searcher, 9, best=0.5, count=3)
    assert near(searcher, 0.9) > 0.7


def test_a_budget_takes_over_once_it_has_enough():
    searcher = bound(random_fraction=0)
    observe(searcher, 1, best=0.1, count=30)
    assert near(searcher, 0.1) > 0.7
    observe(searcher, 3, best=0.9, count=20)
    assert near(searcher, 0.9) > 0.7


@pytest.mark.parametrize(("min_points", "learns"), [(4, True), (None, True), (5, False)])
def test_by_default_a_model_needs_three_observations_more_than_there_are_parameters(
    min_points, learns
):
    searchers = [bound(random_fraction=0, min_points=min_points) for _ in range(2)]
    for searcher, best in zip(searchers, (0.1, 0.9), strict=True):
        observe(searcher, 1, best, count=4)
    xs = [[searcher.suggest(f"t{n}")["x"] for n in range(5)] for searcher in searchers]
    assert (xs[0] != xs[1]) is learns


def test_more_is_better_if_the_mode_says_so():
    searcher = bound(random_fraction=0, mode="max")
    observe(searcher, 1, best=0.9, count=30, sign=-1)
    assert near(searcher, 0.9) > 0.7


def test_a_fraction_of_the_suggestions_is_random_all_the_same():
    counts = {}
    for fraction in (0, 1 / 3, 1):
        searcher = bound(random_fraction=fraction)
        observe(searcher, 1, best=0.95, count=10)
        for number in range(90):
            searcher.suggest(f"t{number}")
        counts[fraction] = len(searcher._random.study.trials)
    assert counts == {0: 0, 1 / 3: pytest.approx(30, abs=12), 1: 90}


def test_nothing_that_is_told_changes_what_is_random():
    ignorant, told = bound(random_fraction=1), bound(random_fraction=1)
    observe(told, 1, best=0.9, count=30)
    assert [ignorant.suggest(f"t{n}") for n in range(9)] == [
        told.suggest(f"t{n}") for n in range(9)
    ]


def test_its_own_trials_are_learnt_from_at_each_budget():
    searcher = bound(random_fraction=0)
    xs = []
    for number in range(40):
        xs.append(searcher.suggest(f"t{number}")["x"])
        for budget in (1, 2, 4):
            # One in four gets to the last budget; the first ones point elsewhere.
            if budget < 4 or number % 4 == 0:
                best = 0.1 if budget < 4 else 0.9
                result = {"loss": abs(xs[-1] - best), "training_iteration": budget}
                searcher.on_trial_result(f"t{number}", result)
        searcher.on_trial_complete(f"t{number}", result)
    # By the 14th trial, four have got to the last budget.
    assert sum(abs(x - 0.9) < 0.25 for x in xs[24:]) > sum(abs(x - 0.1) < 0.25 for x in xs[24:])


def test_nan_is_the_worst_value_and_is_learnt_from():
    searcher = bound(random_fraction=0)
    for number in range(30):
        x = number / 30
        searcher.adopt(f"a{number}", {"x": x})
        loss = math.nan if x < 0.7 else 1.0 + x
        searcher.on_trial_complete(f"a{number}", {"loss": loss, "training_iteration": 1})
    assert near(searcher, 0.8) > 0.7


def test_an_iteration_that_is_repeated_after_a_retry_counts_once():
    once, twice = bound(random_fraction=0), bound(random_fraction=0)
    for searcher in (once, twice):
        observe(searcher, 1, best=0.3, count=10)
    for number in range(10):
        twice.on_trial_result(f"1:{number}", {"loss": number, "training_iteration": 1})
    assert once.suggest("a") == twice.suggest("a")


def test_another_measure_of_time_may_be_the_budget():
    searcher = bound(random_fraction=0, time_attr="samples")
    for number in range(20):
        searcher.adopt(f"a{number}", {"x": number / 20})
        result = {"loss": abs(number / 20 - 0.2), "samples": 640, "training_iteration": number}
        searcher.on_trial_result(f"a{number}", result)
    assert near(searcher, 0.2) > 0.7


@pytest.mark.parametrize(
    ("result", "missing"),
    [({"samples": 1, "acc": 1}, "loss"), ({"loss": 1, "training_iteration": 1}, "samples")],
)
def test_a_key_that_no_result_has_is_an_error_that_names_it(result, missing):
    searcher = bound(time_attr="samples")
    searcher.suggest("a")
    with pytest.raises(MetricMissing, match=f"BOHBSearch asks for {missing!r}"):
        searcher.on_trial_complete("a", result)


def test_an_earlier_trial_of_other_parameters_is_left_out():
    searcher = bound(config={"c": tune.choice([{"deep": tune.uniform(0, 1)}, 1])})
    searcher.adopt("a", {"c": {"deep": 0.5}})
    searcher.on_trial_complete("a", {"loss": 1.0, "training_iteration": 1})
    assert searcher.suggest("b")
