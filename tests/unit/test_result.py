"""Result rows: what is normalised to what, what is refused by its key, and strict JSON."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from asynctune import result
from asynctune.errors import ConfigError, NotSerializable, TuneError


class Color(enum.IntEnum):
    RED = 1


class Text(enum.StrEnum):
    A = "a"


class Strange(str):
    __slots__ = ()

    def __str__(self):
        return "another"


class Pair(NamedTuple):
    x: int
    y: int


class Tensor:
    """Anything with a ``tolist`` as arrays have it."""

    def __init__(self, listed):
        self.listed = listed

    def tolist(self):
        return self.listed


class HasNoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5), (np.float32(0.5), 0.5), (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5), (np.int8(-3), -3), (np.uint64(2**63), 2**63),
        (np.bool_(True), True), (np.str_("a"), "a"), (np.array(3), 3), (np.array([1.5, 2]), [1.5, 2.0]),
        (np.array([[1], [2]]), [[1], [2]]), (np.array([]), []), (np.array(["a"]), ["a"]),
        (np.array([1, "a", None], dtype=object), [1, "a", None]), (np.ma.array([1, 2]), [1, 2]),
        (Color.RED, 1), (Text.A, "a"), (Strange("kept"), "kept"), ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, 2), [1, 2]), (collections.OrderedDict(a=1), {"a": 1}),
        ({1: {2.5: "x"}}, {"1": {"2.5": "x"}}), ({np.int64(1): 0}, {"1": 0}), ({Text.A: 1}, {"a": 1}),
        (Tensor(2.5), 2.5), (Tensor([Tensor(1)]), [1]), (None, None), ("", ""), ([], []), ({}, {}),
        (2**70, 2**70), ("\ud800", "\ud800"),
    ],
)  # fmt: skip
def test_values_become_plain_python_ones(value, plain):
    row = {"key": value}
    normal = result.normalise(row)
    assert normal == {"key": plain}
    assert type(normal["key"]) is type(plain)
    assert row["key"] is value
    assert json.loads(result.strict_json(normal)) == {"key": plain}
    assert json.loads(result.encode(normal)) == {"key": plain}


def test_nan_and_infinities_stay_and_are_null_in_strict_json_only():
    given = {"a": np.float32("nan"), "b": [math.inf, np.array([-math.inf])], "c": "NaN"}
    row = result.normalise(given)
    assert math.isnan(row["a"])
    assert row["b"] == [math.inf, [-math.inf]]
    assert json.loads(result.strict_json(row)) == {"a": None, "b": [None, [None]], "c": "NaN"}
    assert result.strict_json({"b": 1, "a": math.nan}, sort_keys=True) == '{"a":null,"b":1}'
    assert json.loads(result.encode(row))["b"] == row["b"]


@pytest.mark.parametrize(
    "value",
    [object(), b"bytes", {1, 2}, 1j, np.complex64(1), np.datetime64("2020-01-01"), decimal.Decimal(1),
     dt.date(2020, 1, 1), Path("/"), lambda: 0, int, np.float64, np.array([object()]),
     HasNoRepr(), range(3), (x for x in ())],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_none_of_jsons_is_refused_by_its_key(value):
    for row, where in (
        ({"ok": 1, "bad": value}, r"result\['bad'\]"),
        ({"outer": {"list": [0, {"bad": value}]}}, r"result\['outer'\]\['list'\]\[1\]\['bad'\]"),
    ):
        with pytest.raises(NotSerializable, match=where):
            result.normalise(row)
    with pytest.raises(NotSerializable, match="metrics of trial 5"):
        result.normalise({"bad": value}, "metrics of trial 5")


@pytest.mark.parametrize("key", [None, (1, 2), b"k", object(), HasNoRepr(), frozenset()])
def test_keys_that_json_has_not_are_refused(key):
    for row, where in (({key: 1}, "result"), ({"outer": {key: 1}}, r"result\['outer'\]")):
        with pytest.raises(NotSerializable, match=f"{where}.*key"):
            result.normalise(row)
    assert all(issubclass(NotSerializable, base) for base in (TuneError, ConfigError, TypeError))


@pytest.mark.parametrize("row", [{1: "a", "1": "b"}, {"n": {1: "a", "1": "b"}}])
def test_two_keys_that_become_one_lose_nothing_silently(row):
    with pytest.raises(NotSerializable, match="'1'"):
        result.normalise(row)


def test_a_row_that_contains_itself_is_refused_by_its_key_and_leniently_cut():
    row = {"ok": 1}
    row["self"] = {"list": [row]}
    with pytest.raises(NotSerializable, match=r"result\['self'\]"):
        result.normalise(row)
    assert "..." in json.dumps(result.jsonable(row))


class ToListRaises:
    def tolist(self):
        raise RuntimeError("on another device")

    def __repr__(self):
        return "<a tensor>"


@pytest.mark.parametrize(
    ("value", "plain"),
    [({"a": {1, 2}}, {"a": "{1, 2}"}), (b"x", "b'x'"), ({(1, 2): 3}, {"(1, 2)": 3}),
     ({None: 1}, {"None": 1}), (np.float32(0.5), 0.5), ((1, Path("/x")), [1, "PosixPath('/x')"]),
     (ToListRaises(), "<a tensor>"),
     (int, "<class 'int'>")],
    ids=repr,
)  # fmt: skip
def test_for_reading_by_people_anything_can_be_written(value, plain):
    assert result.jsonable(value) == plain


def test_not_even_a_repr_that_raises_or_never_ends_spoils_a_config():
    assert "HasNoRepr" in result.jsonable({"x": HasNoRepr()})["x"]
    assert len(result.jsonable(b"x" * 10**6)) <= 200


def test_flattening_joins_keys_and_keeps_lists_whole():
    row = {"a": {"b": {"c": 1}, "d": []}, "e": [{"f": 1}], "g": {}, "h": None}
    assert result.flatten(row) == {"a/b/c": 1, "a/d": [], "e": [{"f": 1}], "h": None}
    assert result.flatten({"a": {"b": 1}}, delimiter=".") == {"a.b": 1}
    assert row["a"] == {"b": {"c": 1}, "d": []}


def test_metrics_are_what_users_reported():
    filled = dict.fromkeys(result.AUTO_FILLED, 0)
    reported = {"loss": 1, "nested": {"done": True}, "mean_accuracy": 2, "timesteps_this_iter": 3}
    flat = {"loss": 1, "nested/done": True, "mean_accuracy": 2, "timesteps_this_iter": 3}
    assert result.metrics({**filled, **reported}) == flat


def test_the_keys_are_the_ones_that_users_know():
    assert (result.DONE, result.SHOULD_CHECKPOINT) == ("done", "should_checkpoint")
    assert result.TRAINING_ITERATION == "training_iteration"
    named = {
        name: value for name, value in vars(result).items() if name.isupper() and name[0] != "_"
    }
    assert {k: v for k, v in named.items() if isinstance(v, str) and v != k.lower()} == {
        "RESULT_DUPLICATE": "__duplicate__"
    }
