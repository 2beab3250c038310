"""Description of a space as text, with which a resume checks that the space is still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from asynctune.secret import Secret
from asynctune.space.domains import Choice, Domain, SampleFrom
from asynctune.space.sampling import Grid, stable_text
from asynctune.space.spec import Path, path_text

_MAX_LENGTH = 200


def fingerprint(tree: Any) -> dict[str, str]:
    """Return the description of each path of a space.

    Samplers, grids and plain values are described in full; functions, and objects whose repr differs
    between processes, by their type and name alone.

    Args:
        tree: The config, with its grids as :class:`~asynctune.space.sampling.Grid`.
    """
    return {path_text(path): _shorten(text) for path, text in _leaves((), tree)}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the differences between two fingerprints, a sentence each."""
    found = []
    for path in sorted(before.keys() | now.keys()):
        old, new = before.get(path), now.get(path)
        name = f"config[{path!r}]" if path else "config"
        if old is None:
            found.append(f"{name} is {new} and was missing")
        elif new is None:
            found.append(f"{name} was {old} and is missing")
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
    # The repr of a function holds an address, and that of a class a module that may have been renamed.
    name = getattr(node, "__name__", None) if callable(node) else None
    text = name if isinstance(name, str) else stable_text(node)
    return f"<{type(node).__qualname__}{'' if text is None else f' {text}'}>"


def _shorten(text: str) -> str:
    if len(text) <= _MAX_LENGTH:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[: _MAX_LENGTH // 2]}... ({len(text)} characters, sha256 {digest})"
