"""Secrets: a configuration names them, the worker resolves them, and no output of the worker shows them.

A secret is sent, stored and shown as its reference. In the process of the trainable, the reference is
resolved to a text that keeps the reference. From then on, a :class:`Redactor` replaces the value by the
reference in everything that is sent to the driver. The redactor searches for values, and ignores the names
of keys.
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

_MIN_LENGTH = 4
"""The length of the shortest redacted value: shorter ones occur by chance in any text."""
_ANCHOR_LENGTH = 64
"""The length of the searched beginning of a long value, so that a value that was cut is found too."""
_MAX_DEPTH = 64
_ENV = "env:"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value of a configuration that is resolved in the process of the trial and never shown.

    A secret may stand anywhere in the dicts, lists, tuples and sets of a configuration, also among the
    values of :func:`choice` and :func:`grid_search`. The trainable gets a ``str`` in its place, whose
    ``repr`` is the reference. Results, messages of exceptions, tracebacks, and the output of Python code
    in a worker process show the reference in place of each value of at least 4 characters. A checkpoint
    that pickles the configuration holds the reference. Files that the trainable itself writes from the
    value are not redacted.

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
            # The message does not show the argument, which may be the secret value itself.
            raise ConfigError(
                'reference of Secret must be "env:" and the name of an environment variable, as in '
                'Secret("env:NAME"), never the value; the argument is not shown, since it may be the value'
            )

    def __repr__(self) -> str:
        return f"Secret({self.reference!r})"

    def resolve(self) -> ResolvedSecret:
        """Return the value, and add it to the redactor of this context.

        Raises:
            ConfigError: The environment variable is not set in this process.
        """
        name = self.reference.removeprefix(_ENV)
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(
                f"the environment variable {name!r}, which {self!r} in the configuration names, is not "
                "set where the trial trains; set it before the trial starts"
            )
        resolved = ResolvedSecret(value, self)
        current = redactor.get()
        if current is not None:
            current.add(resolved)
        return resolved


class ResolvedSecret(str):
    """The value of a secret: a ``str`` with another ``repr``, and copies and pickles that hide the value.

    Args:
        value: The value.
        secret: The secret that was resolved to the value.
    """

    __slots__ = ("secret",)
    secret: Secret

    def __new__(cls, value: str, secret: Secret) -> Self:
        resolved = super().__new__(cls, value)
        resolved.secret = secret
        return resolved

    def __repr__(self) -> str:
        return repr(self.secret)

    def __copy__(self) -> ResolvedSecret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ResolvedSecret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.secret,)


# Pickles in the checkpoints of users hold this name, so it must not change.
def _again(secret: Secret) -> Secret | ResolvedSecret:
    """Resolve an unpickled secret. Return the secret itself if its variable is not set in this process."""
    try:
        return secret.resolve()
    except ConfigError:
        return secret


class Redactor:
    """Replaces the values of secrets by their references.

    A value is found in its plain form and in the forms that ``repr``, JSON and URLs give it. The lines of
    a value with several lines are found one by one, and so is the rest of a long value that was cut.

    Args:
        on_first_value: Called without arguments when the first value is added.
    """

    def __init__(self, on_first_value: Callable[[], None] | None = None) -> None:
        self._on_first_value = on_first_value
        self._references: dict[str, str] = {}
        self._compiled = 0  # the number of values that the pattern covers
        self._forms: dict[str, list[tuple[str, str]]] = {}
        self._pattern: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._references)

    def add(self, resolved: ResolvedSecret) -> None:
        """Add a value."""
        is_first = not self._references
        self._references.setdefault(str(resolved), repr(resolved))
        # Another thread may add a value meanwhile, which the new pattern lacks.
        while self._compiled != len(self._references):
            references = dict(self._references)
            forms: dict[str, list[tuple[str, str]]] = {}
            for value, reference in references.items():
                for form in _forms(value):
                    forms.setdefault(form[:_ANCHOR_LENGTH], []).append((form, reference))
            anchors = sorted(forms, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, anchors))) if anchors else None
            self._forms, self._pattern, self._compiled = forms, pattern, len(references)
        if is_first and self._on_first_value is not None:
            self._on_first_value()

    def text(self, text: str) -> str:
        """Return a text with references in place of values; the same object if it holds none."""
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
"""The redactor of the trial that this context runs; set in the process of the trainable."""


def resolve(config: Any) -> Any:
    """Return a configuration with its secrets resolved; the same object if it holds none.

    Raises:
        ConfigError: The environment variable of a secret is not set.
    """
    return _mapped(config, _resolve_leaf)


def redacted(text: str) -> str:
    """Return a text with references in place of the secret values of this context's trial."""
    current = redactor.get()
    return current.text(text) if current else text


def concealed(value: Any, keep: frozenset[str] = frozenset()) -> Any:
    """Return a value with every text in it redacted, keys included.

    Args:
        value: Dicts, lists and tuples of any values.
        keep: Keys of the outermost dict to keep, since asynctune itself put them there.
    """
    current = redactor.get()
    if not current:
        return value

    def leaf(item: Any) -> Any:
        if isinstance(item, ResolvedSecret):
            return repr(item)
        return current.text(item) if isinstance(item, str) else item

    return _mapped(value, leaf, lambda key: key if key in keep else leaf(key))


def _resolve_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Secret):
        return leaf.resolve()
    if isinstance(leaf, ResolvedSecret):  # resolved in an earlier call, or by unpickling
        return leaf.secret.resolve()
    return leaf


def _mapped(
    value: Any,
    leaf: Callable[[Any], Any],
    name: Callable[[Any], Any] | None = None,
    depth: int = 0,
) -> Any:
    """Return a value with its leaves replaced. A container without a changed leaf stays the same object.

    Args:
        value: The value.
        leaf: Called with each leaf; returns its replacement.
        name: Called with each key of the outermost dict, and ``leaf`` with each key of the others; None
            to keep all keys and the classes of the user's containers.
        depth: The number of containers around the value.
    """
    kind = type(value)
    if kind is float or kind is int or kind is bool or value is None:  # most values of a row
        return value
    if kind is str:
        return leaf(value)
    if depth > _MAX_DEPTH:  # the value may contain itself
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
    if name is not None:  # for display, so the class of the user's container does not matter
        return tuple(changed) if isinstance(value, tuple) else changed
    return getattr(kind, "_make", kind)(changed)


def _forms(value: str) -> Iterator[str]:
    """Yield the forms in which a text may hold a value, without forms too short to be recognised."""
    from urllib.parse import quote, quote_plus  # a late import, since few trials have secrets

    if len(value.strip()) < _MIN_LENGTH:
        return
    whole = {value, value.strip()}
    for text in tuple(whole):
        whole |= {
            repr(text)[1:-1],
            repr(text + '"')[1:-2],  # repr escapes ' only in a text that also holds "
            ascii(text)[1:-1],
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            quote(text, errors="surrogateescape"),
            quote(text, safe="", errors="surrogateescape"),
            quote_plus(text, errors="surrogateescape"),
        }
    whole |= {line.strip() for line in value.splitlines()}
    yield from (form for form in whole if len(form) >= _MIN_LENGTH)


def _in_common(form: str, text: str, start: int) -> int:
    """Return the number of leading characters of a form that a text has at a position."""
    pairs = zip(form, text[start : start + len(form)], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
