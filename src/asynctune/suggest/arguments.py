"""Checks of what searchers are given; each error names the searcher and the argument."""

from __future__ import annotations

import contextlib
import math
import numbers
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

from asynctune.blame import shown
from asynctune.errors import ConfigError


def whole(owner: str, name: str, value: Any, least: int) -> int:
    """Return an argument that is to be an int of at least ``least``."""
    if not isinstance(value, bool) and isinstance(value, SupportsIndex):
        with contextlib.suppress(Exception):  # an array of several numbers
            number = value.__index__()
            if number >= least:
                return number
    raise ConfigError(f"{name} of {owner} is {shown(value)}; an int of at least {least} is wanted")


def fraction(owner: str, name: str, value: Any) -> float:
    """Return an argument that is to be a number from 0 to 1."""
    number = number_in(value)
    if number is not None and type(value) is not bool and 0 <= number <= 1:
        return number
    raise ConfigError(f"{name} of {owner} is {shown(value)}; a number from 0 to 1 is wanted")


def number_in(value: Any) -> float | None:
    """Return a value of a result as a float, None if it is no number."""
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond what floats hold
        return math.inf if int(value) > 0 else -math.inf  # type: ignore[call-overload]


def flag(owner: str, name: str, value: Any) -> bool:
    """Return an argument that is to be True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} of {owner} is {shown(value)}; True or False is wanted")


def text(owner: str, name: str, value: Any) -> str:
    """Return an argument that is to be a string with something in it."""
    if isinstance(value, str) and value:
        return value
    raise ConfigError(f"{name} of {owner} is {shown(value)}; a name is wanted")


def seed_or_none(owner: str, value: Any) -> int | None:
    """Return the argument ``seed``."""
    return None if value is None else whole(owner, "seed", value, 0)


def listed(owner: str, name: str, value: Any) -> list[Any]:
    """Return an argument that is to be a list or tuple; None is an empty one."""
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    raise ConfigError(f"{name} of {owner} is {shown(value)}; a list is wanted")


def by_path(
    nested: Mapping[Any, Any], is_leaf: Callable[[str, Any], bool], above: str = ""
) -> Iterator[tuple[str, Any]]:
    """Go through nested dicts, and yield the path and value of each leaf.

    Args:
        nested: The dicts.
        is_leaf: Whether what is at a path is a leaf although it is a dict.
        above: The path of ``nested``.
    """
    for key, item in nested.items():
        path = f"{above}{key}"
        if isinstance(item, Mapping) and not is_leaf(path, item):
            yield from by_path(item, is_leaf, f"{path}/")
        else:
            yield path, item


def generator(seed: int, *what: Any) -> random.Random:
    """Return a generator of its own for each purpose, the same in any process."""
    return random.Random("/".join(map(str, (seed, *what))))
