"""A space as text, by which a resume tells whether it was given the space that it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from asynctune.secret import Secret
from asynctune.space.domains import Choice, Domain, SampleFrom
from asynctune.space.sampling import Grid, stable_text
from asynctune.space.spec import Path, path_text

_LONG = 200


def fingerprint(tree: Any) -> dict[str, str]:
    """Describe a space: path -> what is there.

    Samplers, grids and values are described wholly; functions, and objects whose repr another process
    would not give, by their kind and name alone.

    Args:
        tree: The space, its grids as :class:`~asynctune.space.sampling.Grid`.
    """
    return {path_text(path): _cut(text) for path, text in _leaves((), tree)}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """List what differs between two outlines, a sentence each."""
    found = []
    for path in sorted(before.keys() | now.keys()):
        old, new = before.get(path), now.get(path)
        name = f"config[{path!r}]" if path else "config"
        if old is None:
            found.append(f"{name} is {new} and was not there")
        elif new is None:
            found.append(f"{name} was {old} and is not there")
        elif old != new:
            found.append(f"{name} was {old} and is {new}")
    return found


def _leaves(path: Path, node: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves((*path, key), value)
    elif isinstance(node, list | tuple) and any(map(_holds_marker, node)):
        for index, value in enumerate(node):
            yield from _leaves((*path, index), value)
    else:
        yield path, _text(node)


def _holds_marker(node: Any) -> bool:
    if isinstance(node, Mapping):
        return any(map(_holds_marker, node.values()))
    if isinstance(node, list | tuple):
        return any(map(_holds_marker, node))
    return isinstance(node, Domain | SampleFrom | Grid)


def _text(node: Any) -> str:
    if isinstance(node, Grid):
        return f"grid_search([{', '.join(map(_text, node.values))}])"
    if isinstance(node, Choice):
        return f"choice([{', '.join(map(_text, node.categories))}])"
    if isinstance(node, SampleFrom):
        return "sample_from(...)"
    if isinstance(node, Domain):
        return repr(node)
    if isinstance(node, Mapping):
        return f"{{{', '.join(f'{key!r}: {_text(value)}' for key, value in node.items())}}}"
    if isinstance(node, list | tuple):
        return f"[{', '.join(map(_text, node))}]"
    if isinstance(node, Secret):
        return repr(node)
    if node is None or type(node) in (bool, int, float, str):
        return json.dumps(node)
    # Functions have an address in their repr, and a class may have come into another module.
    name = getattr(node, "__name__", None) if callable(node) else None
    told = name if isinstance(name, str) else stable_text(node)
    return f"<{type(node).__qualname__}{'' if told is None else f' {told}'}>"


def _cut(text: str) -> str:
    if len(text) <= _LONG:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[: _LONG // 2]}... ({len(text)} characters, sha256 {digest})"
