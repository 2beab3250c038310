"""What holds of searchers whatever they are told: bounds, replay, limits, and evenness."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynctune.errors import MetricMissing
from asynctune.space.domains import (
    choice,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    uniform,
)
from asynctune.space.space import Space
from asynctune.suggest._axes import axis_of
from asynctune.suggest.base import FINISHED
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.limiter import ConcurrencyLimiter
from asynctune.suggest.optuna import OptunaSearch
from asynctune.suggest.quasi_random import QuasiRandomSearch, ScrambledHalton
from asynctune.suggest.random_search import RandomSearch
from asynctune.suggest.repeater import Repeater

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(calm, max_examples=25)
floats = st.floats(-1e9, 1e9)
positive = st.floats(1e-9, 1e9)
steps = st.sampled_from([0.001, 0.05, 0.1, 0.25, 0.3, 1 / 3, 2.0, 7.5])
probabilities = st.floats(0, 1, exclude_max=True)


@st.composite
def samplers(draw):
    kind = draw(st.sampled_from([
        "uniform", "quniform", "loguniform", "qloguniform", "randint", "qrandint", "lograndint",
        "qlograndint", "randn", "qrandn", "choice",
    ]))  # fmt: skip
    q, width = draw(steps), draw(st.integers(0, 1000))
    match kind:
        case "uniform":
            return uniform(*sorted((draw(floats), draw(floats))))
        case "quniform":
            first = draw(st.integers(-1000, 1000))
            slack = draw(st.floats(0, 0.9))
            return quniform((first - slack) * q, (first + width + slack) * q, q)
        case "loguniform":
            return loguniform(*sorted((draw(positive), draw(positive))))
        case "qloguniform":
            first, slack = draw(st.integers(1, 1000)), draw(st.floats(0, 0.9))
            return qloguniform((first - slack) * q, (first + width + slack) * q, q)
        case "randint":
            low = draw(st.integers(-(2**100), 2**100))
            return randint(low, low + 1 + draw(st.integers(0, 2**101)))
        case "qrandint":
            low, k = draw(st.integers(-(10**6), 10**6)), draw(st.integers(1, 1000))
            return qrandint(low, low + k + width, k)
        case "lograndint":
            low = draw(st.integers(1, 2**100))
            return lograndint(low, low + 1 + draw(st.integers(0, 2**101)))
        case "qlograndint":
            low, k = draw(st.integers(1, 10**6)), draw(st.integers(1, 1000))
            return qlograndint(low, low + k + width, k)
        case "randn":
            return randn(draw(floats), draw(st.floats(0, 1e6)))
        case "qrandn":
            return qrandn(draw(st.floats(-1e6, 1e6)), draw(st.floats(0, 1e4)), q)
    return choice(draw(st.lists(st.sampled_from([None, True, 1, 1.0, "a", (1, 2)]), min_size=1)))


def is_of(domain, value):
    """Whether the sampler itself could have drawn it, as its own documentation says."""
    kind = type(domain).__name__
    if kind == "Choice":
        return any(value is category for category in domain.categories)
    if kind in ("RandInt", "LogRandInt"):
        high = domain.high - (domain.q is None)
        return type(value) is int and domain.low <= value <= high and value % (domain.q or 1) == 0
    q = domain.q
    if type(value) is not float or not math.isfinite(value):
        return False
    on_step = q is None or math.isclose(value / q, round(value / q), rel_tol=1e-9, abs_tol=1e-9)
    return on_step and (kind == "RandN" or domain.low <= value <= domain.high)


# Axes


@calm
@given(samplers(), probabilities)
def test_an_axis_gives_what_its_sampler_can_give(domain, probability):
    axis = axis_of(domain)
    assert is_of(domain, axis.at(probability))
    raw = axis.low * (1 - probability) + axis.high * probability
    assert is_of(domain, axis.value(raw))
    assert is_of(domain, axis.value(axis.low))
    assert is_of(domain, axis.value(axis.high))


@calm
@given(samplers(), st.integers(0, 2**48))
def test_what_a_sampler_draws_is_found_on_its_axis(domain, seed):
    axis, value = axis_of(domain), domain.sample(random.Random(seed))
    assert type(axis.plain(value)) is type(value)
    raw = axis.raw(value)
    assert axis.low <= raw <= axis.high
    again = axis.value(raw)
    if type(domain).__name__ == "RandN":
        close = domain.mean - 4.7 * domain.sd < value < domain.mean + 4.7 * domain.sd
        assert not close or math.isclose(
            again, value, rel_tol=1e-6, abs_tol=1e-6 + domain.sd * 1e-3
        )
    elif isinstance(value, int | float) and not isinstance(value, bool):
        assert math.isclose(again, value, rel_tol=1e-12, abs_tol=1e-12)
    else:
        assert again == value


@calm
@given(samplers(), probabilities, probabilities)
def test_more_probability_is_never_less_of_a_number(domain, one, other):
    if type(domain).__name__ != "Choice":
        axis, (low, high) = axis_of(domain), sorted((one, other))
        assert axis.at(low) <= axis.at(high)


# Quasi-random


@calm
@given(
    st.sampled_from([2, 3, 5, 7, 11, 13]),
    st.integers(1, 2),
    st.integers(0, 50),
    st.integers(0, 2**48),
)
def test_any_run_of_numbers_fills_each_part_of_a_range_once(base, power, block, seed):
    parts, dimension = base**power, ScrambledHalton(base, seed, "x")
    points = [dimension.at(block * parts + number) for number in range(parts)]
    assert sorted(int(point * parts) for point in points) == list(range(parts))


# Streams

MAKERS = {
    "random": RandomSearch,
    "quasi-random": QuasiRandomSearch,
    "TPE": OptunaSearch,
    "BOHB": lambda: BOHBSearch(min_points=2),
    "limiter": lambda: ConcurrencyLimiter(OptunaSearch(), 2),
    "repeater": lambda: Repeater(BOHBSearch(min_points=2, random_fraction=0), 2),
    "both": lambda: ConcurrencyLimiter(Repeater(OptunaSearch(), 3), 2),
}
every = pytest.mark.parametrize("name", MAKERS)
scores = st.one_of(st.floats(-10, 10), st.sampled_from([math.nan, math.inf, -math.inf, None]))
commands = st.lists(
    st.one_of(
        st.tuples(st.just("suggest"), st.just(0), st.just(0.0)),
        st.tuples(
            st.sampled_from(["result", "complete", "error", "removed", "again", "adopt"]),
            st.integers(0, 20),
            scores,
        ),
    ),
    max_size=40,
)
spaces = st.dictionaries(st.sampled_from("abcd"), samplers(), min_size=1, max_size=3)


def driven(name, config, stream, seed=1):
    """Go through a stream of commands; return what was answered and how many were out at once."""
    space, searcher = Space(config), MAKERS[name]()
    searcher.bind(space, "loss", "min", seed)
    live, over, answers, most, lacked = [], [], [], 0, False
    for number, (command, which, score) in enumerate(stream):
        row = {"training_iteration": 1 + which % 3} | ({} if score is None else {"loss": score})
        lacked |= score is None
        trial_id = f"t{number}"
        try:
            if command == "suggest":
                values = searcher.suggest(trial_id)
                assert values is not FINISHED
                answers.append(values if values is None else space.variant(number, 0, values).drawn)
                for path, domain in space.samplers.items():
                    assert values is None or is_of(domain, values[path]), (domain, values)
                live += [] if values is None else [trial_id]
                most = max(most, len(live))
            elif command == "adopt" and len(over) < which:
                drawn = space.values_of(space.variant(number, 9).config)
                searcher.adopt(trial_id, drawn)
                searcher.on_trial_complete(trial_id, row)
                over.append(trial_id)
            elif command == "result" and live:
                searcher.on_trial_result(live[which % len(live)], row)
            elif command in ("complete", "error", "removed") and live:
                over.append(live.pop(which % len(live)))
                last = None if command == "removed" else row
                searcher.on_trial_complete(over[-1], last, error=command == "error")
            elif command == "again" and over:
                searcher.on_trial_complete(over[which % len(over)], row)
                searcher.on_trial_result(over[which % len(over)], row)
        except MetricMissing:
            assert lacked, (
                "a group is told of when the last of it is known, so it may be an earlier row's"
            )
    return answers, most


@every
@few
@given(config=spaces, stream=commands)
def test_the_same_stream_gives_the_same_answers_within_the_space(name, config, stream):
    first, second = driven(name, config, stream), driven(name, config, stream)
    assert json.dumps(first) == json.dumps(second)
    if name == "limiter":
        assert first[1] <= 2


@every
@few
@given(config=spaces, stream=commands, split=st.integers(0, 40))
def test_no_answer_depends_on_what_comes_later(name, config, stream, split):
    whole, part = driven(name, config, stream)[0], driven(name, config, stream[:split])[0]
    assert whole[: len(part)] == part
