"""The forms of functions that can be trainables, and how each form is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from asynctune._checks import function_name
from asynctune.errors import ConfigError


class Form(Enum):
    """The form of a function, which decides how its results are obtained."""

    PLAIN = "def"
    ASYNC = "async def"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


class ReporterBy(Enum):
    """How the reporter is passed to a function."""

    NOTHING = "not at all"
    POSITION = "as its second argument"
    NAME = "as the argument called reporter"


@dataclass(frozen=True, slots=True)
class Signature:
    """The form of a function, how it takes the reporter, and its name for error messages."""

    form: Form
    reporter: ReporterBy
    name: str


Function: TypeAlias = Callable[..., Any]


def inspect_function(function: Function) -> Signature:
    """Determine how to call a function, without calling it.

    Raises:
        ConfigError: The function can be called neither with ``(config)`` nor ``(config, reporter)``.
    """
    name = function_name(function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"trainable must be a function with a readable signature, got {name}: {exc}"
        ) from exc
    if inspect.isclass(function):
        raise ConfigError(
            f"trainable must be a subclass of Trainable or a function of (config), got the class {name}"
        )
    form = _form(function)
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    named = [
        p for p in parameters
        if p.name == "reporter" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p not in positional[:1]
    ]  # fmt: skip
    unnamed = [p for p in required if p not in named]
    keywords = [
        p for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p not in named
    ]  # fmt: skip
    takes_config = bool(positional) or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if positional[:1] and positional[0].name == "reporter":
        takes_config = False  # the call would pass the config as `reporter`
    if takes_config and not keywords:
        if named and len(unnamed) <= 1:
            return Signature(form, ReporterBy.NAME, name)
        if len(unnamed) == 2 and not named:
            return Signature(form, ReporterBy.POSITION, name)
        if len(unnamed) <= 1:
            return Signature(form, ReporterBy.NOTHING, name)
    raise ConfigError(
        f"trainable must be callable as {name}(config) or {name}(config, reporter), got "
        f"{name}{signature}; bind other arguments with functools.partial"
    )


def _form(function: Any) -> Form:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    # The wrapper decides before the wrapped: an `async def` may wrap a plain function, or vice versa.
    for candidate in (function, inspect.unwrap(function)):
        if inspect.isasyncgenfunction(candidate):
            return Form.ASYNC_GENERATOR
        if inspect.iscoroutinefunction(candidate):
            return Form.ASYNC
        if inspect.isgeneratorfunction(candidate):
            return Form.GENERATOR
    return Form.PLAIN
