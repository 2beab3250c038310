"""Whatever is normalised is JSON, stays equal to what was reported, and stays as it is from then on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctune import result
from asynctune.errors import NotSerializable

numbers = st.one_of(st.integers(), st.floats(), st.booleans())
leaves = st.one_of(st.none(), numbers, st.text())
numpy_leaves = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.booleans().map(np.bool_),
    st.lists(st.floats(), max_size=3).map(np.array),
)


def nested(of):
    return st.recursive(
        of,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3),
                                st.tuples(inner, inner)),
        max_leaves=12,
    )  # fmt: skip


rows = st.dictionaries(st.text(), nested(leaves), max_size=5)
anything = st.dictionaries(
    st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary()),
    nested(
        st.one_of(leaves, numpy_leaves, st.binary(), st.complex_numbers(), st.sets(st.integers()))
    ),
    max_size=5,
)


def same(a, b):
    """Equality that holds NaN equal to NaN, and tells True from 1."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def finite(value):
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(rows)
def test_plain_rows_keep_their_values(row):
    assert same(result.normalise(row), as_lists(row))


@given(anything)
def test_a_row_is_refused_by_its_key_or_becomes_json_that_survives_the_journey(row):
    try:
        normal = result.normalise(row)
    except NotSerializable:
        with pytest.raises(NotSerializable, match=r"^result"):
            result.normalise(row)
        return
    assert same(result.normalise(normal), normal)
    assert same(json.loads(result.encode(normal)), normal)
    strict = result.strict_json(normal)
    assert "\n" not in strict
    assert same(json.loads(strict, parse_constant=no_constant), finite(normal))


@given(anything)
def test_anything_can_be_written_for_people_to_read(value):
    text = result.strict_json(result.jsonable(value), indent=2, sort_keys=True)
    json.loads(text, parse_constant=no_constant)


@given(st.dictionaries(st.text("abc", min_size=1), nested(leaves), max_size=5))
def test_flattening_is_idempotent_and_loses_no_leaf_when_keys_have_no_delimiter(row):
    flat = result.flatten(row)
    assert not any(isinstance(value, dict) for value in flat.values())
    assert same(as_lists(result.flatten(flat)), as_lists(flat))


@given(st.floats(width=32), st.integers(-(2**63), 2**63 - 1))
def test_numpy_scalars_keep_their_value(number, integer):
    row = result.normalise(
        {"f": np.float32(number), "i": np.int64(integer), "g": np.float64(number)}
    )
    assert same(row, {"f": number, "i": integer, "g": number})
