"""How a new configuration is made of a good one: pure functions, whose random numbers are given."""

from __future__ import annotations

import inspect
import math
import numbers
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar

from asynctune._checks import safe_repr, safe_str
from asynctune.errors import ConfigError, TuneError
from asynctune.space.domains import (
    GRID,
    Choice,
    Domain,
    LogRandInt,
    LogUniform,
    RandInt,
    RandN,
    SampleFrom,
    Uniform,
    _clamp,
    _int_steps,
    _multiple,
    _steps,
    is_grid,
)
from asynctune.space.sampling import rebuild_config
from asynctune.space.spec import path_text

Mutations: TypeAlias = dict[Any, Any]
"""What is mutated: samplers (lists have become :class:`Choice`), callables, and dicts of these."""

_T = TypeVar("_T")
_WANTED = (
    "a list of values, a sampler such as asynctune.uniform(0, 1), a function without arguments, or a "
    "dict of these is wanted"
)


def check_mutations(where: str, mutations: Any) -> Mutations:
    """Return a copy of ``hyperparam_mutations`` as :func:`explore` takes it.

    Args:
        where: How an error calls it.
        mutations: What the user gave.

    Raises:
        ConfigError: A value is none of those that are known; the message names its key.
    """
    if not isinstance(mutations, Mapping):
        raise ConfigError(f"{where} is {safe_repr(mutations)}; a dict of what to mutate is wanted")
    return {key: _checked(f"{where}[{safe_repr(key)}]", how) for key, how in mutations.items()}


def _checked(where: str, how: Any) -> Any:
    if is_grid(how) or isinstance(how, SampleFrom):
        kind = GRID if is_grid(how) else "sample_from"
        raise ConfigError(f"{where} is a {kind}, which draws only at the start; {_WANTED}")
    if isinstance(how, Mapping):
        return check_mutations(where, how)
    if isinstance(how, list | tuple | range):
        if not how:
            raise ConfigError(f"{where} is empty; it must hold at least one value")
        how = Choice(tuple(how))
    if isinstance(how, Choice) and any(map(_draws, how.categories)):
        raise ConfigError(f"{where} holds a sampler among its values; plain values are wanted")
    if not isinstance(how, Domain):
        check_callable(where, how, 0, _WANTED)
    return how


def check_callable(where: str, function: Any, count: int, wanted: str) -> None:
    """Check that something is a plain function of so many arguments.

    Raises:
        ConfigError: It is not.
    """
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where} is {safe_repr(function)}; {wanted}")
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError as exc:
        raise ConfigError(f"{where} is {safe_repr(function)}: {exc}; {wanted}") from exc
    except ValueError:  # a builtin that does not tell its signature
        pass


def _draws(node: Any) -> bool:
    if isinstance(node, Domain | SampleFrom) or is_grid(node):
        return True
    if isinstance(node, Mapping):
        return any(map(_draws, node.values()))
    return isinstance(node, list | tuple) and any(map(_draws, node))


def explore(
    config: Mapping[Any, Any],
    mutations: Mutations,
    rng: random.Random,
    resample_probability: float = 0.25,
    factors: tuple[float, float] = (1.2, 0.8),
) -> dict[Any, Any]:
    """Return a new configuration; the old one stays as it is, and what is not mutated is the same.

    A value is drawn anew with ``resample_probability``, and also if there is none yet, or none that could
    be moved. Otherwise one of a list moves to the one before or after it, where there is one, and a number
    is multiplied by one of the factors. Ints stay ints and move by one at least, multiples of ``q`` stay
    multiples, and a value stays within the bounds of its sampler.

    Args:
        config: The configuration to begin with.
        mutations: What to mutate, as :func:`check_mutations` returns it.
        rng: The random numbers; only ``random()`` is used.
        resample_probability: From 0 to 1.
        factors: What numbers are multiplied by, the one as likely as the other.

    Raises:
        TuneError: The config has something else where the mutations have a dict, or a function raised.
    """
    fresh = {key: copied(item) for key, item in config.items()}

    def mutate(path: tuple[Any, ...], node: Any, mutations: Mutations) -> None:
        if not isinstance(node, dict):
            raise TuneError(
                f"hyperparam_mutations has a dict at {path_text(path)!r}, where the config has "
                f"{safe_repr(node)}; it must be a dict too"
            )
        for key, how in mutations.items():
            below = (*path, key)
            if isinstance(how, Mapping):
                mutate(below, node.setdefault(key, {}), dict(how))
            elif key not in node or rng.random() < resample_probability:
                node[key] = draw(below, how, rng)
            else:
                moved = _moved(how, node[key], rng, factors)
                node[key] = draw(below, how, rng) if moved is None else moved[0]

    mutate((), fresh, mutations)
    return fresh


def copied(node: Any) -> Any:
    """Return a config with dicts, lists and tuples of its own; what is in them is the same."""
    return rebuild_config(node, lambda _, item: copied(item))


def draw(path: tuple[Any, ...], how: Any, rng: random.Random) -> Any:
    """Draw a value.

    Raises:
        TuneError: A function of the user's raised.
    """
    if isinstance(how, Domain):
        return how.sample(rng)
    try:
        return how()
    except Exception as exc:
        raise TuneError(
            f"the function in hyperparam_mutations at {path_text(path)!r} raised {safe_str(exc)}"
        ) from exc


def one_of(items: Sequence[_T], rng: random.Random) -> _T:
    """Return an item, each as likely as another. ``random()`` alone is the same in any Python."""
    return items[int(rng.random() * len(items))]


def _moved(
    how: Any, value: Any, rng: random.Random, factors: tuple[float, float]
) -> tuple[Any] | None:
    """Return the value moved, in a tuple; None if it cannot be."""
    if isinstance(how, Choice):
        position = _position(how.categories, value)
        if position is None:
            return None
        step = one_of((-1, 1), rng)
        return (how.categories[min(max(position + step, 0), len(how.categories) - 1)],)
    if not is_number(value):
        return None
    try:
        moved = _multiplied(how, value, one_of(factors, rng))
    except OverflowError:
        return None
    return (moved,) if is_number(moved) else None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return isinstance(value, numbers.Integral) or math.isfinite(value)


def _multiplied(how: Any, value: Any, factor: float) -> int | float:
    match how:
        case RandInt() | LogRandInt():
            first, last = _int_steps(how.low, how.high, how.q)
            step = _stepped(round(value / (how.q or 1)), factor)
            return min(max(step, first), last) * (how.q or 1)
        case Uniform() | LogUniform() if how.q is not None:
            first, last = _steps(how.low, how.high, how.q)
            if isinstance(how, LogUniform):
                first = max(first, 1)
            step = min(max(_stepped(round(value / how.q), factor), first), last)
            return _clamp(_multiple(step, how.q), how.low, how.high)
        case Uniform() | LogUniform():
            return _clamp(float(value) * factor, how.low, how.high)
        case RandN() if how.q is not None:
            return _multiple(_stepped(round(value / how.q), factor), how.q)
        case RandN():
            return float(value) * factor
    if isinstance(value, numbers.Integral):
        return _stepped(int(value), factor)
    return float(value) * factor


def _stepped(number: int, factor: float) -> int:
    # Rounded, and not cut: ints would move down more easily than up, and never away from 1.
    moved = round(Fraction(number) * Fraction(factor))
    if moved == number and number and factor != 1:
        moved += 1 if (factor > 1) == (number > 0) else -1
    return moved


def _position(categories: tuple[Any, ...], value: Any) -> int | None:
    """Find a value: the very object, or else an equal one."""
    for position, category in enumerate(categories):
        if category is value:
            return position
    for position, category in enumerate(categories):
        try:
            if bool(category == value):
                return position
        except Exception:  # noqa: S112 - an array, or whatever else does not like to be compared
            continue
    return None
