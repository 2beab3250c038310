"""Nested dicts by path, and random generators by purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def by_path(
    nested: Mapping[Any, Any], is_leaf: Callable[[str, Any], bool], above: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each leaf of nested dicts.

    Args:
        nested: The nested dicts.
        is_leaf: A function of a path and the dict at it; True if that dict is a leaf.
        above: The path of ``nested`` itself, with a slash at its end.
    """
    for key, item in nested.items():
        path = f"{above}{key}"
        if isinstance(item, Mapping) and not is_leaf(path, item):
            yield from by_path(item, is_leaf, f"{path}/")
        else:
            yield path, item


def generator(seed: int, *purpose: Any) -> random.Random:
    """Return a random generator for one purpose, independent of others and the same in any process."""
    # Text is hashed by SHA-512 and not by hash(), which differs between processes.
    return random.Random("/".join(map(str, (seed, *purpose))))
