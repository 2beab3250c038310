"""What forms of functions can be trainables, and how each is to be called."""

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
    """How a function gives its results."""

    PLAIN = "def"
    ASYNC = "async def"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


class ReporterBy(Enum):
    """How a function takes the reporter."""

    NOTHING = "not at all"
    POSITION = "as its second argument"
    NAME = "as the argument called reporter"


@dataclass(frozen=True, slots=True)
class Signature:
    """What :func:`inspect_function` found out."""

    form: Form
    reporter: ReporterBy
    name: str


Function: TypeAlias = Callable[..., Any]


def inspect_function(function: Function) -> Signature:
    """Find out how a function is to be called, without calling it.

    Raises:
        ConfigError: It takes neither ``(config)`` nor ``(config, reporter)``.
    """
    name = function_name(function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"the signature of {name} cannot be read: {exc}") from exc
    if inspect.isclass(function):
        raise ConfigError(f"{name} is a class, but no Trainable; a function of (config) is wanted")
    form = _form(function)
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    named = [
        p for p in parameters
        if p.name == "reporter" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p not in positional[:1]
    ]  # fmt: skip
    wanted = [p for p in required if p not in named]
    keywords = [
        p for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p not in named
    ]  # fmt: skip
    takes_config = bool(positional) or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if positional[:1] and positional[0].name == "reporter":
        takes_config = False  # f(reporter, config) would get the two swapped
    if takes_config and not keywords:
        if named and len(wanted) <= 1:
            return Signature(form, ReporterBy.NAME, name)
        if len(wanted) == 2 and not named:
            return Signature(form, ReporterBy.POSITION, name)
        if len(wanted) <= 1:
            return Signature(form, ReporterBy.NOTHING, name)
    raise ConfigError(
        f"{name}{signature} cannot be a trainable: it has to be callable as {name}(config) or "
        f"{name}(config, reporter); bind other arguments with functools.partial"
    )


def _form(function: Any) -> Form:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    # The object itself first: an `async def` may wrap a plain function, and the other way round.
    for looked_at in (function, inspect.unwrap(function)):
        if inspect.isasyncgenfunction(looked_at):
            return Form.ASYNC_GENERATOR
        if inspect.iscoroutinefunction(looked_at):
            return Form.ASYNC
        if inspect.isgeneratorfunction(looked_at):
            return Form.GENERATOR
    return Form.PLAIN
