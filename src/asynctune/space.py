"""The search space: samplers, grids, dependent values, and the variants that they make.

A variant is a function of the space, a seed and its number alone. Nothing needs to be saved to draw
the next one, or the same one again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asynctune.errors import ConfigError

GRID = "grid_search"
_TAG_LENGTH = 120
Path = tuple[Any, ...]


class Domain:
    """What a value of the space can be drawn from."""

    __slots__ = ()

    def sample(self, rng: random.Random) -> Any:
        """Draw a value."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Float(Domain):
    """A float between bounds.

    Args:
        low: The lower bound.
        high: The upper bound.
        log: Whether it is uniform in the logarithm.
        q: The step that draws are rounded to, or None.
    """

    low: float
    high: float
    log: bool = False
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        value = min(max(value, self.low), self.high)
        return value if self.q is None else _rounded(value, self.q, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Integer(Domain):
    """An int between bounds, the upper one excluded; with a step ``q`` it is included.

    Args:
        low: The lower bound.
        high: The upper bound.
        log: Whether it is uniform in the logarithm.
        q: The step that draws are rounded to, or None.
    """

    low: int
    high: int
    log: bool = False
    q: int | None = None

    def sample(self, rng: random.Random) -> int:
        top = self.high if self.q is None else self.high + 1
        if self.log:
            value = int(math.exp(rng.uniform(math.log(self.low), math.log(top))))
            value = min(max(value, self.low), top - 1)
        else:
            value = rng.randrange(self.low, top)
        return value if self.q is None else int(_rounded(value, self.q, self.low, self.high))


@dataclass(frozen=True, slots=True)
class Normal(Domain):
    """A float from a normal distribution.

    Args:
        mean: Its mean.
        sd: Its standard deviation.
        q: The step that draws are rounded to, or None.
    """

    mean: float
    sd: float
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        value = rng.gauss(self.mean, self.sd)
        return value if self.q is None else _rounded(value, self.q, -math.inf, math.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Choice(Domain):
    """One of several objects, which come back as they are.

    Args:
        options: The objects.
    """

    options: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        return self.options[self.index(rng)]

    def index(self, rng: random.Random) -> int:
        """Draw the position of an object."""
        return rng.randrange(len(self.options))


@dataclass(frozen=True, slots=True)
class Dependent(Domain):
    """A value that a function makes of the rest of the configuration.

    Args:
        function: ``spec -> value``.
    """

    function: Callable[[Any], Any]


def uniform(low: float, high: float) -> Float:
    """Draw a float, uniform between ``low`` and ``high``."""
    return Float(*_bounds("uniform", low, high))


def quniform(low: float, high: float, q: float) -> Float:
    """Like :func:`uniform`, rounded to multiples of ``q``; both bounds may come."""
    return Float(*_bounds("quniform", low, high), q=_step("quniform", low, high, q))


def loguniform(low: float, high: float, base: float = 10) -> Float:
    """Draw a float, uniform in the logarithm. ``base`` is accepted; it changes nothing."""
    if not _is_number(base) or base <= 1:
        raise ConfigError(f"loguniform: base is {base!r}; a number above 1 is wanted")
    return Float(*_bounds("loguniform", low, high, log=True), log=True)


def qloguniform(low: float, high: float, q: float, base: float = 10) -> Float:
    """Like :func:`loguniform`, rounded to multiples of ``q``; both bounds may come."""
    loguniform(low, high, base)
    bounds = _bounds("qloguniform", low, high, log=True)
    return Float(*bounds, log=True, q=_step("qloguniform", low, high, q))


def randint(low: int, high: int) -> Integer:
    """Draw an int from ``low`` up to, and without, ``high``."""
    return Integer(*_int_bounds("randint", low, high))


def qrandint(low: int, high: int, q: int = 1) -> Integer:
    """Draw a multiple of ``q`` from ``low`` up to, and with, ``high``."""
    bounds = _int_bounds("qrandint", low, high)
    return Integer(*bounds, q=_int_step("qrandint", low, high, q))


def lograndint(low: int, high: int, base: float = 10) -> Integer:
    """Draw an int from ``low`` up to, and without, ``high``, uniform in the logarithm."""
    if not _is_number(base) or base <= 1:
        raise ConfigError(f"lograndint: base is {base!r}; a number above 1 is wanted")
    return Integer(*_int_bounds("lograndint", low, high, log=True), log=True)


def qlograndint(low: int, high: int, q: int, base: float = 10) -> Integer:
    """Like :func:`lograndint`, in multiples of ``q`` and with ``high``."""
    lograndint(low, high, base)
    bounds = _int_bounds("qlograndint", low, high, log=True)
    return Integer(*bounds, log=True, q=_int_step("qlograndint", low, high, q))


def randn(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """Draw a float from a normal distribution."""
    for name, value in (("mean", mean), ("sd", sd)):
        if not _is_number(value) or not math.isfinite(value):
            raise ConfigError(f"randn: {name} is {value!r}; a finite number is wanted")
    if sd <= 0:
        raise ConfigError(f"randn: sd is {sd}; a number above 0 is wanted")
    return Normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Normal:
    """Like :func:`randn`, rounded to multiples of ``q``."""
    normal = randn(mean, sd)
    if not _is_number(q) or not 0 < q < math.inf:
        raise ConfigError(f"qrandn: q is {q!r}; a number above 0 is wanted")
    return Normal(normal.mean, normal.sd, q)


def choice(options: Sequence[Any]) -> Choice:
    """Draw one of the objects; it comes back as it was given."""
    if isinstance(options, str | bytes) or not isinstance(options, Sequence):
        raise ConfigError(f"choice: options is {options!r}; a list is wanted")
    if not options:
        raise ConfigError("choice: options is empty; there is nothing to choose from")
    return Choice(tuple(options))


def sample_from(function: Callable[[Any], Any]) -> Dependent:
    """Make a value of the rest of the configuration.

    Args:
        function: Is given ``spec``: ``spec.config.x`` and ``spec.config["x"]`` are values of the
            configuration that is being made, drawn when asked for; ``spec.rng`` is a seeded
            :class:`random.Random`.
    """
    if not callable(function):
        raise ConfigError(f"sample_from: {function!r} is no function of spec")
    return Dependent(function)


def grid_search(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Try each of the values, in combination with all of every other grid."""
    return {GRID: _grid_values(values, "grid_search()")}


@dataclass(frozen=True, slots=True)
class Variant:
    """A configuration, and how it came about.

    Args:
        config: The configuration.
        drawn: What was drawn at each path: ``{"grid": position}``, ``{"choice": position}``,
            a number, or for a dependent value ``{"value": it}`` or ``{"repr": "..."}``.
        tag: What was drawn, as a label.
    """

    config: dict[Any, Any]
    drawn: dict[str, Any]
    tag: str


class Space:
    """A configuration with search markers anywhere inside its dicts, lists and tuples.

    Args:
        config: The configuration; it is not changed.

    Raises:
        ConfigError: A grid is no list, or empty; the message names its path.
    """

    def __init__(self, config: Mapping[Any, Any]) -> None:
        self._config = dict(config)
        found = sorted(_markers(self._config, ()), key=lambda item: _label(item[0]))
        self._grids = [
            (path, _grid_values(marker[GRID], f"config[{_label(path)!r}]"))
            for path, marker in found
            if not isinstance(marker, Domain)
        ]
        for path, values in self._grids:
            for value in values:
                if any(isinstance(marker, Mapping) for _, marker in _markers(value, path)):
                    raise ConfigError(
                        f"config[{_label(path)!r}] is a grid_search that holds another grid_search; "
                        "put both beside each other"
                    )
        self.has_markers = bool(found)
        self.grid_size = math.prod(len(values) for _, values in self._grids)

    def variant(self, index: int, seed: int) -> Variant:
        """Make a variant.

        Args:
            index: Its number: points of the grid follow each other, the first path varying fastest,
                and after the last comes the first again, with fresh samples.
            seed: What samples are derived from.

        Raises:
            ConfigError: A dependent value depends on itself, or its function raised.
        """
        positions: dict[Path, int] = {}
        rest = index % self.grid_size
        for path, values in self._grids:
            rest, positions[path] = divmod(rest, len(values))
        # A str seeds the same on every platform, version and process.
        rng = random.Random(f"asynctune/{seed}/{index}")
        return _Resolver(self._config, positions, rng).variant()

    def rebuild(self, drawn: Mapping[str, Any], index: int, seed: int) -> dict[Any, Any]:
        """Make the configuration of a variant again from what the journal says was drawn.

        Args:
            drawn: ``Variant.drawn``.
            index: The number of the variant.
            seed: The seed of the run.

        Raises:
            ConfigError: A position lies outside its grid or choice: this is another space.
        """
        rng = random.Random(f"asynctune/{seed}/{index}")
        return _Resolver(self._config, {}, rng, drawn).variant().config


class _Resolver:
    """Makes one configuration: each marker is resolved when it is first asked for."""

    def __init__(
        self,
        config: Mapping[Any, Any],
        positions: Mapping[Path, int],
        rng: random.Random,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        self._positions = positions
        self._known = known
        self._resolving: list[Path] = []
        self._values: dict[Path, Any] = {}
        self._drawn: dict[Path, Any] = {}
        self._config = config
        self.rng = rng

    def variant(self) -> Variant:
        # In the order of paths, whatever the order of dicts: so that equal spaces draw alike.
        for path, _ in sorted(_markers(self._config, ()), key=lambda item: _label(item[0])):
            self.at(path)
        config = self.resolve(self._config, ())
        drawn = {_label(path): value for path, value in self._drawn.items()}
        return Variant(config, drawn, self._tag())

    def at(self, path: Path) -> Any:
        """Return the value at a path of the configuration."""
        node: Any = self._config
        for position, key in enumerate(path):
            node = node[key]
            if _is_marker(node):
                node = self.resolve(node, path[: position + 1])
        return self.resolve(node, path)

    def resolve(self, node: Any, path: Path) -> Any:
        """Return a node with all markers in it resolved; containers are new ones."""
        if _is_marker(node):
            if path not in self._values:
                self._values[path] = self._resolve_marker(node, path)
            return _rebuilt(self._values[path])
        if isinstance(node, Mapping):
            return {key: self.resolve(value, (*path, key)) for key, value in node.items()}
        if type(node) in (list, tuple):
            return type(node)(self.resolve(value, (*path, i)) for i, value in enumerate(node))
        return node

    def _resolve_marker(self, marker: Any, path: Path) -> Any:
        if path in self._resolving:
            cycle = [*self._resolving[self._resolving.index(path) :], path]
            raise ConfigError(
                f"config: values depend on each other: {' -> '.join(map(_label, cycle))}"
            )
        self._resolving.append(path)
        try:
            if isinstance(marker, Mapping):
                values = _grid_values(marker[GRID], _label(path))
                position = self._position(path, "grid", len(values), self._positions.get(path, 0))
                self._drawn[path] = {"grid": position}
                return self._picked(values[position], path)
            if isinstance(marker, Choice):
                drawn = marker.index(self.rng)
                position = self._position(path, "choice", len(marker.options), drawn)
                self._drawn[path] = {"choice": position}
                return self._picked(marker.options[position], path)
            if isinstance(marker, Dependent):
                return self._dependent(marker, path)
            value = marker.sample(self.rng)
            if self._known is not None:
                value = self._known.get(_label(path), value)
            self._drawn[path] = value
            return value
        finally:
            self._resolving.pop()

    def _picked(self, value: Any, path: Path) -> Any:
        """Resolve what was picked of a grid or choice: it may be, or hold, a sampler."""
        return self.resolve(value, (*path, "")) if any(_markers(value, path)) else value

    def _position(self, path: Path, kind: str, size: int, position: int) -> int:
        if self._known is None:
            return position
        found = self._known.get(_label(path))
        known = found.get(kind) if isinstance(found, Mapping) else None
        if not isinstance(known, int) or not 0 <= known < size:
            raise ConfigError(
                f"config[{_label(path)!r}] is a {kind} of {size} values, but the journal says "
                f"{found!r}: this is another space"
            )
        return known

    def _dependent(self, marker: Dependent, path: Path) -> Any:
        known = self._known.get(_label(path)) if self._known is not None else None
        if isinstance(known, Mapping) and "value" in known:
            self._drawn[path] = known
            return known["value"]
        try:
            value = marker.function(_Spec(self))
        except ConfigError:
            raise
        except Exception as exc:
            raise ConfigError(
                f"config[{_label(path)!r}]: the function of sample_from raised "
                f"{type(exc).__name__}: {exc}"
            ) from exc
        self._drawn[path] = {"value": value} if _is_json(value) else {"repr": repr(value)[:200]}
        return value

    def _tag(self) -> str:
        parts = []
        for path, drawn in sorted(self._drawn.items(), key=lambda item: _label(item[0])):
            shown = self._values[path] if isinstance(drawn, Mapping) else drawn
            names = [key for key in path if isinstance(key, str) and key]
            indices = [str(key) for key in path if isinstance(key, int)]
            text = f"{shown:.5g}" if isinstance(shown, float) else str(shown)
            parts.append(f"{'_'.join([*names[-1:], *indices])}={text[:40]}")
        return ",".join(parts).replace("/", "_")[:_TAG_LENGTH]


class _Spec:
    """What the function of ``sample_from`` is given."""

    def __init__(self, resolver: _Resolver) -> None:
        self.rng = resolver.rng
        self.config = _View(resolver, (), resolver._config)


class _View(Mapping[Any, Any]):
    """A dict of the configuration whose values are resolved when they are asked for."""

    def __init__(self, resolver: _Resolver, path: Path, node: Mapping[Any, Any]) -> None:
        self._resolver = resolver
        self._path = path
        self._node = node

    def __getitem__(self, key: Any) -> Any:
        value = self._node[key]
        if isinstance(value, Mapping) and not _is_marker(value):
            return _View(self._resolver, (*self._path, key), value)
        resolved = self._resolver.at((*self._path, key))
        return _Attributes(resolved) if type(resolved) is dict else resolved

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            where = _label(self._path) or "config"
            known = ", ".join(map(str, self._node))
            raise AttributeError(f"{where} has no {name!r}; it has {known}") from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._node)

    def __len__(self) -> int:
        return len(self._node)


class _Attributes(dict[Any, Any]):
    """A dict that was picked from a grid or choice, whose values are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"the picked dict has no {name!r}") from None
        return _Attributes(value) if type(value) is dict else value


def _markers(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Find the outermost markers below a node."""
    if _is_marker(node):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _markers(value, (*path, key))
    elif type(node) in (list, tuple):
        for index, value in enumerate(node):
            yield from _markers(value, (*path, index))


def _is_marker(node: Any) -> bool:
    return isinstance(node, Domain) or (isinstance(node, Mapping) and set(node) == {GRID})


def _grid_values(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list | tuple | range):
        raise ConfigError(f"{where}: grid_search has {values!r}; a list is wanted")
    if not values:
        raise ConfigError(f"{where}: grid_search has an empty list; there would be no trial")
    return list(values)


def _rebuilt(value: Any) -> Any:
    """Copy the containers, so that no two variants share one; the leaves are the same objects."""
    if type(value) is dict:
        return {key: _rebuilt(item) for key, item in value.items()}
    if type(value) is list:
        return [_rebuilt(item) for item in value]
    return value


def _label(path: Path) -> str:
    return "/".join(str(key) for key in path if key != "")


def _is_json(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | str):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if type(value) is list:
        return all(map(_is_json, value))
    if type(value) is dict:
        return all(isinstance(k, str) for k in value) and all(map(_is_json, value.values()))
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: float, q: float, low: float, high: float) -> float:
    """Round to a multiple of ``q`` that lies within the bounds."""
    steps = round(value / q)
    if steps * q > high:
        steps = math.floor(high / q + 1e-9)
    if steps * q < low:
        steps = math.ceil(low / q - 1e-9)
    # Through the decimals of q: 3 * 0.1 is to be 0.3.
    decimals = max(0, -math.floor(math.log10(q)) + 12) if isinstance(q, float) else 0
    return round(steps * q, decimals) if decimals else steps * q


def _bounds(name: str, low: Any, high: Any, *, log: bool = False) -> tuple[float, float]:
    for argument, value in (("low", low), ("high", high)):
        if not _is_number(value) or not math.isfinite(value):
            raise ConfigError(f"{name}: {argument} is {value!r}; a finite number is wanted")
    if log and low <= 0:
        raise ConfigError(f"{name}: low is {low}; a number above 0 is wanted for a logarithm")
    if low >= high:
        raise ConfigError(f"{name}: low is {low} and high is {high}; low has to be below high")
    return float(low), float(high)


def _int_bounds(name: str, low: Any, high: Any, *, log: bool = False) -> tuple[int, int]:
    for argument, value in (("low", low), ("high", high)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{name}: {argument} is {value!r}; an int is wanted")
    _bounds(name, low, high, log=log)
    return low, high


def _step(name: str, low: float, high: float, q: Any) -> float:
    if not _is_number(q) or not 0 < q < math.inf:
        raise ConfigError(f"{name}: q is {q!r}; a number above 0 is wanted")
    if math.ceil(low / q - 1e-9) > math.floor(high / q + 1e-9):
        raise ConfigError(f"{name}: no multiple of q={q} lies between {low} and {high}")
    return float(q)


def _int_step(name: str, low: int, high: int, q: Any) -> int:
    if not isinstance(q, int) or isinstance(q, bool) or q < 1:
        raise ConfigError(f"{name}: q is {q!r}; an int of 1 or more is wanted")
    _step(name, low, high, q)
    return q
