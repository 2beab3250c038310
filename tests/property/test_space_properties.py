"""What holds of every space: bounds, determinism, the grid, and that a journal gives the same config."""

from __future__ import annotations

import copy
import json
import math
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynctune.space.domains import (
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

# Nothing here is about time, and other work may slow the machine down.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**48)
floats = st.floats(-1e6, 1e6)
positive = st.floats(1e-6, 1e6)
ints = st.integers(-(10**6), 10**6)
steps = st.sampled_from([0.001, 0.05, 0.1, 0.25, 0.3, 1 / 3, 2.0, 7.5])


def draw(domain, seed):
    rng = random.Random(seed)
    return [domain.sample(rng) for _ in range(5)]


def is_multiple(value, q):
    return math.isclose(value / q, round(value / q), rel_tol=1e-12, abs_tol=1e-9)


# Samplers


@calm
@given(floats, floats, seeds)
def test_uniform_stays_within_its_bounds(a, b, seed):
    low, high = sorted((a, b))
    assert all(low <= value <= high for value in draw(uniform(low, high), seed))


@calm
@given(positive, positive, seeds)
def test_loguniform_stays_within_its_bounds_and_is_positive(a, b, seed):
    low, high = sorted((a, b))
    assert all(0 < low <= value <= high for value in draw(loguniform(low, high), seed))


@calm
@given(st.integers(-500, 500), st.integers(0, 500), steps, seeds)
def test_quniform_gives_multiples_and_stays_within_its_bounds(first, count, q, seed):
    low, high = first * q, (first + count) * q
    for value in draw(quniform(low, high, q), seed):
        assert low <= value <= high
        assert is_multiple(value, q)


@calm
@given(floats, st.floats(8, 1e4), steps, seeds)
def test_quniform_never_crosses_bounds_that_are_no_multiples(low, width, q, seed):
    for value in draw(quniform(low, low + width, q), seed):
        assert low <= value <= low + width
        assert is_multiple(value, q)


@calm
@given(positive, st.floats(8, 1e4), steps, seeds)
def test_qloguniform_gives_positive_multiples_within_its_bounds(low, width, q, seed):
    for value in draw(qloguniform(low, low + width, q), seed):
        assert 0 < low <= value <= low + width
        assert is_multiple(value, q)


@calm
@given(ints, st.integers(1, 10**6), seeds)
def test_randint_excludes_its_upper_bound(low, width, seed):
    values = draw(randint(low, low + width), seed)
    assert all(type(value) is int and low <= value < low + width for value in values)


@calm
@given(st.integers(1, 10**6), st.integers(1, 10**6), seeds)
def test_lograndint_excludes_its_upper_bound(low, width, seed):
    values = draw(lograndint(low, low + width), seed)
    assert all(type(value) is int and low <= value < low + width for value in values)


@calm
@given(ints, st.integers(1, 10**4), st.integers(0, 10**4), seeds)
def test_qrandint_gives_multiples_within_its_bounds(low, q, width, seed):
    for value in draw(qrandint(low, low + q + width, q), seed):
        assert low <= value <= low + q + width
        assert value % q == 0


@calm
@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(0, 10**4), seeds)
def test_qlograndint_gives_multiples_within_its_bounds(low, q, width, seed):
    for value in draw(qlograndint(low, low + q + width, q), seed):
        assert low <= value <= low + q + width
        assert value % q == 0


@calm
@given(floats, st.floats(0, 1e3), steps, seeds)
def test_qrandn_gives_finite_multiples(mean, sd, q, seed):
    assert all(is_multiple(value, q) for value in draw(qrandn(mean, sd, q), seed))


# Spaces

plain = st.sampled_from([None, True, 3, -0.5, "a/b", [], [1, [2]], {"p": {"q": "r"}}])
samplers = st.sampled_from(
    [
        uniform(0, 1),
        quniform(0, 1, 0.1),
        loguniform(1e-4, 1),
        qloguniform(0.1, 1, 0.1),
        randint(-5, 5),
        qrandint(0, 10, 2),
        lograndint(1, 100),
        qlograndint(5, 100, 5),
        randn(),
        qrandn(0, 1, 0.5),
        sample_from(lambda spec: spec.rng.random()),
        sample_from(lambda spec: sorted(spec.config)),
        sample_from(lambda spec: spec.config["base"] + [spec.config.knob]),
    ]
)
choices = st.lists(plain | samplers, min_size=1, max_size=3).map(choice)
grids = st.lists(plain | samplers | choices, min_size=1, max_size=3).map(grid_search)
trees = st.recursive(
    plain | samplers | choices | grids,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_leaves=5,
)
configs = st.fixed_dictionaries(
    {"base": st.just([1]), "knob": samplers.filter(lambda s: not hasattr(s, "func"))},
    optional=dict.fromkeys("abc", trees),
)


@calm
@given(configs, seeds, st.lists(st.integers(0, 50), min_size=1, max_size=4))
def test_a_variant_does_not_depend_on_what_was_drawn_before(config, seed, order):
    once = {index: Space(config).variant(index, seed) for index in order}
    space = Space(config)
    assert all(space.variant(index, seed) == once[index] for index in reversed(order))


@calm
@given(configs, seeds, st.integers(0, 1000))
def test_a_journal_gives_the_same_config(config, seed, index):
    space = Space(config)
    variant = space.variant(index, seed)
    noted = json.loads(json.dumps(variant.drawn, allow_nan=False))
    assert noted == variant.drawn
    assert space.rebuild(noted) == variant.config


@calm
@given(configs, seeds)
def test_a_config_is_left_as_it_was(config, seed):
    before = copy.deepcopy(config)
    space = Space(config)
    space.rebuild(space.variant(3, seed).drawn)
    assert repr(config) == repr(before)


@calm
@given(configs, seeds)
def test_what_is_drawn_lies_at_markers_and_the_tag_is_short(config, seed):
    space = Space(config)
    variant = space.variant(0, seed)
    assert set(variant.drawn) <= set(space.markers)
    assert len(variant.tag) <= 120
    assert "grid_search" not in repr(variant.config)


@calm
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(1, 4), max_size=4),
    st.integers(0, 100),
)
def test_every_point_of_the_grid_comes_once_in_any_consecutive_indices(sizes, start):
    config = {key: {"v": grid_search(range(size))} for key, size in sizes.items()}
    space = Space(config | {"u": randn()})
    assert space.grid_size == math.prod(sizes.values())
    variants = [space.variant(start + i, 0) for i in range(space.grid_size)]
    points = {tuple(v.config[key]["v"] for key in sorted(sizes)) for v in variants}
    assert len(points) == space.grid_size
