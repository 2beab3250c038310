"""The search space: how a config with markers becomes the configs of trials.

A variant depends on the config, the seed and its index alone, not on earlier draws, so a resumed
experiment continues with the same variants. The draws of a variant are recorded as plain JSON, from which
:meth:`Space.rebuild` makes the same config without drawing again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asynctune._checks import argument_error, safe_str
from asynctune.errors import ConfigError
from asynctune.space.domains import (
    GRID,
    Choice,
    Domain,
    SampleFrom,
    check_values,
    is_grid,
)
from asynctune.space.fingerprint import fingerprint
from asynctune.space.sampling import (
    MAX_DEPTH,
    SMALLER_INT,
    Grid,
    Rebuilder,
    Sampler,
    Variant,
    is_huge_int,
    mismatch,
    path_order,
    rebuild_config,
)
from asynctune.space.spec import Path, locate, path_text

_EMPTY: Any = object()


class Space:
    """A config with markers (samplers, grids, functions) anywhere in its dicts, lists and tuples.

    Args:
        config: The config. Later changes to it do not change the space.

    Attributes:
        grid_size: The number of points of the grid, 1 if there is none.
        markers: The sorted paths of all markers.
        is_random: Whether the config has markers other than grids.
        samplers: The samplers for which a searcher may suggest values, by path, as in ``"model/lr"``.
            Samplers inside a ``choice`` or grid are not among them.

    Raises:
        ConfigError: A marker is wrong; the message names its path.
    """

    def __init__(self, config: Mapping[Any, Any]) -> None:
        if not isinstance(config, Mapping) or is_grid(config):
            raise argument_error("", "config", "a dict of values and markers", config)
        scan = _Scan()
        self._tree = scan.copy((), dict(config))
        self._grids = sorted(scan.grids.items(), key=lambda item: path_order(item[0]))
        self.grid_size = math.prod(size for _, size in self._grids)
        self.markers = tuple(map(path_text, sorted(scan.paths.values(), key=path_order)))
        self.is_random = scan.is_random
        paths = sorted(scan.samplers, key=path_order)
        self._paths = {path_text(path): path for path in paths}
        self.samplers: dict[str, Domain] = {path_text(p): scan.samplers[p] for p in paths}

    def fingerprint(self) -> dict[str, str]:
        """Return the description of each path; see :mod:`asynctune.space.fingerprint`."""
        return fingerprint(self._tree)

    def variant(self, index: int, seed: int, given: Mapping[str, Any] | None = None) -> Variant:
        """Return a variant. The same arguments give the same variant in any process.

        Args:
            index: The number of the variant. ``index % grid_size`` is its point of the grid, in which the
                first path varies fastest; all other markers are drawn anew for each number.
            seed: The seed of the experiment.
            given: Values that replace a draw, by path or as nested dicts. A key without a sampler is
                set in the config unchanged.

        Raises:
            ConfigError: A function of ``sample_from`` raised, or depends on its own value; or a given
                value is none that its sampler can draw.
        """
        values, others = self._split_given(given or {})
        positions = {}
        rest = index % self.grid_size
        for path, size in self._grids:
            rest, positions[path] = divmod(rest, size)
        tree = _merge(self._tree, others) if others else self._tree
        variant = Sampler(tree, positions, f"{seed}/{index}", values).variant()
        return replace(variant, others=others) if others else variant

    def values_of(
        self, config: Mapping[str, Any], drawn: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the value of each sampler in a config of this space, by path.

        Args:
            config: The config.
            drawn: The recorded draws of the config. A choice whose elements hold samplers needs them, since
                the config holds the drawn value and not the element.
        """
        found, drawn = {}, drawn or {}
        for text, path in self._paths.items():
            sampler, record = self.samplers[text], drawn.get(text)
            if isinstance(sampler, Choice) and isinstance(record, Mapping):
                found[text] = sampler.categories[record["choice"]]
                continue
            value: Any = config
            for key in path:
                value = value[key]
            found[text] = value
        return found

    def _split_given(self, given: Mapping[str, Any]) -> tuple[dict[Path, Any], dict[str, Any]]:
        """Return the values of samplers by path, and all other values as nested dicts."""
        values: dict[Path, Any] = {}

        def split(path: tuple[str, ...], node: Any) -> Any:
            sampler_path = self._paths.get(path_text(path))
            if sampler_path is not None:
                values[sampler_path] = node
                return _EMPTY
            if not isinstance(node, Mapping):
                return node
            rest = {key: split((*path, str(key)), item) for key, item in node.items()}
            rest = {key: item for key, item in rest.items() if item is not _EMPTY}
            return rest if rest or not node else _EMPTY

        others = split((), given)
        return values, {} if others is _EMPTY else others

    def rebuild(
        self, drawn: Mapping[str, Any], others: Mapping[str, Any] | None = None
    ) -> dict[Any, Any]:
        """Return the config of a variant, rebuilt from its ``drawn`` and ``others``.

        Raises:
            SpecMismatch: ``drawn`` was not drawn from this space.
            ConfigError: A function raised. Functions whose value is no plain JSON are called again.
        """
        tree = _merge(self._tree, others) if others else self._tree
        rebuilt = Rebuilder(tree, drawn).variant()
        for text in sorted(drawn.keys() | rebuilt.drawn.keys()):
            if drawn.get(text) != rebuilt.drawn.get(text):
                raise mismatch(text, drawn.get(text))
        return rebuilt.config


def _merge(tree: Any, others: Any) -> Any:
    """Return a copy of a config with other values set in it."""
    if not (isinstance(tree, dict) and isinstance(others, Mapping)):
        return others
    merged = copy.copy(tree)
    for key, item in others.items():
        merged[key] = _merge(tree[key], item) if key in tree else item
    return merged


class _Scan:
    """Checks a config and copies it, with each grid as a :class:`Grid`.

    Attributes:
        paths: The path of each marker by its text.
        grids: The number of values of each grid, by path.
        samplers: The samplers for which a searcher may suggest values, by path.
        is_random: Whether the config has markers other than grids.
    """

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self.grids: dict[Path, int] = {}
        self.samplers: dict[Path, Domain] = {}
        self.is_random = False
        self._ancestors: list[int] = []  # the ids of the containers around the current node

    def copy(self, path: Path, node: Any, inside: str = "") -> Any:
        if isinstance(node, Domain | SampleFrom) or is_grid(node):
            return self._marker(path, node, inside)
        if id(node) in self._ancestors:
            raise ConfigError(f"{locate(path)} contains itself")
        if len(self._ancestors) > MAX_DEPTH:
            raise ConfigError(
                f"{locate(path)} must be nested at most {MAX_DEPTH} levels deep; flatten the config"
            )
        if is_huge_int(node):
            raise ConfigError(f"{locate(path)} must be {SMALLER_INT}")
        if isinstance(node, dict):
            self._check_keys(path, node)
        self._ancestors.append(id(node))
        fresh = rebuild_config(node, lambda key, item: self.copy((*path, key), item, inside))
        self._ancestors.pop()
        return fresh

    def _check_keys(self, path: Path, node: dict[Any, Any]) -> None:
        try:
            for key in node:
                str(key)
        except Exception as exc:
            raise ConfigError(
                f"{locate(path)} has a key that cannot be converted to text: {safe_str(exc)}"
            ) from exc

    def _marker(self, path: Path, node: Any, inside: str) -> Any:
        if self.paths.setdefault(path_text(path), path) != path:
            raise ConfigError(f"{locate(path)} is the path of two markers; rename one of the keys")
        if is_grid(node):
            if inside:
                raise ConfigError(
                    f"{locate(path)} is a grid_search inside a {inside}; list the combinations instead"
                )
            values = check_values("", f"{GRID} at {locate(path)}", node[GRID])
            self.grids[path] = len(values)
            return Grid(tuple(self.copy(path, value, GRID) for value in values))
        self.is_random = True
        if isinstance(node, Choice):
            picks = tuple(self.copy(path, value, inside or "choice") for value in node.categories)
            node = replace(node, categories=picks)
        if isinstance(node, Domain) and not inside:
            self.samplers[path] = node
        return node
