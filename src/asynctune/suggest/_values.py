"""What searchers do with nested dicts and seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any


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
