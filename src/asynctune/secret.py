"""Secrets: a configuration names them, the worker resolves them, and nothing that leaves it shows them.

A secret travels, is stored and is shown as its reference. Where the trainable lives it becomes a text
that remembers its reference; from then on a :class:`Redactor` knows the value, and puts the reference in
its place in all that is sent to the driver. What counts is the value, never the name of a key.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Self

from asynctune.errors import ConfigError

_SHORTEST = 4
_ANCHOR = 64
_DEEPEST = 64
_ENV = "env:"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value of a configuration that is resolved where the trial trains, and shown nowhere.

    It may stand anywhere in the dicts, lists, tuples and sets of a configuration, in the values of
    :func:`choice` and :func:`grid_search` too. The trainable finds a ``str`` in its place, whose ``repr``
    is the reference. Results, messages of exceptions, tracebacks, and what Python code prints in a
    worker process show the reference wherever they contain a value of at least 4 characters. A
    checkpoint that pickles the configuration holds the reference; what a trainable makes of the value
    and writes into files of its own is its own matter.

    Args:
        reference: ``"env:NAME"``, the environment variable ``NAME``.

    Raises:
        ConfigError: The reference is of another form.
    """

    reference: str

    def __post_init__(self) -> None:
        text = self.reference
        name = text.removeprefix(_ENV) if isinstance(text, str) and text.startswith(_ENV) else ""
        if not name or not name.isprintable() or "=" in name or " " in name:
            # What was given may be the secret itself, so it is not shown.
            raise ConfigError(
                'Secret() was given something else than a reference; Secret("env:NAME") with the name '
                "of an environment variable is wanted, never the value"
            )

    def __repr__(self) -> str:
        return f"Secret({self.reference!r})"

    def resolve(self) -> ResolvedSecret:
        """Look the value up, in this process.

        Raises:
            ConfigError: The variable is not set here.
        """
        name = self.reference.removeprefix(_ENV)
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(
                f"the environment variable {name!r}, which {self!r} in the configuration names, is not "
                "set where the trial trains; set it before the trial starts"
            )
        resolved = ResolvedSecret(value, self)
        known = redactor.get()
        if known is not None:
            known.add(resolved)
        return resolved


class ResolvedSecret(str):
    """The value of a secret: a ``str`` like any other, but for its ``repr``, copies and pickles.

    Args:
        value: The value.
        secret: What it was resolved from.
    """

    __slots__ = ("secret",)
    secret: Secret

    def __new__(cls, value: str, secret: Secret) -> Self:
        made = super().__new__(cls, value)
        made.secret = secret
        return made

    def __repr__(self) -> str:
        return repr(self.secret)

    def __copy__(self) -> ResolvedSecret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ResolvedSecret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.secret,)


def _again(secret: Secret) -> Secret | ResolvedSecret:
    """Resolve a secret that was pickled; where nobody set its variable, it stays what it is."""
    try:
        return secret.resolve()
    except ConfigError:
        return secret


class Redactor:
    """Knows the values that may not be shown, and puts their references in their place.

    A value is found as it is, and as ``repr``, JSON and URLs write it; so is each line of one with several
    lines, and what is left of a long one that something has cut.

    Args:
        when_needed: Called with nothing when there is a first value.
    """

    def __init__(self, when_needed: Callable[[], None] | None = None) -> None:
        self._when_needed = when_needed
        self._shown: dict[str, str] = {}
        self._known = 0
        self._forms: dict[str, list[tuple[str, str]]] = {}
        self._pattern: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._shown)

    def add(self, resolved: ResolvedSecret) -> None:
        """Take in a value."""
        is_first = not self._shown
        self._shown.setdefault(str(resolved), repr(resolved))
        while self._known != len(self._shown):  # another thread may do the same
            shown = dict(self._shown)
            forms: dict[str, list[tuple[str, str]]] = {}
            for value, reference in shown.items():
                for form in _forms(value):
                    forms.setdefault(form[:_ANCHOR], []).append((form, reference))
            anchors = sorted(forms, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, anchors))) if anchors else None
            self._forms, self._pattern, self._known = forms, pattern, len(shown)
        if is_first and self._when_needed is not None:
            self._when_needed()

    def text(self, text: str) -> str:
        """Return a text without the values; the same object if there is none in it."""
        if self._pattern is None:
            return text
        parts: list[str] = []
        end = 0
        for found in self._pattern.finditer(text):
            start = found.start()
            if start < end:
                continue
            length, reference = max(
                (_in_common(form, text, start), reference)
                for form, reference in self._forms[found[0]]
            )
            parts += text[end:start], reference
            end = start + length
        return "".join((*parts, text[end:])) if parts else text


redactor: ContextVar[Redactor | None] = ContextVar("asynctune_redactor", default=None)
"""What knows the secrets of the trial that is called in this context; set where trainables live."""


def resolve(config: Any) -> Any:
    """Return a configuration with its secrets resolved; the same object if there are none in it.

    Raises:
        ConfigError: A variable is not set.
    """
    return _mapped(config, _resolved)


def redacted(text: str) -> str:
    """Return a text without the values of the trial that is called in this context."""
    known = redactor.get()
    return known.text(text) if known else text


def concealed(value: Any, keep: frozenset[str] = frozenset()) -> Any:
    """Like :func:`redacted`, for every text in a value, keys included.

    Args:
        value: Dicts, lists and tuples of anything.
        keep: Keys of the value that are no secrets, since asynctune itself put them there.
    """
    known = redactor.get()
    if not known:
        return value

    def leaf(item: Any) -> Any:
        if isinstance(item, ResolvedSecret):
            return repr(item)
        return known.text(item) if isinstance(item, str) else item

    return _mapped(value, leaf, lambda key: key if key in keep else leaf(key))


def _resolved(leaf: Any) -> Any:
    if isinstance(leaf, Secret):
        return leaf.resolve()
    if isinstance(leaf, ResolvedSecret):  # somebody resolved it before
        return leaf.secret.resolve()
    return leaf


def _mapped(
    value: Any,
    leaf: Callable[[Any], Any],
    name: Callable[[Any], Any] | None = None,
    depth: int = 0,
) -> Any:
    """Return a value with its leaves replaced; what holds nothing that changes stays the same object."""
    kind = type(value)
    if kind is float or kind is int or kind is bool or value is None:  # most of any row
        return value
    if kind is str:
        return leaf(value)
    if depth > _DEEPEST:  # it contains itself, or might as well
        return value if name is None else "..."
    if isinstance(value, Mapping):
        inner = leaf if name is not None else None
        before = list(value.items())
        after = [
            (name(key) if name else key, _mapped(item, leaf, inner, depth + 1))
            for key, item in before
        ]
        if all(a is c and b is d for (a, b), (c, d) in zip(before, after, strict=True)):
            return value
        if name is not None or kind is dict or not isinstance(value, dict):
            return dict(after)
        fresh = copy.copy(value)
        fresh.clear()
        fresh.update(after)
        return fresh
    if not isinstance(value, list | tuple | set | frozenset):
        return leaf(value)
    inside = list(value)
    changed = [_mapped(item, leaf, name and leaf, depth + 1) for item in inside]
    if all(new is old for new, old in zip(changed, inside, strict=True)):
        return value
    if name is not None:  # to be shown, so that a class of the user's need not be asked
        return tuple(changed) if isinstance(value, tuple) else changed
    return getattr(kind, "_make", kind)(changed)


def _forms(value: str) -> Iterator[str]:
    """List how a value may stand in a text, without what is too short to tell it from other text."""
    from urllib.parse import quote, quote_plus  # for trials with secrets alone

    if len(value.strip()) < _SHORTEST:
        return
    whole = {value, value.strip()}
    for text in tuple(whole):
        whole |= {
            repr(text)[1:-1],
            repr(text + '"')[1:-2],  # as it is quoted beside a quote of the other kind
            ascii(text)[1:-1],
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            quote(text, errors="surrogateescape"),
            quote(text, safe="", errors="surrogateescape"),
            quote_plus(text, errors="surrogateescape"),
        }
    whole |= {line.strip() for line in value.splitlines()}
    yield from (form for form in whole if len(form) >= _SHORTEST)


def _in_common(form: str, text: str, start: int) -> int:
    """Count the characters of a form that a text has from a place on."""
    pairs = zip(form, text[start : start + len(form)], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
