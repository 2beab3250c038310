"""A space as text: what a resume compares."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import pathlib
import uuid

import numpy as np
import pytest

import asynctune as tune
from asynctune.space.fingerprint import differences
from asynctune.space.space import Space


def outline(config):
    return Space(config).fingerprint()


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
    assert found["net/act"] == 'choice(["relu", <type object>])'
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


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Fails:
    def __repr__(self):
        raise RuntimeError


class Numbered:
    def __repr__(self):
        return f"<Numbered {id(self)}>"


class Braces:
    def __init__(self, names):
        self.names = names

    def __repr__(self):
        return f"Braces({self.names})"


def one_function(spec):
    pass


def another_function(spec):
    pass


PAIRS = [
    (np.float64(0.1), np.float64(0.7)),
    (np.int64(1), np.int64(2)),
    (np.int64(1), 1),
    (np.array([1, 2]), np.array([1, 3])),
    (pathlib.PurePosixPath("/a"), pathlib.PurePosixPath("/b")),
    (dt.date(2024, 1, 1), dt.date(2024, 1, 2)),
    (decimal.Decimal("0.1"), decimal.Decimal("0.2")),
    (fractions.Fraction(1, 3), fractions.Fraction(1, 4)),
    (Colour.RED, Colour.BLUE),
    (b"a", b"b"),
    (1j, 2j),
    (uuid.UUID(int=1), uuid.UUID(int=2)),
    ({"a", "b"}, {"a", "c"}),
    (int, float),
    (one_function, another_function),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize(
    "put", [lambda v: v, lambda v: tune.choice([v]), lambda v: tune.grid_search([0, v])]
)
def test_another_value_of_any_kind_is_another_space_wherever_it_stands(put, one, other):
    (difference,) = differences(outline({"a": put(one)}), outline({"a": put(other)}))
    assert difference.startswith("config['a'] was ")
    assert differences(outline({"a": put(one)}), outline({"a": put(one)})) == []


def test_what_another_process_would_show_in_another_way_is_described_by_its_kind_alone():
    found = outline({"a": object(), "b": Braces({"x", "y"}), "c": Fails(), "d": Numbered()})
    assert found == {"a": "<object>", "b": "<Braces>", "c": "<Fails>", "d": "<Numbered>"}


def test_the_order_in_which_a_process_has_the_elements_of_a_set_does_not_matter():
    # Equal hashes: they come in the order in which they were put in.
    one, other = ({*order} for order in ((0, 2**61 - 1), (2**61 - 1, 0)))
    assert repr(one) != repr(other)
    assert differences(outline({"a": one}), outline({"a": other})) == []


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
