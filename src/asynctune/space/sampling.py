"""How a config is made of a tree with markers in it: by drawing, or by what a journal says was drawn.

Each marker is replaced when it is first asked for, so functions may read any other value. Each draw
has a generator of its own, so neither the order nor another marker changes what it gives.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asynctune._checks import function_name, safe_repr, safe_str
from asynctune.errors import ConfigError, SpecMismatch
from asynctune.space.domains import Choice, Domain, SampleFrom, is_grid
from asynctune.space.spec import DictView, ListView, Path, Spec, View, generator, path_text, place

_TAG_LENGTH = 120
_REPR_LENGTH = 200
_DEEPEST_NOTE = 32
DEEPEST = 64
"""How deep a config may be: secrets are looked for so far down, and it is shown so far."""
_MOST_BITS = 10_000
ENDLESS = f"an int of more than {_MOST_BITS} bits, which no text can hold; give a smaller one"


@dataclass(frozen=True, slots=True)
class Variant:
    """A config without markers, and how it came about.

    Args:
        config: The config.
        drawn: What was drawn, by path (``"model/layers/0"``), as plain JSON: a number; ``{"grid": 2}``
            or ``{"choice": 1}``, a position; ``{"value": x}`` or ``{"repr": "..."}`` of a function,
            with the ``"seed"`` of ``spec.rng`` if it is needed again. Where what was picked is itself
            a sampler, ``"then"`` says what that drew.
        tag: What was drawn as a label, e.g. ``a=x,k=0.12346``.
        others: What a searcher set in the config beside its markers.
    """

    config: dict[Any, Any]
    drawn: dict[str, Any]
    tag: str
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grid:
    """A ``grid_search`` that was checked."""

    values: tuple[Any, ...]


class _Resolver:
    """Replaces the markers of one config, each when it is first asked for."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._values: dict[Path, Any] = {}
        self._drawn: dict[Path, Any] = {}
        self._pending: list[Path] = []
        self._on_message: ConfigError | None = None

    def _draw(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        """Return what to note of a draw, and what was drawn. ``depth`` counts draws at the path."""
        raise NotImplementedError

    def variant(self) -> Variant:
        config = self.build((), self._tree)
        paths = sorted(self._drawn, key=path_order)
        drawn = {path_text(path): self._drawn[path] for path in paths}
        return Variant(config, drawn, _tag(config, paths))

    def build(self, path: Path, node: Any) -> Any:
        """Return a node without markers; its containers are new, its leaves those given."""
        node = self._settle(path, node)
        try:
            return rebuild_config(node, lambda key, item: self.build((*path, key), item))
        except ConfigError:
            raise
        except (
            Exception
        ) as exc:  # a container of the user's own, such as a tuple with another __new__
            what = f"a {type(node).__qualname__} cannot be made again of what it holds"
            raise self._tell(ConfigError(f"{place(path)}: {what}: {safe_str(exc)}")) from exc

    def view(self, path: Path, node: Any) -> Any:
        """Return a node for a function to read: what holds containers or markers, lazily."""
        node = self._settle(path, node)
        if isinstance(node, dict):
            return DictView(self, path, node)
        lazy = (dict, list, tuple, Domain, SampleFrom)
        if isinstance(node, list | tuple) and any(isinstance(item, lazy) for item in node):
            return ListView(self, path, node)
        return self.build(path, node)

    def _settle(self, path: Path, node: Any) -> Any:
        if not isinstance(node, Domain | SampleFrom | Grid):
            return node
        if path not in self._values:
            if path in self._pending:
                cycle = [*self._pending[self._pending.index(path) :], path]
                drawing = " -> ".join(map(path_text, cycle))
                raise self._tell(ConfigError(f"{place(path)} depends on itself: {drawing}"))
            self._pending.append(path)
            try:
                self._drawn[path], self._values[path] = self._chain(path, node, 0)
            finally:
                self._pending.pop()
        return self._values[path]

    def _chain(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        note, value = self._draw(path, marker, depth)
        if isinstance(value, Domain | SampleFrom):  # picked from a grid or choice
            then, value = self._chain(path, value, depth + 1)
            note["then"] = then
        return note, value

    def _call(self, path: Path, marker: SampleFrom, seed: str) -> tuple[Any, Any]:
        spec = Spec(DictView(self, (), self._tree), seed)
        try:
            value = self._returned(path, marker.func(spec))
        except Exception as exc:
            if exc is self._on_message:
                raise
            what = f"the function {function_name(marker.func)} raised {safe_str(exc)}"
            raise self._tell(ConfigError(f"{place(path)}: {what}")) from exc
        if is_json(value):
            return {"value": copy.deepcopy(value)}, value
        text = stable_text(value) or safe_repr(value)
        return {"repr": text[:_REPR_LENGTH]} | ({"seed": seed} if spec.used_rng else {}), value

    def _returned(self, path: Path, value: Any, depth: int = 0) -> Any:
        if isinstance(value, View):
            return value.plain()
        if is_endless(value) or depth > DEEPEST:
            what = ENDLESS if depth <= DEEPEST else f"more than {DEEPEST} levels of containers"
            raise self._tell(ConfigError(f"{place(path)}: the function returned {what}"))
        if isinstance(value, Domain | SampleFrom) or is_grid(value):
            hint = "draw with sampler.sample(spec.rng)"
            raise self._tell(
                ConfigError(f"{place(path)}: the function returned {safe_repr(value)}; {hint}")
            )
        return _plain(rebuild_config(value, lambda _, item: self._returned(path, item, depth + 1)))

    def _tell(self, error: ConfigError) -> ConfigError:
        # Remembered, so that it passes through the functions that asked for the value.
        self._on_message = error
        return error


class Sampler(_Resolver):
    """Draws."""

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
        # Each draw has a generator of its own: no other marker, nor the order, changes what it gives.
        seed = f"{self._seed}/{path_text(path)}/{depth}"
        if depth == 0 and path in self._given:
            return self._take(path, marker, self._given[path])
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
            raise self._tell(ConfigError(f"{place(path)}: {what}")) from exc
        return value, value

    def _take(self, path: Path, marker: Any, value: Any) -> tuple[Any, Any]:
        """Use a value that was given, if its sampler could have drawn it."""
        if isinstance(marker, Choice):
            same = [at for at, category in enumerate(marker.categories) if category is value]
            same += [at for at, category in enumerate(marker.categories) if _equal(category, value)]
            if same:
                return {"choice": same[0]}, marker.categories[same[0]]
        elif not isinstance(value, bool) and isinstance(value, numbers.Real):
            plain = int(value) if isinstance(value, numbers.Integral) else float(value)
            if math.isfinite(plain):
                return plain, plain
        what = f"{safe_repr(value)} was suggested, which {safe_repr(marker)} cannot give"
        raise self._tell(ConfigError(f"{place(path)}: {what}"))


class Rebuilder(_Resolver):
    """Repeats what was drawn."""

    def __init__(self, tree: Any, drawn: Mapping[str, Any]) -> None:
        super().__init__(tree)
        self._notes = drawn

    def _draw(self, path: Path, marker: Any, depth: int) -> tuple[Any, Any]:
        note = noted = self._notes.get(path_text(path))
        for _ in range(depth):
            note = note.get("then") if isinstance(note, Mapping) else None
        if isinstance(marker, SampleFrom):
            if isinstance(note, Mapping) and "value" in note:
                return {"value": note["value"]}, copy.deepcopy(note["value"])
            if isinstance(note, Mapping) and "repr" in note:
                new, value = self._call(path, marker, note.get("seed", ""))
                comparable = "value" in new or stable_text(value) is not None
                if comparable and new.get("repr") != note["repr"]:
                    raise self._tell(_another(path, marker, note["repr"], value))
                return dict(note), value
        elif isinstance(marker, Grid | Choice):
            kind, values = "grid", getattr(marker, "values", ())
            if isinstance(marker, Choice):
                kind, values = "choice", marker.categories
            position = note.get(kind) if isinstance(note, Mapping) else None
            if type(position) is int and 0 <= position < len(values):
                return {kind: position}, values[position]
        elif type(note) in (int, float):
            return note, note
        raise self._tell(mismatch(path_text(path), noted))


def rebuild_config(node: Any, child: Callable[[Any, Any], Any]) -> Any:
    """Return a new container with its items replaced, or a leaf as it is."""
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
    return ",".join(parts)[:_TAG_LENGTH]


def _label(value: Any) -> str:
    if isinstance(value, str):
        return value
    name = getattr(value, "__name__", None)  # the repr of a function has an address in it
    return name if isinstance(name, str) else safe_repr(value)


def is_endless(value: Any) -> bool:
    """Whether a value is an int that Python itself does not write down."""
    return type(value) is int and value.bit_length() > _MOST_BITS


def is_json(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives back the very same."""
    if value is None or type(value) in (bool, int, str):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if depth == _DEEPEST_NOTE or type(value) not in (dict, list):
        return False
    if type(value) is dict and not all(type(key) is str for key in value):
        return False
    items = value.values() if type(value) is dict else value
    return all(is_json(item, depth + 1) for item in items)


def stable_text(value: Any) -> str | None:
    """Describe a value as any process would; None if that cannot be told of it.

    A repr with an address in it is another in each process, and one with braces may show a set, whose
    elements come in another order in each.
    """
    if isinstance(value, set | frozenset):
        texts = [stable_text(item) for item in value]
        return None if None in texts else f"{{{', '.join(sorted(map(str, texts)))}}}"
    try:
        # numpy changes the reprs of its numbers, but not how they are printed.
        text = str(value) if _is_numpy_scalar(value) else repr(value)
    except Exception:
        return None
    unstable = " at 0x" in text or "{" in text or str(id(value)) in text
    return None if unstable else text


def _plain(value: Any) -> Any:
    """Return what numpy draws as the plain number or text that it is; any other value as it is."""
    if _is_numpy_scalar(value):
        plain = value.item()
        return plain if is_json(plain) else value
    return value


def _is_numpy_scalar(value: Any) -> bool:
    # Its arrays have no hash, its functions no items.
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__hash__ is not None and hasattr(kind, "item")


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an array, or whatever else does not like to be compared
        return False


def path_order(path: Path) -> list[tuple[int, int, str]]:
    """Return the key by which paths are sorted: 10 after 9, and indices before names."""
    return [(0, key, "") if isinstance(key, int) else (1, 0, str(key)) for key in path]


def _another(path: Path, marker: SampleFrom, before: str, now: Any) -> SpecMismatch:
    return SpecMismatch(
        f"{place(path)} was {before}, and is {safe_repr(now)} now that "
        f"{function_name(marker.func)} is called "
        "again; draw with spec.rng, or return plain numbers and text, which are not drawn again"
    )


def mismatch(text: str, note: Any) -> SpecMismatch:
    """Return the error for a note that this config cannot have made."""
    return SpecMismatch(
        f"{text!r}: {note!r} was drawn, which this config cannot draw; resume with its own"
    )
