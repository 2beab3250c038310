"""Exploration of PBT: pure functions that make a new configuration of a good one, from given randomness."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar

from asynctune._checks import argument_error, check_callable, safe_repr, safe_str
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
    clamp,
    int_step_range,
    is_grid,
    multiple,
    step_range,
)
from asynctune.space.sampling import rebuild_config
from asynctune.space.spec import path_text

Mutations: TypeAlias = dict[Any, Any]
"""The mutations: samplers (lists have become :class:`Choice`), callables, and dicts of these, by key."""

_T = TypeVar("_T")
_FORMS = (
    "a list of values, a sampler such as asynctune.uniform(0, 1), a plain function without arguments, "
    "or a dict of these"
)


def check_mutations(argument: str, mutations: Any) -> Mutations:
    """Return a copy of ``hyperparam_mutations`` as :func:`explore` takes it.

    Args:
        argument: The name of the mutations in errors.
        mutations: The argument of the user.

    Raises:
        ConfigError: A mutation has none of the accepted forms; the message names its key.
    """
    if not isinstance(mutations, Mapping):
        raise argument_error("", argument, "a dict of the values to mutate", mutations)
    return {
        key: _check_mutation(f"{argument}[{safe_repr(key)}]", mutation)
        for key, mutation in mutations.items()
    }


def _check_mutation(argument: str, mutation: Any) -> Any:
    if is_grid(mutation) or isinstance(mutation, SampleFrom):
        kind = GRID if is_grid(mutation) else "sample_from"
        raise ConfigError(
            f"{argument} must be {_FORMS}, got a {kind}, which draws only at the start of a trial"
        )
    if isinstance(mutation, Mapping):
        return check_mutations(argument, mutation)
    if isinstance(mutation, list | tuple | range):
        if not mutation:
            raise argument_error("", argument, "a list of at least one value", mutation)
        mutation = Choice(tuple(mutation))
    if isinstance(mutation, Choice) and any(map(_holds_sampler, mutation.categories)):
        given = list(mutation.categories)
        raise argument_error("", argument, "a list of plain values without samplers", given)
    if not isinstance(mutation, Domain):
        check_callable("", argument, mutation, what=_FORMS, allow_class=True)
    return mutation


def _holds_sampler(node: Any) -> bool:
    if isinstance(node, Domain | SampleFrom) or is_grid(node):
        return True
    if isinstance(node, Mapping):
        return any(map(_holds_sampler, node.values()))
    return isinstance(node, list | tuple) and any(map(_holds_sampler, node))


def explore(
    config: Mapping[Any, Any],
    mutations: Mutations,
    rng: random.Random,
    resample_probability: float = 0.25,
    factors: tuple[float, float] = (1.2, 0.8),
) -> dict[Any, Any]:
    """Return a new configuration. The old one does not change; both share the objects without mutations.

    A value is drawn anew with ``resample_probability``, and also if the config lacks it or it cannot be
    moved. Otherwise a value of a list moves to its neighbour before or after, if there is one, and a number
    is multiplied by one of the factors. Ints stay ints and change by at least one, multiples of ``q`` stay
    multiples, and a value stays within the bounds of its sampler.

    Args:
        config: The configuration to begin with.
        mutations: The mutations, as :func:`check_mutations` returns them.
        rng: The random numbers; only ``random()`` is used.
        resample_probability: The probability that a value is drawn anew, from 0 to 1.
        factors: The two factors for numbers, each as likely as the other.

    Raises:
        TuneError: The config has another value where the mutations have a dict, or a function raised.
    """
    new_config = {key: copy_config(item) for key, item in config.items()}

    def mutate(path: tuple[Any, ...], node: Any, mutations: Mutations) -> None:
        if not isinstance(node, dict):
            raise TuneError(
                f"the config must have a dict at {path_text(path)!r}, as hyperparam_mutations has, "
                f"got {safe_repr(node)}"
            )
        for key, mutation in mutations.items():
            key_path = (*path, key)
            if isinstance(mutation, Mapping):
                mutate(key_path, node.setdefault(key, {}), dict(mutation))
            elif key not in node or rng.random() < resample_probability:
                node[key] = draw(key_path, mutation, rng)
            else:
                moved = _perturb(mutation, node[key], rng, factors)
                node[key] = draw(key_path, mutation, rng) if moved is None else moved[0]

    mutate((), new_config, mutations)
    return new_config


def copy_config(node: Any) -> Any:
    """Return a config with its own dicts, lists and tuples, which hold the same objects."""
    return rebuild_config(node, lambda _, item: copy_config(item))


def draw(path: tuple[Any, ...], mutation: Any, rng: random.Random) -> Any:
    """Draw a value of a hyperparameter.

    Args:
        path: The path of the hyperparameter in the config, for errors.
        mutation: The sampler or the function that draws the value.
        rng: The random numbers for a sampler.

    Raises:
        TuneError: The function raised.
    """
    if isinstance(mutation, Domain):
        return mutation.sample(rng)
    try:
        return mutation()
    except Exception as exc:
        raise TuneError(
            f"the function in hyperparam_mutations at {path_text(path)!r} raised {safe_str(exc)}"
        ) from exc


def pick_one(items: Sequence[_T], rng: random.Random) -> _T:
    """Return a random item, each as likely as another."""
    # Only random() gives the same numbers in every version of Python; choice() may not.
    return items[int(rng.random() * len(items))]


def _perturb(
    mutation: Any, value: Any, rng: random.Random, factors: tuple[float, float]
) -> tuple[Any] | None:
    """Return the moved value in a tuple, since the value may be None; None if it cannot be moved."""
    if isinstance(mutation, Choice):
        index = _index_of(mutation.categories, value)
        if index is None:
            return None
        step = pick_one((-1, 1), rng)
        return (mutation.categories[min(max(index + step, 0), len(mutation.categories) - 1)],)
    if not is_number(value):
        return None
    try:
        moved = _multiply(mutation, value, pick_one(factors, rng))
    except OverflowError:
        return None
    return (moved,) if is_number(moved) else None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return isinstance(value, numbers.Integral) or math.isfinite(value)


def _multiply(sampler: Any, value: Any, factor: float) -> int | float:
    match sampler:
        case RandInt() | LogRandInt():
            first, last = int_step_range(sampler.low, sampler.high, sampler.q)
            step = _multiply_int(round(value / (sampler.q or 1)), factor)
            return min(max(step, first), last) * (sampler.q or 1)
        case Uniform() | LogUniform() if sampler.q is not None:
            first, last = step_range(sampler.low, sampler.high, sampler.q)
            if isinstance(sampler, LogUniform):
                first = max(first, 1)  # 0 is on no logarithmic scale
            step = min(max(_multiply_int(round(value / sampler.q), factor), first), last)
            return clamp(multiple(step, sampler.q), sampler.low, sampler.high)
        case Uniform() | LogUniform():
            return clamp(float(value) * factor, sampler.low, sampler.high)
        case RandN() if sampler.q is not None:
            return multiple(_multiply_int(round(value / sampler.q), factor), sampler.q)
        case RandN():
            return float(value) * factor
    if isinstance(value, numbers.Integral):
        return _multiply_int(int(value), factor)
    return float(value) * factor


def _multiply_int(number: int, factor: float) -> int:
    # Rounded, not truncated: truncated ints would move down more often than up, and never up from 1.
    # Fractions, since an int may be beyond the range of floats.
    moved = round(Fraction(number) * Fraction(factor))
    if moved == number and number and factor != 1:
        moved += 1 if (factor > 1) == (number > 0) else -1
    return moved


def _index_of(categories: tuple[Any, ...], value: Any) -> int | None:
    """Return the index of the same object, or else of an equal one; None if there is neither."""
    for index, category in enumerate(categories):
        if category is value:
            return index
    for index, category in enumerate(categories):
        try:
            if bool(category == value):
                return index
        except Exception:  # noqa: S112 - an array, or another object that cannot be compared
            continue
    return None
