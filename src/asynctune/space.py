"""The search space: how a config with markers becomes the configs of trials.

A variant is a function of the config, the seed and its number alone, whatever was drawn before it;
so an experiment resumes exactly. What was drawn is kept as plain JSON, from which :meth:`Space.rebuild`
makes the same config without drawing again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asynctune.blame import described, shown
from asynctune.domains import (
    GRID,
    Choice,
    Domain,
    LogRandInt,
    LogUniform,
    RandInt,
    RandN,
    SampleFrom,
    Uniform,
    choice,
    grid_search,
    is_grid,
    listed,
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
from asynctune.errors import ConfigError
from asynctune.outline import outline
from asynctune.resolve import (
    DEEPEST,
    ENDLESS,
    Again,
    Fresh,
    Grid,
    Path,
    Variant,
    is_endless,
    mismatch,
    path_order,
    path_text,
    place,
    rebuilt,
)

__all__ = [
    "Choice", "Domain", "LogRandInt", "LogUniform", "RandInt", "RandN", "SampleFrom", "Space",
    "Uniform", "Variant", "choice", "grid_search", "lograndint", "loguniform", "qlograndint",
    "qloguniform", "qrandint", "qrandn", "quniform", "randint", "randn", "sample_from", "uniform",
]  # fmt: skip


class Space:
    """A config with markers (samplers, grids, functions) anywhere in its dicts, lists and tuples.

    Args:
        config: The config. Changing it later does not change the space.

    Attributes:
        grid_size: The number of points of the grid, 1 if there is none.
        markers: The sorted paths at which something may be drawn.
        is_random: Whether anything but grids is drawn.

    Raises:
        ConfigError: A marker is wrong; the message names its path.
    """

    def __init__(self, config: Mapping[Any, Any]) -> None:
        if not isinstance(config, Mapping) or is_grid(config):
            raise ConfigError(
                f"config is {shown(config)}; it must be a dict that holds the markers"
            )
        scan = _Scan()
        self._tree = scan.copy((), dict(config))
        self._grids = sorted(scan.grids.items(), key=lambda item: path_order(item[0]))
        self.grid_size = math.prod(size for _, size in self._grids)
        self.markers = tuple(map(path_text, sorted(scan.paths.values(), key=path_order)))
        self.is_random = scan.is_random

    @property
    def has_markers(self) -> bool:
        """Whether two variants can differ."""
        return bool(self.markers)

    def outline(self) -> dict[str, str]:
        """Return the space as text, path -> what is there; see :mod:`asynctune.outline`."""
        return outline(self._tree)

    def variant(self, index: int, seed: int) -> Variant:
        """Return a variant; the same for the same arguments, in any process.

        Args:
            index: Its number. ``index % grid_size`` is its point of the grid, in which the first path
                varies fastest; all else is drawn anew for each number.
            seed: The seed of the experiment.

        Raises:
            ConfigError: A function of ``sample_from`` raised, or depends on its own value.
        """
        positions = {}
        rest = index % self.grid_size
        for path, size in self._grids:
            rest, positions[path] = divmod(rest, size)
        return Fresh(self._tree, positions, f"{seed}/{index}").variant()

    def rebuild(self, drawn: Mapping[str, Any]) -> dict[Any, Any]:
        """Return the config of a variant again, from its ``drawn``.

        Raises:
            SpecMismatch: ``drawn`` is not of this space.
            ConfigError: A function, called again since its value was no plain JSON, raised.
        """
        again = Again(self._tree, drawn).variant()
        for text in sorted(drawn.keys() | again.drawn.keys()):
            if drawn.get(text) != again.drawn.get(text):
                raise mismatch(text, drawn.get(text))
        return again.config


class _Scan:
    """Checks a config, and copies it with its grids as :class:`Grid`."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self.grids: dict[Path, int] = {}
        self.is_random = False
        self._above: list[int] = []

    def copy(self, path: Path, node: Any, inside: str = "") -> Any:
        if isinstance(node, Domain | SampleFrom) or is_grid(node):
            return self._marker(path, node, inside)
        if id(node) in self._above:
            raise ConfigError(f"{place(path)} contains itself")
        if len(self._above) > DEEPEST:
            raise ConfigError(f"{place(path)} lies deeper than {DEEPEST} levels; nest it less")
        if is_endless(node):
            raise ConfigError(f"{place(path)} is {ENDLESS}")
        if isinstance(node, dict):
            self._check_keys(path, node)
        self._above.append(id(node))
        fresh = rebuilt(node, lambda key, item: self.copy((*path, key), item, inside))
        self._above.pop()
        return fresh

    def _check_keys(self, path: Path, node: dict[Any, Any]) -> None:
        try:
            for key in node:
                str(key)
        except Exception as exc:
            raise ConfigError(
                f"{place(path)} has a key that cannot be written down: {described(exc)}"
            ) from exc

    def _marker(self, path: Path, node: Any, inside: str) -> Any:
        if self.paths.setdefault(path_text(path), path) != path:
            raise ConfigError(f"{place(path)} is the path of two markers; rename one of the keys")
        if is_grid(node):
            if inside:
                raise ConfigError(
                    f"{place(path)}: a grid_search in a {inside}; list what to combine"
                )
            values = listed(f"{place(path)}: {GRID}", node[GRID])
            self.grids[path] = len(values)
            return Grid(tuple(self.copy(path, value, GRID) for value in values))
        self.is_random = True
        if isinstance(node, Choice):
            picks = tuple(self.copy(path, value, inside or "choice") for value in node.categories)
            return replace(node, categories=picks)
        return node
