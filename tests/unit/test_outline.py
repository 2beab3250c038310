"""A space as text: what a resume compares."""

from __future__ import annotations

import pytest

import asynctune as tune
from asynctune.outline import differences
from asynctune.space import Space


def outline(config):
    return Space(config).outline()


def test_it_names_every_leaf_and_what_is_drawn_there():
    found = outline(
        {
            "lr": tune.loguniform(1e-4, 1),
            "net": {"layers": tune.grid_search([1, 2]), "act": tune.choice(["relu", object])},
            "plain": [1, 2],
            "mixed": [1, tune.uniform(0, 1)],
            "f": tune.sample_from(lambda spec: 1),
            "empty": {},
        }
    )
    assert found["lr"].startswith("LogUniform(low=0.0001, high=1")
    assert found["net/layers"] == "grid_search([1, 2])"
    assert found["net/act"] == 'choice(["relu", <type>])'
    assert (found["plain"], found["empty"], found["f"]) == ("[1, 2]", "{}", "sample_from(...)")
    assert found["mixed/0"] == "1"
    assert found["mixed/1"].startswith("Uniform(")


@pytest.mark.parametrize(
    "config",
    [{}, {"a": object()}, {"a": lambda: 1}, {"a": float("nan")}, {"a": "x" * 10_000, 3: None}],
)
def test_the_same_space_has_the_same_outline_even_with_objects_that_are_never_equal(config):
    import copy

    other = {key: copy.copy(value) for key, value in config.items()}
    assert differences(outline(config), outline(other)) == []


def test_long_values_are_cut_and_still_told_apart():
    one, other = ({"data": [*range(5_000), last]} for last in (1, 2))
    assert len(outline(one)["data"]) < 200
    (difference,) = differences(outline(one), outline(other))
    assert difference.startswith("config['data'] was [0, 1, 2")


def test_a_secret_is_compared_by_its_reference():
    one, other = ({"key": tune.Secret(f"env:{name}")} for name in ("A", "B"))
    assert differences(outline(one), outline(other)) == [
        "config['key'] was Secret('env:A') and is Secret('env:B')"
    ]
