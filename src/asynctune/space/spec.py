"""What a function of ``sample_from`` sees of a config that is being resolved: reading draws."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Path: TypeAlias = tuple[Any, ...]


class Resolver(Protocol):
    """What replaces the markers."""

    def build(self, path: Path, node: Any) -> Any:
        """Return a node without markers."""
        ...

    def view(self, path: Path, node: Any) -> Any:
        """Return a node for a function to read."""
        ...


class Spec:
    """What a function of ``sample_from`` is given: ``config``, to be read lazily, and ``rng``."""

    __slots__ = ("_rng", "_seed", "config")

    def __init__(self, config: Mapping[Any, Any], seed: str) -> None:
        self.config = config
        self._seed = seed
        self._rng: random.Random | None = None

    @property
    def rng(self) -> random.Random:
        """A generator of this value's own."""
        if self._rng is None:
            self._rng = generator(self._seed)
        return self._rng

    @property
    def used_rng(self) -> bool:
        """Whether the function asked for ``rng``."""
        return self._rng is not None


class View:
    """Part of a config that is being resolved, read without resolving the rest."""

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
    """A dict of it."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if key not in self._node:
            raise KeyError(self._missing(key))
        return self._resolver.view((*self._path, key), self._node[key])

    def __getattr__(self, name: str) -> Any:
        # Dunders are asked for by copy and pickle, before there is a node to look into.
        if name.startswith("__") or name not in self._node:
            raise AttributeError(name if name.startswith("__") else self._missing(name))
        return self[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._node)

    def _missing(self, key: Any) -> str:
        return f"{place(self._path)} has no {key!r}; it has {', '.join(map(repr, self._node))}"


class ListView(View, Sequence[Any]):
    """A list or tuple of it."""

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
    """Write a path as journals and errors do."""
    return "/".join(map(str, path))


def place(path: Path) -> str:
    """Say where a path is, for an error."""
    return f"{path_text(path)!r} in config" if path else "config"


def generator(seed: str) -> random.Random:
    """Return the generator of one draw."""
    # A str seeds by its SHA-512, whatever PYTHONHASHSEED is; as bytes, lone surrogates in it do, too.
    return random.Random(seed.encode("utf-8", "surrogatepass"))
