"""The search space: how a config with markers becomes the configs of trials.

A variant is a function of the config, the seed and its number alone, whatever was drawn before it;
so an experiment resumes exactly. What was drawn is kept as plain JSON, from which :meth:`Space.rebuild`
makes the same config without drawing again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asynctune._checks import safe_repr, safe_str
from asynctune.errors import ConfigError
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
from asynctune.space.fingerprint import fingerprint
from asynctune.space.sampling import (
    DEEPEST,
    ENDLESS,
    Grid,
    Rebuilder,
    Sampler,
    Variant,
    is_endless,
    mismatch,
    path_order,
    rebuild_config,
)
from asynctune.space.spec import Path, path_text, place

__all__ = [
    "Choice", "Domain", "LogRandInt", "LogUniform", "RandInt", "RandN", "SampleFrom", "Space",
    "Uniform", "Variant", "choice", "grid_search", "lograndint", "loguniform", "qlograndint",
    "qloguniform", "qrandint", "qrandn", "quniform", "randint", "randn", "sample_from", "uniform",
]  # fmt: skip

_NOTHING: Any = object()


class Space:
    """A config with markers (samplers, grids, functions) anywhere in its dicts, lists and tuples.

    Args:
        config: The config. Changing it later does not change the space.

    Attributes:
        grid_size: The number of points of the grid, 1 if there is none.
        markers: The sorted paths at which something may be drawn.
        is_random: Whether anything but grids is drawn.
        samplers: What a searcher may suggest values for: the samplers by path, as in ``"model/lr"``.
            Those that a ``choice`` or grid may pick are not among them.

    Raises:
        ConfigError: A marker is wrong; the message names its path.
    """

    def __init__(self, config: Mapping[Any, Any]) -> None:
        if not isinstance(config, Mapping) or is_grid(config):
            raise ConfigError(
                f"config is {safe_repr(config)}; it must be a dict that holds the markers"
            )
        scan = _Scan()
        self._tree = scan.copy((), dict(config))
        self._grids = sorted(scan.grids.items(), key=lambda item: path_order(item[0]))
        self.grid_size = math.prod(size for _, size in self._grids)
        self.markers = tuple(map(path_text, sorted(scan.paths.values(), key=path_order)))
        self.is_random = scan.is_random
        paths = sorted(scan.samplers, key=path_order)
        self._paths = {path_text(path): path for path in paths}
        self.samplers: dict[str, Domain] = {path_text(p): scan.samplers[p] for p in paths}

    @property
    def has_markers(self) -> bool:
        """Whether two variants can differ."""
        return bool(self.markers)

    def fingerprint(self) -> dict[str, str]:
        """Return the space as text, path -> what is there; see :mod:`asynctune.space.fingerprint`."""
        return fingerprint(self._tree)

    def variant(self, index: int, seed: int, given: Mapping[str, Any] | None = None) -> Variant:
        """Return a variant; the same for the same arguments, in any process.

        Args:
            index: Its number. ``index % grid_size`` is its point of the grid, in which the first path
                varies fastest; all else is drawn anew for each number.
            seed: The seed of the experiment.
            given: Values that are not drawn: by path, or as nested dicts. A key that is no sampler's is
                set in the config as it is.

        Raises:
            ConfigError: A function of ``sample_from`` raised, or depends on its own value; or a value
                that was given cannot be that of its sampler.
        """
        values, others = self._sorted_out(given or {})
        positions = {}
        rest = index % self.grid_size
        for path, size in self._grids:
            rest, positions[path] = divmod(rest, size)
        tree = _merged(self._tree, others) if others else self._tree
        variant = Sampler(tree, positions, f"{seed}/{index}", values).variant()
        return replace(variant, others=others) if others else variant

    def values_of(
        self, config: Mapping[str, Any], drawn: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what each sampler gave to a config of this space, by path.

        Args:
            config: The config.
            drawn: What was drawn for it, for a choice that may pick what has to be drawn, too.
        """
        found, drawn = {}, drawn or {}
        for text, path in self._paths.items():
            sampler, note = self.samplers[text], drawn.get(text)
            if isinstance(sampler, Choice) and isinstance(note, Mapping):
                found[text] = sampler.categories[note["choice"]]
                continue
            value: Any = config
            for key in path:
                value = value[key]
            found[text] = value
        return found

    def _sorted_out(self, given: Mapping[str, Any]) -> tuple[dict[Path, Any], dict[str, Any]]:
        """Tell values of samplers from other parts of the config, as nested dicts."""
        values: dict[Path, Any] = {}

        def sort(path: tuple[str, ...], node: Any) -> Any:
            known = self._paths.get(path_text(path))
            if known is not None:
                values[known] = node
                return _NOTHING
            if not isinstance(node, Mapping):
                return node
            rest = {key: sort((*path, str(key)), item) for key, item in node.items()}
            rest = {key: item for key, item in rest.items() if item is not _NOTHING}
            return rest if rest or not node else _NOTHING

        others = sort((), given)
        return values, {} if others is _NOTHING else others

    def rebuild(
        self, drawn: Mapping[str, Any], others: Mapping[str, Any] | None = None
    ) -> dict[Any, Any]:
        """Return the config of a variant again, from its ``drawn`` and ``others``.

        Raises:
            SpecMismatch: ``drawn`` is not of this space.
            ConfigError: A function, called again since its value was no plain JSON, raised.
        """
        again = Rebuilder(_merged(self._tree, others) if others else self._tree, drawn).variant()
        for text in sorted(drawn.keys() | again.drawn.keys()):
            if drawn.get(text) != again.drawn.get(text):
                raise mismatch(text, drawn.get(text))
        return again.config


def _merged(tree: Any, others: Any) -> Any:
    """Return a config with other parts set in it."""
    if not (isinstance(tree, dict) and isinstance(others, Mapping)):
        return others
    merged = copy.copy(tree)
    for key, item in others.items():
        merged[key] = _merged(tree[key], item) if key in tree else item
    return merged


class _Scan:
    """Checks a config, and copies it with its grids as :class:`Grid`."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self.grids: dict[Path, int] = {}
        self.samplers: dict[Path, Domain] = {}
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
        fresh = rebuild_config(node, lambda key, item: self.copy((*path, key), item, inside))
        self._above.pop()
        return fresh

    def _check_keys(self, path: Path, node: dict[Any, Any]) -> None:
        try:
            for key in node:
                str(key)
        except Exception as exc:
            raise ConfigError(
                f"{place(path)} has a key that cannot be written down: {safe_str(exc)}"
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
            node = replace(node, categories=picks)
        if isinstance(node, Domain) and not inside:
            self.samplers[path] = node
        return node
