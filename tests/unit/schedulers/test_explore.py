"""How PBT makes a new configuration of a good one, with random numbers that are written down here."""

from __future__ import annotations

import random

import numpy as np
import pytest

import asynctune as tune
from asynctune.errors import ConfigError, TuneError
from asynctune.schedulers._explore import check_mutations, explore

MOVE = 0.9  # is not below the probability of drawing anew
UP, DOWN = 0.0, 0.9  # the first and the second factor
BEFORE, AFTER = 0.0, 0.9  # the value of a list before and after


class Written:
    """Stands for a generator."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def moved(value, how, *numbers, **arguments):
    mutations = check_mutations("m", {"x": how})
    rng = Written(MOVE, *numbers)
    (result,) = explore({"x": value}, mutations, rng, **arguments).values()
    assert rng.numbers == []
    return result


@pytest.mark.parametrize(
    ("value", "how", "number", "wanted"),
    [
        (4, [3, 4, 8, 10], AFTER, 8),
        (4, [3, 4, 8, 10], BEFORE, 3),
        (3, [3, 4, 8, 10], BEFORE, 3),
        (10, [3, 4, 8, 10], AFTER, 10),
        (10, tune.choice([3, 10]), BEFORE, 3),
        ("b", ("a", "b", "c"), AFTER, "c"),
        (np.int64(4), range(3, 6), AFTER, 5),
        (7, [7], AFTER, 7),
    ],
)
def test_a_value_of_a_list_moves_to_its_neighbour_and_stays_at_the_end(value, how, number, wanted):
    assert moved(value, how, number) == wanted


@pytest.mark.parametrize(
    ("value", "how", "number", "wanted"),
    [
        (10.0, lambda: 1.0, UP, 12.0),
        (10.0, lambda: 1.0, DOWN, 8.0),
        (10, lambda: 1, UP, 12),
        (10, lambda: 1, DOWN, 8),
        (np.int64(10), lambda: 1, UP, 12),
        (np.float32(10), lambda: 1, UP, 12.0),
        (1, lambda: 1, UP, 2),  # 1.2 is not cut to 1 for ever
        (2, lambda: 1, DOWN, 1),
        (-1, lambda: 1, UP, -2),
        (0, lambda: 1, UP, 0),
        (10**12, lambda: 1, DOWN, 8 * 10**11),
        (0.9, tune.uniform(0, 1), UP, 1.0),
        (5.0, tune.uniform(0, 1), UP, 1.0),
        (1, tune.uniform(0, 2), DOWN, 0.8),
        (0.0011, tune.loguniform(1e-3, 1), DOWN, 1e-3),
        (9, tune.randint(1, 10), UP, 9),
        (1, tune.randint(1, 10), DOWN, 1),
        (5, tune.randint(1, 10), UP, 6),
        (64, tune.lograndint(1, 65), UP, 64),
        (32, tune.qrandint(16, 64, 16), UP, 48),
        (32, tune.qrandint(16, 64, 16), DOWN, 16),
        (16, tune.qrandint(16, 64, 16), DOWN, 16),
        (0.3, tune.quniform(0, 1, 0.1), UP, 0.4),
        (1.0, tune.quniform(0, 1, 0.1), UP, 1.0),
        (0.1, tune.qloguniform(0.1, 1, 0.1), DOWN, 0.1),
        (-2.0, tune.randn(), DOWN, -1.6),
        (1.0, tune.qrandn(0, 1, 0.5), DOWN, 0.5),
    ],
)
def test_a_number_is_multiplied_and_stays_what_it_is_and_where_it_may_be(
    value, how, number, wanted
):
    found = moved(value, how, number)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert type(found) is type(wanted)


def test_an_int_that_no_float_can_hold_is_one_no_longer_than_it_was():
    found = moved(10**400, lambda: 1, DOWN)
    assert type(found) is int
    assert 7 * 10**399 < found < 9 * 10**399


def test_the_factors_can_be_others():
    assert moved(8, lambda: 1, UP, factors=(2, 0.5)) == 16
    assert moved(8, lambda: 1, DOWN, factors=(2, 0.5)) == 4


@pytest.mark.parametrize("value", [None, "text", True, float("nan"), float("inf"), [1.0], 1.7e308])
def test_what_cannot_be_multiplied_is_drawn_anew(value):
    rng = Written(MOVE, UP)
    fresh = explore({"x": value}, check_mutations("m", {"x": lambda: "new"}), rng)
    assert fresh == {"x": "new"}


def test_what_is_in_no_list_or_in_no_config_is_drawn_anew():
    mutations = check_mutations("m", {"x": [1, 2], "new": {"y": tune.uniform(0, 1)}})
    fresh = explore({"x": 7}, mutations, Written(MOVE, 0.9, 0.9, 0.5, 0.5))
    assert fresh["x"] in (1, 2)
    assert 0 <= fresh["new"]["y"] <= 1


def test_a_value_is_drawn_anew_as_probably_as_was_asked_for():
    mutations = check_mutations("m", {"x": lambda: "new"})
    rng = random.Random(0)
    drawn = [explore({"x": 1.0}, mutations, rng, 0.3)["x"] == "new" for _ in range(2000)]
    assert 0.25 < sum(drawn) / 2000 < 0.35


def test_nested_values_are_mutated_and_nothing_else_is_touched():
    array = np.zeros(3)
    config = {"a": {"lr": 1.0, "list": [1, 2]}, "b": array, "c": [{"d": 1}]}
    fresh = explore(config, check_mutations("m", {"a": {"lr": lambda: 0.0}}), Written(MOVE, UP))
    assert config["a"]["lr"] == 1.0
    assert fresh["a"] == {"lr": 1.2, "list": [1, 2]}
    assert fresh["b"] is array
    # Whoever changes the new one does not change the donor's.
    fresh["a"]["list"].append(3)
    fresh["c"][0]["d"] = 2
    assert (config["a"]["list"], config["c"]) == ([1, 2], [{"d": 1}])


def test_objects_of_a_list_are_found_again_and_come_back_themselves():
    arrays = [np.zeros(2), np.ones(2), np.ones(3)]
    assert moved(arrays[1], arrays, AFTER) is arrays[2]


def test_a_dict_of_mutations_wants_a_dict_in_the_config():
    with pytest.raises(
        TuneError, match=r"^the config must have a dict at 'a', as hyperparam_mutations has, got 3$"
    ):
        explore({"a": 3}, {"a": {"b": tune.choice([1])}}, random.Random(0))


def test_a_function_that_raises_is_named():
    def broken():
        raise ZeroDivisionError("no")

    with pytest.raises(TuneError, match=r"'a/b' raised ZeroDivisionError: no") as caught:
        explore({"a": {}}, {"a": {"b": broken}}, random.Random(0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def coroutine():
    """Gives no value."""


@pytest.mark.parametrize(
    ("mutations", "said"),
    [
        (3, "m must be a dict of the values to mutate, got 3$"),
        ([("x", [1])], "m must be a dict"),
        ({"x": 3}, r"m\['x'\] must be .*, got 3"),
        ({"x": None}, r"m\['x'\] must be .*, got None"),
        ({"x": []}, r"m\['x'\] must be a list of at least one value, got \[\]"),
        ({"x": "abc"}, r"m\['x'\] must be .*, got 'abc'"),
        ({"a": {"b": 1.5}}, r"m\['a'\]\['b'\] must be .*, got 1.5"),
        ({"x": tune.grid_search([1])}, r"m\['x'\] must be .*, got a grid_search"),
        ({"x": tune.sample_from(lambda spec: 1)}, r"m\['x'\] must be .*, got a sample_from"),
        ({"x": [1, tune.uniform(0, 1)]}, r"m\['x'\] must be .* without samplers, got \["),
        (
            {"x": tune.choice([{"y": tune.uniform(0, 1)}])},
            r"m\['x'\] must be .* without samplers, got \[",
        ),
        ({"x": lambda spec: 1}, r"m\['x'\] must be .*, got <function"),
        ({"x": coroutine}, r"m\['x'\] must be .*, got <function"),
    ],
)
def test_a_wrong_mutation_is_refused_by_its_name(mutations, said):
    with pytest.raises(ConfigError, match=said):
        check_mutations("m", mutations)
