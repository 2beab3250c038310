"""Configs from a tree with markers: drawn at random, or rebuilt from the draws that a journal recorded.

Each marker is replaced on first access, so functions may read any other value. Each draw has its own
random generator, so neither the order of the draws nor another marker changes its result.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asynctune._checks import argument_error, function_name, safe_repr, safe_str
from asynctune.errors import ConfigError, SpecMismatch
from asynctune.space.domains import Choice, Domain, SampleFrom, is_grid
from asynctune.space.spec import DictView, ListView, Path, Spec, View, generator, locate, path_text

_MAX_TAG_LENGTH = 120
_MAX_REPR_LENGTH = 200
_MAX_JSON_DEPTH = 32
MAX_DEPTH = 64
"""The maximum depth of a config. Neither the search for secrets nor the display of a config goes deeper."""
# Python refuses to convert an int of more than 4,300 digits (14,280 bits) to text.
_MAX_BITS = 10_000
SMALLER_INT = f"an int of at most {_MAX_BITS} bits"


@dataclass(frozen=True, slots=True)
class Variant:
    """A config without markers, and the draws that it was made from.

    Args:
        config: The config.
        drawn: The record of each draw, by path (``"model/layers/0"``), as plain JSON: a number;
            ``{"grid": 2}`` or ``{"choice": 1}``, an index; ``{"value": x}`` or ``{"repr": "..."}`` of a
            function, with the ``"seed"`` of ``spec.rng`` if a rebuild needs it. If the picked element
            is itself a sampler, ``"then"`` holds the record of its draw.
        tag: A label of the draws, e.g. ``a=x,k=0.12346``.
        others: Values that a searcher set in the config at paths without a sampler.
    """

    config: dict[Any, Any]
    drawn: dict[str, Any]
    tag: str
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grid:
    """A ``grid_search`` whose values were checked."""

    values: tuple[Any, ...]


class _Resolver:
    """Replaces the markers of one config, each on first access."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._values: dict[Path, Any] = {}
        self._drawn: dict[Path, Any] = {}
        self._pending: list[Path] = []
        self._raised: ConfigError | None = None

    def _draw(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        """Return the record of a draw and the drawn value.

        Args:
            path: The path of the marker.
            marker: The marker; at a depth above 0 the one that the previous draw picked.
            depth: The number of previous draws at the path.
        """
        raise NotImplementedError

    def variant(self) -> Variant:
        config = self.build((), self._tree)
        paths = sorted(self._drawn, key=path_order)
        drawn = {path_text(path): self._drawn[path] for path in paths}
        return Variant(config, drawn, _tag(config, paths))

    def build(self, path: Path, node: Any) -> Any:
        """Return a node without markers. Its containers are new, its leaves are the same objects."""
        node = self._resolve(path, node)
        try:
            return rebuild_config(node, lambda key, item: self.build((*path, key), item))
        except ConfigError:
            raise
        except Exception as exc:  # a user's container class, such as a tuple with another __new__
            what = f"a {type(node).__qualname__} cannot be rebuilt from its items"
            raise self._remember(ConfigError(f"{locate(path)}: {what}: {safe_str(exc)}")) from exc

    def view(self, path: Path, node: Any) -> Any:
        """Return a node for a function to read: a lazy view if it holds containers or markers."""
        node = self._resolve(path, node)
        if isinstance(node, dict):
            return DictView(self, path, node)
        lazy = (dict, list, tuple, Domain, SampleFrom)
        if isinstance(node, list | tuple) and any(isinstance(item, lazy) for item in node):
            return ListView(self, path, node)
        return self.build(path, node)

    def _resolve(self, path: Path, node: Any) -> Any:
        if not isinstance(node, Domain | SampleFrom | Grid):
            return node
        if path not in self._values:
            if path in self._pending:
                cycle = [*self._pending[self._pending.index(path) :], path]
                text = " -> ".join(map(path_text, cycle))
                raise self._remember(ConfigError(f"{locate(path)} depends on itself: {text}"))
            self._pending.append(path)
            try:
                self._drawn[path], self._values[path] = self._chain(path, node, 0)
            finally:
                self._pending.pop()
        return self._values[path]

    def _chain(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        record, value = self._draw(path, marker, depth)
        if isinstance(value, Domain | SampleFrom):  # picked from a grid or choice
            then, value = self._chain(path, value, depth + 1)
            record["then"] = then
        return record, value

    def _call(self, path: Path, marker: SampleFrom, seed: str) -> tuple[Any, Any]:
        spec = Spec(DictView(self, (), self._tree), seed)
        try:
            value = self._returned(path, marker.func(spec))
        except Exception as exc:
            if exc is self._raised:
                raise
            what = f"the function {function_name(marker.func)} raised {safe_str(exc)}"
            raise self._remember(ConfigError(f"{locate(path)}: {what}")) from exc
        if is_json(value):
            return {"value": copy.deepcopy(value)}, value
        text = stable_text(value) or safe_repr(value)
        return {"repr": text[:_MAX_REPR_LENGTH]} | ({"seed": seed} if spec.used_rng else {}), value

    def _returned(self, path: Path, value: Any, depth: int = 0) -> Any:
        if isinstance(value, View):
            return value.plain()
        name = f"{locate(path)}: the value returned by the function"
        if is_huge_int(value) or depth > MAX_DEPTH:
            what = SMALLER_INT if depth <= MAX_DEPTH else f"nested at most {MAX_DEPTH} levels deep"
            raise self._remember(ConfigError(f"{name} must be {what}"))
        if isinstance(value, Domain | SampleFrom) or is_grid(value):
            hint = "draw with sampler.sample(spec.rng)"
            raise self._remember(argument_error("", name, "free of markers", value, hint))
        return _plain(rebuild_config(value, lambda _, item: self._returned(path, item, depth + 1)))

    def _remember(self, error: ConfigError) -> ConfigError:
        # The error propagates through every function that reads the value. _call compares it with this
        # attribute and raises it unchanged, with the path of the value that caused it.
        self._raised = error
        return error


class Sampler(_Resolver):
    """Draws the values of a variant."""

    def __init__(
        self,
        tree: Any,
        positions: Mapping[Path, int],
        seed: str,
        given: Mapping[Path, Any] | None = None,
    ) -> None:
        super().__init__(tree)
        self._positions = positions
        self._seed = seed
        self._given = given or {}

    def _draw(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        # The seed holds the path, so no other marker, nor the order of draws, changes the result.
        seed = f"{self._seed}/{path_text(path)}/{depth}"
        if depth == 0 and path in self._given:
            return self._use_given(path, marker, self._given[path])
        if isinstance(marker, Grid):
            position = self._positions[path]
            return {"grid": position}, marker.values[position]
        if isinstance(marker, SampleFrom):
            return self._call(path, marker, seed)
        try:
            if isinstance(marker, Choice):
                position = marker.position(generator(seed))
                return {"choice": position}, marker.categories[position]
            value = marker.sample(generator(seed))
        except Exception as exc:
            what = f"{safe_repr(marker)} cannot be drawn from: {safe_str(exc)}"
            raise self._remember(ConfigError(f"{locate(path)}: {what}")) from exc
        return value, value

    def _use_given(self, path: Path, marker: Any, value: Any) -> tuple[Any, Any]:
        """Return the record and value of a sampler whose value was given, if it can draw the value."""
        if isinstance(marker, Choice):
            # Several elements may be equal; the identical one, if any, is the one that was suggested.
            same = [i for i, category in enumerate(marker.categories) if category is value]
            same += [i for i, category in enumerate(marker.categories) if _equal(category, value)]
            if same:
                return {"choice": same[0]}, marker.categories[same[0]]
        elif not isinstance(value, bool) and isinstance(value, numbers.Real):
            plain = int(value) if isinstance(value, numbers.Integral) else float(value)
            if math.isfinite(plain):
                return plain, plain
        what = f"a value that {safe_repr(marker)} can draw"
        raise self._remember(
            argument_error("", f"{locate(path)}: the suggested value", what, value)
        )


class Rebuilder(_Resolver):
    """Makes the values of a variant from its recorded draws."""

    def __init__(self, tree: Any, drawn: Mapping[str, Any]) -> None:
        super().__init__(tree)
        self._records = drawn

    def _draw(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        record = whole = self._records.get(path_text(path))
        for _ in range(depth):
            record = record.get("then") if isinstance(record, Mapping) else None
        if isinstance(marker, SampleFrom):
            if isinstance(record, Mapping) and "value" in record:
                return {"value": record["value"]}, copy.deepcopy(record["value"])
            if isinstance(record, Mapping) and "repr" in record:
                new, value = self._call(path, marker, record.get("seed", ""))
                comparable = "value" in new or stable_text(value) is not None
                if comparable and new.get("repr") != record["repr"]:
                    raise self._remember(_changed_value(path, marker, record["repr"], value))
                return dict(record), value
        elif isinstance(marker, Grid | Choice):
            kind, values = "grid", getattr(marker, "values", ())
            if isinstance(marker, Choice):
                kind, values = "choice", marker.categories
            position = record.get(kind) if isinstance(record, Mapping) else None
            if type(position) is int and 0 <= position < len(values):
                return {kind: position}, values[position]
        elif type(record) in (int, float):
            return record, record
        raise self._remember(mismatch(path_text(path), whole))


def rebuild_config(node: Any, child: Callable[[Any, Any], Any]) -> Any:
    """Return a copy of a container with its items replaced, or a leaf unchanged.

    A tuple whose items stay the same objects is returned itself.

    Args:
        node: The container or leaf.
        child: Called as ``child(key, item)``; returns the new item.
    """
    if isinstance(node, dict):
        fresh = {} if type(node) is dict else copy.copy(node)
        for key, item in node.items():
            fresh[key] = child(key, item)
        return fresh
    if not isinstance(node, list | tuple):
        return node
    items = [child(index, item) for index, item in enumerate(node)]
    if isinstance(node, tuple):
        if all(new is old for new, old in zip(items, node, strict=True)):
            return node
        return getattr(type(node), "_make", type(node))(items)
    if type(node) is list:
        return items
    changed = copy.copy(node)
    changed[:] = items
    return changed


def _tag(config: dict[Any, Any], paths: Sequence[Path]) -> str:
    parts = []
    for path in paths:
        value: Any = config
        for key in path:
            value = value[key]
        last = max((i for i, key in enumerate(path) if not isinstance(key, int)), default=-1)
        names = [str(key) for i, key in enumerate(path) if i == last or isinstance(key, int)]
        text = f"{value:.5}" if isinstance(value, float) else _label(value)
        parts.append(f"{'_'.join(names)}={text}".replace("/", "_"))
    return ",".join(parts)[:_MAX_TAG_LENGTH]


def _label(value: Any) -> str:
    if isinstance(value, str):
        return value
    name = getattr(value, "__name__", None)  # the repr of a function holds an address
    return name if isinstance(name, str) else safe_repr(value)


def is_huge_int(value: Any) -> bool:
    """Return whether a value is an int too long for Python to convert to text."""
    return type(value) is int and value.bit_length() > _MAX_BITS


def is_json(value: Any, depth: int = 0) -> bool:
    """Return whether JSON preserves a value exactly."""
    if value is None or type(value) in (bool, int, str):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if depth == _MAX_JSON_DEPTH or type(value) not in (dict, list):
        return False
    if type(value) is dict and not all(type(key) is str for key in value):
        return False
    items = value.values() if type(value) is dict else value
    return all(is_json(item, depth + 1) for item in items)


def stable_text(value: Any) -> str | None:
    """Return a text of a value that is the same in every process; None if there is none.

    A repr with an address differs between processes. So may one with braces, which may show a set, since
    the order of its elements differs.
    """
    if isinstance(value, set | frozenset):
        texts = [stable_text(item) for item in value]
        return None if None in texts else f"{{{', '.join(sorted(map(str, texts)))}}}"
    try:
        # The repr of numpy's numbers changed between numpy 1 and 2, their str did not.
        text = str(value) if _is_numpy_scalar(value) else repr(value)
    except Exception:
        return None
    unstable = " at 0x" in text or "{" in text or str(id(value)) in text
    return None if unstable else text


def _plain(value: Any) -> Any:
    """Return a numpy scalar as a plain number or text; any other value unchanged."""
    if _is_numpy_scalar(value):
        plain = value.item()
        return plain if is_json(plain) else value
    return value


def _is_numpy_scalar(value: Any) -> bool:
    # numpy's arrays have no __hash__, its functions no item().
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__hash__ is not None and hasattr(kind, "item")


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an array, or another object whose comparison fails
        return False


def path_order(path: Path) -> list[tuple[int, int, str]]:
    """Return the sort key of a path, which puts index 10 after 9, and indices before names."""
    return [(0, key, "") if isinstance(key, int) else (1, 0, str(key)) for key in path]


def _changed_value(path: Path, marker: SampleFrom, before: str, now: Any) -> SpecMismatch:
    return SpecMismatch(
        f"{locate(path)} was {before}, and is {safe_repr(now)} now that the resume has called the "
        f"function {function_name(marker.func)} again; draw with spec.rng, or return plain numbers and "
        "text, which are recorded"
    )


def mismatch(text: str, record: Any) -> SpecMismatch:
    """Return the error for a recorded draw that this config cannot have made."""
    return SpecMismatch(
        f"{text!r}: this config cannot draw the recorded {record!r}; resume with the config that the "
        "experiment began with"
    )
