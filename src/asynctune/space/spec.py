"""The argument of a ``sample_from`` function: a view of the config that draws each value on access."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Path: TypeAlias = tuple[Any, ...]


class Resolver(Protocol):
    """Replaces the markers of one config with values."""

    def build(self, path: Path, node: Any) -> Any:
        """Return a node with all markers replaced."""
        ...

    def view(self, path: Path, node: Any) -> Any:
        """Return a node for a function to read, which resolves its items lazily."""
        ...


class Spec:
    """The argument of a ``sample_from`` function: the lazy ``config``, and ``rng``."""

    __slots__ = ("_rng", "_seed", "config")

    def __init__(self, config: Mapping[Any, Any], seed: str) -> None:
        self.config = config
        self._seed = seed
        self._rng: random.Random | None = None

    @property
    def rng(self) -> random.Random:
        """The random generator of this value alone."""
        if self._rng is None:
            self._rng = generator(self._seed)
        return self._rng

    @property
    def used_rng(self) -> bool:
        """Whether the function has read ``rng``."""
        return self._rng is not None


class View:
    """A container of a config that is being resolved; only the items that are read are resolved."""

    __slots__ = ("_node", "_path", "_resolver")

    def __init__(self, resolver: Resolver, path: Path, node: Any) -> None:
        self._resolver = resolver
        self._path = path
        self._node = node

    def plain(self) -> Any:
        return self._resolver.build(self._path, self._node)

    def __len__(self) -> int:
        return len(self._node)

    def __repr__(self) -> str:
        return repr(self.plain())


class DictView(View, Mapping[Any, Any]):
    """A dict of a config that is being resolved."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if key not in self._node:
            raise KeyError(self._missing(key))
        return self._resolver.view((*self._path, key), self._node[key])

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look up dunder names on an instance whose slots are still empty.
        if name.startswith("__") or name not in self._node:
            raise AttributeError(name if name.startswith("__") else self._missing(name))
        return self[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._node)

    def _missing(self, key: Any) -> str:
        return f"{locate(self._path)} has no {key!r}; it has {', '.join(map(repr, self._node))}"


class ListView(View, Sequence[Any]):
    """A list or tuple of a config that is being resolved."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        position = range(len(self))[index]
        return self._resolver.view((*self._path, position), self._node[position])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | tuple | ListView) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def path_text(path: Path) -> str:
    """Return a path as text, as in journals and errors."""
    return "/".join(map(str, path))


def locate(path: Path) -> str:
    """Return the location of a path as an error names it."""
    return f"{path_text(path)!r} in config" if path else "config"


def generator(seed: str) -> random.Random:
    """Return the random generator of one draw."""
    # random.Random seeds from the SHA-512 of a str or bytes, independent of PYTHONHASHSEED. Bytes also work
    # for a seed with a lone surrogate from a key of the config.
    return random.Random(seed.encode("utf-8", "surrogatepass"))
