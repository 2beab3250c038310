"""The space: what a config with markers may hold, in which order variants come, and what errors say."""

from __future__ import annotations

import copy
import json
import math
import random
import subprocess
import sys
from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest

from asynctune.errors import ConfigError, SpecMismatch
from asynctune.space.domains import (
    Choice,
    LogRandInt,
    LogUniform,
    RandInt,
    RandN,
    Uniform,
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from asynctune.space.space import Space


def configs(config, count=None, seed=0):
    space = Space(config)
    return [space.variant(i, seed).config for i in range(count or space.grid_size)]


def one(config, index=0, seed=0):
    return Space(config).variant(index, seed)


def draws(domain, count=2000):
    rng = random.Random(1)
    return [domain.sample(rng) for _ in range(count)]


# What samplers draw


def test_samplers_expose_their_bounds():
    assert uniform(1, 2) == Uniform(1.0, 2.0)
    assert quniform(0, 1, 0.1) == Uniform(0.0, 1.0, q=0.1)
    assert loguniform(1e-4, 1, 2) == LogUniform(1e-4, 1.0, 2.0)
    assert qloguniform(1, 10, 1) == LogUniform(1.0, 10.0, 10.0, 1.0)
    assert randint(1, 5) == RandInt(1, 5)
    assert qrandint(0, 10, 5) == RandInt(0, 10, q=5)
    assert lograndint(1, 5) == LogRandInt(1, 5)
    assert qlograndint(2, 8, 2) == LogRandInt(2, 8, 10.0, 2)
    assert randn() == RandN(0.0, 1.0)
    assert qrandn(1, 2, 0.5) == RandN(1.0, 2.0, 0.5)
    assert choice([1, "a"]) == Choice((1, "a"))


def test_randint_excludes_its_upper_bound_and_reaches_all_else():
    assert set(draws(randint(-1, 3))) == {-1, 0, 1, 2}
    assert set(draws(lograndint(1, 4))) == {1, 2, 3}


def test_q_includes_both_bounds_and_gives_short_floats():
    assert set(draws(quniform(0, 0.3, 0.1))) == {0.0, 0.1, 0.2, 0.3}
    assert set(draws(qrandint(0, 6, 2))) == {0, 2, 4, 6}
    assert set(draws(qlograndint(10, 40, 10))) == {10, 20, 30, 40}
    assert set(draws(qloguniform(0.1, 0.3, 0.1))) == {0.1, 0.2, 0.3}


def test_bounds_that_are_no_multiples_of_q_are_not_crossed():
    assert set(draws(quniform(0.5, 3.5, 1))) == {1.0, 2.0, 3.0}
    assert set(draws(qlograndint(1, 35, 10))) == {10, 20, 30}


def test_large_ints_are_drawn_to_the_last_digit():
    values = draws(randint(0, 2**70), 200)
    assert max(values) > 2**68
    assert len({value % 1024 for value in values}) > 100


def test_the_bounds_of_a_quantised_range_are_as_likely_as_its_middle():
    values = draws(quniform(0, 1, 0.5), 6000)
    assert all(1800 < values.count(value) < 2200 for value in (0.0, 0.5, 1.0))


def test_loguniform_gives_each_decade_the_same_share():
    values = draws(loguniform(1e-3, 1), 3000)
    assert 900 < sum(value < 1e-2 for value in values) < 1100


def test_the_ends_of_a_log_range_get_their_full_share():
    values = draws(lograndint(1, 5), 4000)
    assert 1.8 < values.count(1) / values.count(2) < 2.5
    assert 1.1 < values.count(3) / values.count(4) < 1.6


def test_randn_has_its_mean_and_deviation():
    values = draws(randn(5, 2), 5000)
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert mean == pytest.approx(5, abs=0.1)
    assert sd == pytest.approx(2, abs=0.1)
    assert all(value * 2 == int(value * 2) for value in draws(qrandn(5, 2, 0.5), 100))


def test_the_base_of_a_logarithm_changes_nothing():
    assert draws(loguniform(1, 10, 2)) == draws(loguniform(1, 10))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: uniform(2, 1), "high of uniform must be at least low"),
        (lambda: uniform("1", 2), "low of uniform must be a finite number, got '1'"),
        (lambda: uniform(0, math.inf), "high of uniform must be"),
        (lambda: uniform(0, math.nan), "high of uniform must be"),
        (lambda: uniform(True, 2), "low of uniform must be"),
        (lambda: quniform(0, 1, 0), "q of quniform must be greater than 0"),
        (lambda: quniform(0.1, 0.2, 1), "q of quniform must be .* multiple"),
        (lambda: quniform(0, 1, 1e-15), "q of quniform must be .*1e-12"),
        (lambda: loguniform(0, 1), "low of loguniform must be greater than 0.*, got 0"),
        (lambda: loguniform(1, 2, base=1), "base of loguniform must be .* greater than 1, got 1"),
        (lambda: qloguniform(1, 2, -1), "q of qloguniform must be greater than 0"),
        (lambda: randint(3, 3), "high of randint must be greater than low.*, got 3"),
        (lambda: randint(1.5, 3), "low of randint must be an int, got 1.5"),
        (lambda: qrandint(0, 5, 1.5), "q of qrandint must be an int, got 1.5"),
        (lambda: qrandint(1, 4, 5), "q of qrandint must be .* multiple"),
        (lambda: lograndint(0, 3), "low of lograndint must be greater than 0"),
        (lambda: qlograndint(0, 3, 1), "low of qlograndint must be greater than 0"),
        (lambda: randn(0, -1), "sd of randn must be .* at least 0"),
        (lambda: qrandn(0, 1, 0), "q of qrandn must be greater than 0"),
        (lambda: choice([]), r"categories of choice must be a non-empty list.*, got \[\]"),
        (lambda: choice("abc"), "categories of choice must be a non-empty list.*, got 'abc'"),
        (lambda: grid_search("abc"), "values of grid_search must be a non-empty list.*, got 'abc'"),
        (lambda: grid_search([]), r"values of grid_search must be a non-empty list.*, got \[\]"),
        (lambda: sample_from(3), r"func of sample_from must be a plain function \(spec\), got 3"),
        (
            lambda: sample_from(lambda: 3),
            r"func of sample_from must be .* \(spec\), got <function.*too many",
        ),
        (lambda: sample_from(lambda a, b: 3), r"func of sample_from must be .*: missing .*'b'"),
    ],
)
def test_wrong_arguments_are_named_when_they_are_given(call, said):
    with pytest.raises(ConfigError, match=said):
        call()


def test_a_coroutine_function_is_no_sample_from():
    async def later(spec):
        return 1

    with pytest.raises(ConfigError, match="plain function"):
        sample_from(later)


# Grids and their order


def test_the_first_path_of_a_grid_varies_fastest():
    got = configs({"b": grid_search([1, 2]), "a": grid_search(["x", "y", "z"])})
    assert [(c["a"], c["b"]) for c in got] == [
        ("x", 1),
        ("y", 1),
        ("z", 1),
        ("x", 2),
        ("y", 2),
        ("z", 2),
    ]


def test_indices_of_a_list_are_sorted_as_numbers():
    got = configs({"a": [0, grid_search([1, 2]), *range(8), grid_search([3, 4])]})
    assert [(c["a"][1], c["a"][10]) for c in got] == [(1, 3), (2, 3), (1, 4), (2, 4)]


def test_the_grid_repeats_with_fresh_samples():
    got = configs({"a": grid_search([1, 2]), "u": uniform(0, 1)}, 6)
    assert [c["a"] for c in got] == [1, 2, 1, 2, 1, 2]
    assert len({c["u"] for c in got}) == 6


def test_grids_written_by_hand_and_in_lists_and_tuples_count():
    space = Space({"a": {"grid_search": (1, 2)}, "b": [({"grid_search": range(3)},)]})
    assert space.grid_size == 6
    assert space.variant(5, 0).config == {"a": 2, "b": [(2,)]}


def test_a_dict_with_more_keys_than_grid_search_is_no_grid():
    config = {"a": {"grid_search": True, "cv": 5}}
    assert configs(config) == [config]


def test_values_of_a_grid_may_be_or_hold_samplers_and_functions():
    config = {
        "a": grid_search(
            [
                uniform(5, 6),
                {"lr": loguniform(1e-3, 1e-1), "n": [sample_from(lambda s: s.config.b * 2)]},
                sample_from(lambda s: s.config.b * 100),
                choice([choice([7])]),
            ]
        ),
        "b": 3,
    }
    space = Space(config)
    variants = [space.variant(i, 1) for i in range(4)]
    assert 5 <= variants[0].config["a"] <= 6
    assert variants[0].drawn == {"a": {"grid": 0, "then": variants[0].config["a"]}}
    assert variants[1].config["a"]["n"] == [6]
    assert set(variants[1].drawn) == {"a", "a/lr", "a/n/0"}
    assert variants[2].config["a"] == 300
    assert variants[3].drawn == {"a": {"grid": 3, "then": {"choice": 0, "then": {"choice": 0}}}}
    assert [space.rebuild(v.drawn) for v in variants] == [v.config for v in variants]


def test_elements_of_a_choice_may_hold_samplers():
    config = {"opt": choice([{"kind": "sgd", "momentum": uniform(0, 1)}, {"kind": "adam"}])}
    got = configs(config, 20)
    assert {c["opt"]["kind"] for c in got} == {"sgd", "adam"}
    assert all(("momentum" in c["opt"]) == (c["opt"]["kind"] == "sgd") for c in got)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"m": {"a": {"grid_search": 3}}},
            "grid_search at 'm/a' in config must be a non-empty list.*, got 3",
        ),
        (
            {"m": [{"grid_search": "abc"}]},
            "grid_search at 'm/0' in config must be a non-empty list.*, got 'abc'",
        ),
        ({"a": {"grid_search": []}}, "grid_search at 'a' in config must be a non-empty list"),
        (
            {"a": grid_search([[grid_search([1])]])},
            "'a/0' in config is a grid_search inside a grid_search",
        ),
        ({"a": choice([grid_search([1])])}, "'a' in config is a grid_search inside a choice"),
        ({"a/b": uniform(0, 1), "a": {"b": uniform(0, 1)}}, "'a/b' in config is the path of two"),
        (grid_search([1]), "config must be a dict of values and markers, got"),
        ([1], r"config must be a dict of values and markers, got \[1\]"),
    ],
)
def test_a_wrong_marker_is_an_error_that_names_its_path(config, said):
    with pytest.raises(ConfigError, match=said):
        Space(config)


def test_a_config_that_contains_itself_is_an_error():
    config = {"a": {}}
    config["a"]["b"] = config["a"]
    with pytest.raises(ConfigError, match="'a/b' in config contains itself"):
        Space(config)


def test_a_space_tells_what_it_holds():
    space = Space({"b": uniform(0, 1), "a": [grid_search([1, 2])], "c": 3})
    assert space.markers == ("a/0", "b")
    assert space.is_random
    assert not Space({"a": grid_search([1, 2])}).is_random
    assert Space({"a": 1}).markers == ()
    assert Space({}).grid_size == 1


# Values made of others


def test_functions_read_values_by_attribute_and_item_at_any_nesting():
    config = {
        "m": {"layers": [{"units": 8}, {"units": 16}], "rate": uniform(0, 1)},
        "a": sample_from(
            lambda s: s.config.m.layers[1].units + s.config["m"]["layers"][0]["units"]
        ),
        "b": sample_from(lambda s: s.config.m["rate"] == s.config["m"].rate),
        "c": sample_from(lambda s: s.config.get("none", 4)),
        "d": sample_from(lambda s: [x.units for x in s.config.m.layers[:1]]),
        "e": sample_from(lambda s: s.config.m.layers[-1].units),
    }
    got = one(config).config
    assert [got[key] for key in "abcde"] == [24, True, 4, [8], 16]


def test_values_may_depend_on_each_other_in_any_order():
    config = {
        "a": sample_from(lambda s: s.config.z + 1),
        "m": [sample_from(lambda s: s.config.m[1] * 2), sample_from(lambda s: s.config.a)],
        "z": sample_from(lambda s: s.config.g * 10),
        "g": grid_search([1, 2]),
    }
    assert [c["m"] for c in configs(config)] == [[22, 11], [42, 21]]


def test_a_function_may_return_part_of_the_config():
    config = {"m": {"x": uniform(0, 1)}, "n": sample_from(lambda s: [s.config.m])}
    got = one(config).config
    assert got["n"] == [got["m"]]
    assert type(got["n"][0]) is dict
    assert got["n"][0] is not got["m"]


def test_plain_lists_reach_functions_as_lists():
    config = {"a": [1, 2], "b": sample_from(lambda s: type(s.config.a) is list)}
    assert one(config).config["b"] is True


def test_lists_that_hold_markers_compare_as_lists():
    config = {"a": [choice([1]), 2], "b": sample_from(lambda s: s.config.a == [1, 2])}
    assert one(config).config["b"] is True


def test_a_cycle_is_an_error_that_draws_it():
    config = {
        "start": sample_from(lambda s: s.config.a),
        "a": sample_from(lambda s: s.config.m.b),
        "m": {"b": sample_from(lambda s: s.config.c[0])},
        "c": [sample_from(lambda s: s.config.a)],
    }
    with pytest.raises(ConfigError, match=r"depends on itself: a -> m/b -> c/0 -> a$"):
        one(config)


def test_the_exception_of_a_function_is_the_cause_of_an_error_that_names_the_path():
    config = {
        "a": sample_from(lambda s: s.config.m.b),
        "m": {"b": sample_from(lambda s: 1 / 0)},
    }
    with pytest.raises(ConfigError, match=r"'m/b' in config: .*ZeroDivisionError") as caught:
        one(config)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_config_error_of_the_function_itself_gets_the_path_too():
    with pytest.raises(ConfigError, match=r"'a' in config: .*high of uniform must be"):
        one({"a": sample_from(lambda s: uniform(2, 1))})


def test_a_missing_key_is_named_with_those_that_there_are():
    with pytest.raises(ConfigError, match="'m' in config has no 'x'; it has 'lr'"):
        one({"m": {"lr": 1}, "a": sample_from(lambda s: s.config.m.x)})
    with pytest.raises(ConfigError, match="config has no 'x'; it has 'a'"):
        one({"a": sample_from(lambda s: s.config["x"])})


@pytest.mark.parametrize("value", [uniform(0, 1), [sample_from(str)], {"b": grid_search([1])}])
def test_a_function_that_returns_a_marker_is_told_how_to_draw(value):
    with pytest.raises(ConfigError, match=r"sampler\.sample\(spec\.rng\)"):
        one({"a": sample_from(lambda s: value)})


def test_functions_draw_from_a_generator_of_their_own():
    config = {"hi": choice([10, 20]), "u": sample_from(lambda s: s.rng.uniform(0, s.config.hi))}
    values = [one(config, i).config["u"] for i in range(5)]
    assert len(set(values)) == 5
    assert values == [one(config, i).config["u"] for i in range(5)]


def test_another_marker_does_not_change_what_is_drawn():
    before = one({"b": uniform(0, 1)}, 3, 7).config["b"]
    after = one({"a": uniform(0, 1), "b": uniform(0, 1), "c": choice([1, 2])}, 3, 7).config["b"]
    assert before == after


# Objects


def test_choice_gives_back_the_very_objects():
    objects = [object(), 1, "a", None, 2.5, (1, 2), len]
    got = [c["x"] for c in configs({"x": choice(objects)}, 60)]
    assert all(any(value is given for given in objects) for value in got)
    assert {id(value) for value in got} == {id(value) for value in objects}


def test_choice_of_lists_gives_lists_and_mixed_types_stay():
    got = [c["x"] for c in configs({"x": choice([[1, 2], [3], "1", 1])}, 40)]
    assert all(value in ([1, 2], [3], "1", 1) for value in got)
    assert {type(value) for value in got} == {list, str, int}


def test_sample_gives_back_even_a_list_itself():
    element = [1]
    assert choice([element]).sample(random.Random(0)) is element


def test_no_two_variants_share_a_container():
    leaf = object()
    grid, options = [[leaf]], [{"x": [leaf]}]
    space = Space({"a": [leaf], "g": grid_search(grid), "c": choice(options), "t": ([],)})
    first, second = space.variant(0, 0).config, space.variant(0, 0).config
    for part in (lambda c: c["a"], lambda c: c["g"], lambda c: c["c"]["x"], lambda c: c["t"][0]):
        assert part(first) is not part(second)
    assert first["a"][0] is second["a"][0] is first["g"][0] is first["c"]["x"][0] is leaf


def test_what_a_function_returns_is_not_shared_between_variants():
    shared = [1]
    space = Space({"a": sample_from(lambda s: shared)})
    variant = space.variant(0, 0)
    variant.config["a"].append(2)
    assert space.variant(1, 0).config["a"] == [1]
    assert variant.drawn == {"a": {"value": [1]}}


def test_the_space_does_not_follow_later_changes_of_the_config():
    config = {"a": {"grid_search": [1, 2]}, "m": {"x": [1]}}
    space = Space(config)
    config["a"]["grid_search"].clear()
    config["m"]["x"].append(2)
    assert space.variant(1, 0).config == {"a": 2, "m": {"x": [1]}}


def test_keys_and_kinds_of_containers_are_kept():
    Point = namedtuple("Point", "x y")  # noqa: PYI024 - what users have
    config = {
        1: uniform(0, 1),
        (2, 3): "x",
        None: {True: choice([5])},
        "o": OrderedDict(b=1, a=randint(0, 1)),
        "d": defaultdict(list, k=choice([6])),
        "p": Point(1, grid_search([2])),
    }
    variant = one(config)
    got = variant.config
    assert list(got) == list(config)
    assert got[None] == {True: 5}
    assert got["o"] == OrderedDict(b=1, a=0)
    assert type(got["o"]) is OrderedDict
    assert got["d"]["new"] == []
    assert got["p"] == Point(1, 2)
    assert got["p"].y == 2
    assert set(variant.drawn) == {"1", "None/True", "o/a", "d/k", "p/1"}


# Labels and journals


def test_the_tag_lists_what_was_drawn_by_path():
    config = {
        "u": sample_from(lambda s: 0.853661234),
        "m": {"k": sample_from(lambda s: 0.123456789), "l": [[sample_from(lambda s: 3)]]},
        "a": grid_search(["x/y"]),
        "f": choice([len]),
        "plain": 5,
    }
    assert one(config).tag == "a=x_y,f=len,k=0.12346,l_0_0=3,u=0.85366"


def test_the_tag_is_cut_at_120_characters():
    assert one({"a": choice(["x" * 200]), "b": choice([1])}).tag == "a=" + "x" * 118


def test_drawn_holds_positions_and_plain_numbers_in_the_order_of_paths():
    config = {
        "z": grid_search(["p", "q"]),
        "c": choice([object()]),
        "f": sample_from(lambda s: {"k": [1, None]}),
        "i": randint(4, 5),
        "t": sample_from(lambda s: (1, 2)),
    }
    drawn = one(config, 1).drawn
    assert drawn == {
        "c": {"choice": 0},
        "f": {"value": {"k": [1, None]}},
        "i": 4,
        "t": {"repr": "(1, 2)"},
        "z": {"grid": 1},
    }
    assert list(drawn) == sorted(drawn)
    assert type(drawn["i"]) is int
    assert json.loads(json.dumps(drawn)) == drawn


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, {1}, len, (1,), [object()]])
def test_what_is_not_plain_json_is_noted_by_its_repr(value):
    assert set(one({"a": sample_from(lambda s: value)}).drawn["a"]) == {"repr"}


@pytest.mark.parametrize(
    ("drawn", "plain"),
    [(np.float64(0.5), 0.5), (np.float32(0.5), 0.5), (np.int64(3), 3), (np.str_("a"), "a"),
     (np.bool_(True), True), ([np.int64(1), {"k": np.float64(2)}], [1, {"k": 2.0}])],
    ids=repr,
)  # fmt: skip
def test_what_numpy_draws_is_noted_as_the_plain_value_that_the_trial_gets_then_and_again(
    drawn, plain
):
    values = [np.float64(9), drawn]  # as a source of its own would give them: never the same again
    space = Space({"a": sample_from(lambda s: values.pop())})
    variant = space.variant(0, 0)
    assert variant.drawn["a"] == {"value": plain}
    for config in (variant.config, space.rebuild(variant.drawn)):
        assert config == {"a": plain}
        assert repr(config["a"]) == repr(plain)


@pytest.mark.parametrize("value", [np.inf, np.datetime64("2020"), np.array(3), np.complex64(1)])
def test_what_numpy_draws_and_json_cannot_hold_stays_as_it_is(value):
    variant = one({"a": sample_from(lambda s: value)})
    assert variant.config["a"] is value
    assert set(variant.drawn["a"]) == {"repr"}


@pytest.mark.parametrize(
    ("before", "now"), [((1, 2), (1, 3)), ((1, 2), 5), ({1, 2}, {1, 3}), (object(), (1,))]
)
def test_a_function_that_gives_another_value_when_it_is_called_again_is_refused_by_name(
    before, now
):
    values = [now, before]
    space = Space({"net": {"a": sample_from(lambda s: values.pop())}})
    drawn = space.variant(0, 0).drawn
    with pytest.raises(SpecMismatch) as caught:
        space.rebuild(drawn)
    assert f"'net/a' in config was {str(before)[:10]}" in str(caught.value)
    assert f"is {now!r} now" in str(caught.value)
    assert "spec.rng" in str(caught.value)


def test_a_function_that_makes_an_object_without_a_name_of_its_own_may_make_it_again():
    space = Space({"a": sample_from(lambda s: object()), "b": sample_from(lambda s: {s})})
    drawn = space.variant(0, 0).drawn
    assert set(space.rebuild(drawn)) == {"a", "b"}


def test_an_object_whose_repr_fails_can_be_drawn():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    value = Odd()
    variant = one({"a": sample_from(lambda s: value)})
    assert variant.config["a"] is value
    assert "RuntimeError" in variant.drawn["a"]["repr"]


def test_rebuild_gives_the_same_objects_and_calls_again_what_json_cannot_hold():
    marker = object()
    config = {
        "c": choice([1, marker]),
        "v": sample_from(lambda s: s.rng.random()),
        "r": sample_from(lambda s: (s.rng.random(), s.config.v)),
    }
    space = Space(config)
    for index in range(6):
        variant = space.variant(index, 5)
        assert space.rebuild(json.loads(json.dumps(variant.drawn))) == variant.config


def test_rebuild_uses_a_recorded_value_without_calling_the_function():
    space = Space({"a": sample_from(lambda s: 1 / 0)})
    assert space.rebuild({"a": {"value": [1]}}) == {"a": [1]}


def test_rebuild_gives_containers_that_the_notes_do_not_share():
    drawn = {"a": {"value": [1]}}
    space = Space({"a": sample_from(lambda s: [1])})
    space.rebuild(drawn)["a"].append(2)
    assert drawn == {"a": {"value": [1]}}


@pytest.mark.parametrize(
    "drawn",
    [
        {"g": {"grid": 2}, "u": 0.5},
        {"g": {"grid": -1}, "u": 0.5},
        {"g": {"grid": True}, "u": 0.5},
        {"g": {"choice": 0}, "u": 0.5},
        {"g": {"grid": 0}},
        {"g": {"grid": 0}, "u": {"choice": 0}},
        {"g": {"grid": 0}, "u": 0.5, "gone": 1},
        {"g": {"grid": 0, "then": 3}, "u": 0.5},
        {},
    ],
)
def test_rebuild_refuses_what_another_space_drew(drawn):
    space = Space({"g": grid_search(["a", "b"]), "u": uniform(0, 1)})
    assert space.rebuild({"g": {"grid": 1}, "u": 0.5}) == {"g": "b", "u": 0.5}
    with pytest.raises(SpecMismatch, match=r"^'(g|u|gone)': "):
        space.rebuild(drawn)


def test_variants_are_the_same_in_another_process():
    code = (
        "from asynctune.space import *\n"
        "c = {'a': uniform(0, 1), 'b': choice(['x', 'y', 'z']), 'n': randn(),"
        " 'f': sample_from(lambda s: s.rng.random())}\n"
        "print(Space(c).variant(3, 11).drawn)\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert said != {""}


def test_what_is_drawn_for_a_seed_never_changes():
    expected = {"u": 0.11066390110309521, "i": 91, "n": 0.6069391751378074}
    drawn = one({"u": uniform(0, 1), "i": randint(0, 1000), "n": randn()}, 2, 42).drawn
    assert drawn == pytest.approx(expected)


def test_views_can_be_copied_deeply():
    config = {
        "m": {"x": [choice([1]), {"y": 2}]},
        "a": sample_from(lambda s: copy.deepcopy(s.config.m)),
    }
    assert one(config).config["a"] == {"x": [1, {"y": 2}]}
