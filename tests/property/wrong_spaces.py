"""Configs as hypothesis draws them: right ones, and those in which something cannot be a space."""

from __future__ import annotations

import decimal
import fractions
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from call_parts import (
    HUGE,
    MINUS_HUGE,
    Hostile,
    HostileError,
    Made,
    Pair,
    Unpicklable,
    Wrong,
    closes_over,
    function,
    junk,
    made,
    names,
    no_argument,
    three_arguments,
)
from hypothesis import strategies as st

import asynctune as tune
from asynctune.errors import ConfigError

KEYS = [
    "lr",
    "layers",
    "opt",
    "a/b",
    "..",
    "\0",
    "x" * 300,
    "\ud800",
    "grid",
    "0",
    1,
    2.5,
    None,
    (1, 2),
    b"k",
]
keys = st.sampled_from(KEYS)
finite = st.floats(-1e9, 1e9)
good_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), names, st.binary(max_size=4),
    st.sampled_from(
        [Made("Hostile()", Hostile), 10**400, 1e308, int, function, np.float32(1),
        tune.Secret("env:HOME"),
         np.array([1, 2]), {1, 2}, frozenset(), Made("object()", object)]
    ),
    st.builds(lambda low, width: tune.uniform(low, low + width), finite, st.floats(0, 1e9)),
    st.builds(lambda low, width: tune.randint(low, low + width), st.integers(), st.integers(1, 99)),
    st.builds(lambda low, times: tune.loguniform(low, low * times), st.floats(1e-9, 1e9), st.floats(1,
    1e9)),
    st.builds(lambda low, width: tune.lograndint(low, low + width), st.integers(1, 2**60),
    st.integers(1, 2**60)),
    st.builds(lambda k, q: tune.quniform(k * q, (k + 9) * q, q), st.integers(-99, 99), st.floats(1e-9,
    1e9)),
    st.builds(tune.qrandn, finite, st.floats(0, 1e9), st.floats(1, 1e9)),
    st.lists(st.one_of(names, st.integers()), min_size=1, max_size=3).map(tune.choice),
    st.lists(st.one_of(names, st.integers()), min_size=1, max_size=3).map(tune.grid_search),
    st.just(tune.sample_from(lambda spec: spec.rng.random())),
)  # fmt: skip


good_configs = st.dictionaries(
    st.sampled_from(KEYS[:3] + KEYS[4:]), st.one_of(good_leaves, st.dictionaries(keys, good_leaves,
    max_size=2)),
    max_size=3,
)  # fmt: skip


def itself(kind: type) -> Any:
    """Make a container that contains itself."""
    if kind is dict:
        node: Any = {}
        node["a"] = {"b": [node]}
    elif kind is list:
        node = []
        node.append((1, node))
    else:
        inner: list[Any] = [1]
        node = tune.choice([inner])
        inner.append(node)
    return node


def grid_of_itself() -> Any:
    grid = tune.grid_search([1])
    grid["grid_search"].append(["deeper", grid["grid_search"]])
    return grid


def deep(levels: int, kind: type) -> Any:
    node: Any = 1
    for _ in range(levels):
        node = {"k": node} if kind is dict else [node]
    return node


def calls_itself(spec):
    return calls_itself(spec)


def raises(error: BaseException) -> Callable[[Any], Any]:
    def function(spec):
        raise error

    return function


def returns(make: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda spec: make()


async def asynchronous_sample(spec):
    return 1


BAD_FUNCTIONS: list[Callable[[Any], Any]] = [
    lambda spec: spec.config.nowhere, lambda spec: spec.config["nowhere"]["either"], lambda spec: 1 / 0,
    lambda spec: spec.nothing, calls_itself, raises(StopIteration(3)), raises(HostileError()),
    raises(OSError(28, "a")),
    raises(UnicodeDecodeError("utf-8", b"a", 0, 1, "no")), raises(ConfigError("of the user's own")),
    returns(lambda: tune.uniform(0, 1)), returns(lambda: [tune.grid_search([1])]),
    returns(lambda: itself(list)),
    returns(lambda: itself(dict)), returns(lambda: 10**5000), returns(lambda: deep(3000, list)),
    returns(lambda: deep(100, dict)), returns(lambda: {"a": Pair(1, tune.randn())}),
]  # fmt: skip

bad_nodes = st.one_of(
    junk.filter(lambda value: not isinstance(value, list | tuple | range) or not value).map(
        lambda value: {"grid_search": value}
    ),
    st.sampled_from(
        [
            *(Made(f"a {kind.__name__} in itself", functools.partial(itself, kind)) for kind in (dict,
                  list, set)),
            Made("a grid of itself", grid_of_itself),
            *(Made(f"{levels} {kind.__name__}s deep", functools.partial(deep, levels, kind))
              for levels in (70, 300, 3000, 100_000) for kind in (dict, list)),
            HUGE, MINUS_HUGE, [HUGE],
            *map(tune.sample_from, BAD_FUNCTIONS),
            tune.choice([tune.grid_search([1, 2])]), tune.grid_search([[tune.grid_search([1])]]),
            tune.choice([{"a": {"grid_search": 3}}]),
            Made("Pair(randn)", lambda: Pair(1, tune.randn())),
            Made("Uniform('a', 1)", lambda: tune.space.Uniform("a", 1)),
            Made("Uniform(None, 1)", lambda: [tune.space.LogUniform(-1, 1)]),
            Made("Choice(())", lambda: tune.space.Choice(())),
            Made("Domain()", tune.space.domains.Domain),
            Made("SampleFrom(3)", lambda: tune.space.SampleFrom(3)),
        ]
    ),
)  # fmt: skip
unpicklable = st.sampled_from(
    [
        Made("a lock", threading.Lock), Made("a generator", lambda: (i for i in ())),
        Made("Unpicklable()", Unpicklable), Made("what a thread has", threading.local),
        Made("[a lock]", lambda: [1, {"deep": threading.Lock()}]),
        Made("a function with a lock", lambda: closes_over(threading.Lock())),
        Made("choice([a lock])", lambda: tune.choice([threading.Lock()])),
        tune.sample_from(returns(threading.Lock)),
    ]
)  # fmt: skip


def placed(config: Mapping[Any, Any], key: Any, node: Any) -> dict[Any, Any]:
    """Put a node into a config at a key that no other looks like."""
    return {name: value for name, value in config.items() if str(name) != str(key)} | {key: node}


def shown_key(key: Any) -> tuple[str, ...]:
    """How an error may name a key."""
    return repr(str(key))[1:-1], repr(key)


wrong_nodes = st.builds(
    lambda config, key, node: Wrong({"config": placed(config, key, node)}, shown_key(key)),
    good_configs, keys, bad_nodes,
)  # fmt: skip
cannot_travel = st.builds(
    lambda config, key, node: Wrong(
        {"config": placed(config, key, node)}, shown_key(key), where="process"
    ),
    good_configs, keys, unpicklable,
)  # fmt: skip
two_markers = st.sampled_from(
    [
        {"a/b": tune.randn(), "a": {"b": tune.randn()}},
        {1: tune.randn(), "1": tune.randn()},
        {"x": {"0": tune.randn(), 0: tune.randn()}},
    ]
).map(lambda config: Wrong({"config": config}, ("two markers",)))

REAL, WHOLE = "real", "whole"
SAMPLERS: dict[str, tuple[tuple[str, str], ...]] = {
    "uniform": (("low", REAL), ("high", REAL)),
    "quniform": (("low", REAL), ("high", REAL), ("q", REAL)),
    "loguniform": (("low", REAL), ("high", REAL), ("base", REAL)),
    "qloguniform": (("low", REAL), ("high", REAL), ("q", REAL), ("base", REAL)),
    "randint": (("low", WHOLE), ("high", WHOLE)),
    "qrandint": (("low", WHOLE), ("high", WHOLE), ("q", WHOLE)),
    "lograndint": (("low", WHOLE), ("high", WHOLE), ("base", REAL)),
    "qlograndint": (("low", WHOLE), ("high", WHOLE), ("q", WHOLE), ("base", REAL)),
    "randn": (("mean", REAL), ("sd", REAL)),
    "qrandn": (("mean", REAL), ("sd", REAL), ("q", REAL)),
}
GOOD_NUMBERS = {"low": 1, "high": 10, "q": 1, "base": 2, "mean": 0, "sd": 1}
BOUNDS = [
    ("uniform", {"low": 2, "high": 1}, "high"), ("uniform", {"low": 0, "high": 10**400}, "high"),
    ("loguniform", {"low": 0, "high": 1}, "low"), ("loguniform", {"low": -1, "high": 1}, "low"),
    ("loguniform", {"low": 1, "high": 2, "base": 1}, "base"), ("randint", {"low": 3, "high": 3},
    "high"),
    ("randint", {"low": 0, "high": HUGE}, "high"), ("randint", {"low": MINUS_HUGE, "high": 0}, "low"),
    ("lograndint", {"low": 0, "high": 3}, "low"), ("lograndint", {"low": 1, "high": HUGE}, "high"),
    ("quniform", {"low": 0.3, "high": 0.4, "q": 1}, "q"), ("quniform", {"low": 0, "high": 1, "q": 0},
    "q"),
    ("quniform", {"low": 0, "high": 1, "q": -1}, "q"), ("quniform", {"low": 0, "high": 1e300,
    "q": 1e-300}, "q"),
    ("qrandint", {"low": 0, "high": 9, "q": 0}, "q"), ("qrandint", {"low": 0, "high": 10**400,
    "q": 10**390}, "high"),
    ("qlograndint", {"low": 1, "high": 9, "q": 10}, "q"), ("randn", {"mean": 0, "sd": -1}, "sd"),
    ("randn", {"mean": 1e308, "sd": 1e308}, "sd"), ("qrandn", {"mean": 0, "sd": 1e308, "q": 1e300},
    "sd"),
    ("qrandn", {"mean": 1e300, "sd": 1, "q": 1e-9}, "q"), ("qrandn", {"mean": 0, "sd": 1, "q": 0}, "q"),
]  # fmt: skip


def is_a_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | decimal.Decimal | fractions.Fraction | np.number)
        and type(value) is not bool
    )


def with_sampler(config: Any, key: Any, name: str, given: Mapping[str, Any], culprit: str) -> Wrong:
    node = Made(f"{name}({given})", lambda: getattr(tune, name)(**made(given)))
    return Wrong({"config": placed(config, key, node)}, (f"{culprit} of {name} must be ",))


@st.composite
def wrong_samplers(draw: st.DrawFn) -> Wrong:
    config, key = draw(good_configs), draw(keys)
    if draw(st.booleans()):
        return with_sampler(config, key, *draw(st.sampled_from(BOUNDS)))
    name = draw(st.sampled_from(sorted(SAMPLERS)))
    culprit, _ = draw(st.sampled_from(SAMPLERS[name]))
    given = {parameter: GOOD_NUMBERS[parameter] for parameter, _ in SAMPLERS[name]}
    given[culprit] = draw(junk.filter(lambda value: not is_a_number(value) and not (
        value is None and culprit == "q")))  # fmt: skip
    return with_sampler(config, key, name, given, culprit)


wrong_makers = st.one_of(
    junk.filter(lambda value: not isinstance(value, list | tuple | range) or not value).flatmap(
        lambda value: st.sampled_from(["choice", "grid_search"]).map(
            lambda name: (f"{name}({value!r:.50})", name, lambda: getattr(tune, name)(made(value)))
        )
    ),
    junk.filter(lambda value: not callable(value)).map(
        lambda value: ("sample_from", "sample_from", lambda: tune.sample_from(made(value)))
    ),
    st.sampled_from([no_argument, three_arguments, asynchronous_sample]).map(
        lambda value: ("sample_from", "sample_from", lambda: tune.sample_from(value))
    ),
    st.one_of(junk, names.map(lambda name: f"env:{name}=")).filter(lambda v: v is not None).map(
        lambda value: ("Secret", "Secret", lambda: tune.Secret(made(value)))
    ),
).flatmap(
    lambda maker: st.builds(
        lambda config, key: Wrong({"config": placed(config, key, Made(maker[0], maker[2]))},
        (maker[1],)),
        good_configs, keys,
    )
)  # fmt: skip
