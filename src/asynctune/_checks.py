"""Checks of arguments, and what errors about them are made of: values as text, and whose fault it was.

Objects of the user's may raise anything when they are looked at, and an error about one is to be raised
all the same.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, SupportsIndex

from asynctune.errors import ConfigError, TuneError


def safe_repr(value: object) -> str:
    """Return at most 200 characters of a repr, whatever the repr does."""
    try:
        return repr(value)[:200]
    except Exception as exc:
        return f"<{type(value).__qualname__}, whose repr raised {type(exc).__name__}>"


def safe_str(error: BaseException) -> str:
    """Return the kind and text of an exception, whatever its ``str`` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as exc:
        return f"{type(error).__name__} (whose str() raised {type(exc).__name__})"


def function_name(function: object) -> str:
    """Return a short name of a function, a partial, a bound method or a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return "lambda" if name == "<lambda>" else str(name)


@contextmanager
def naming_argument(argument: str) -> Iterator[None]:
    """Let the error of whatever goes wrong in the block name an argument.

    Args:
        argument: Its name.

    Raises:
        ConfigError: Anything was raised in the block; errors of ours stay what they are.
    """
    try:
        yield
    except TuneError as exc:
        if argument in str(exc) or not isinstance(exc, ConfigError):
            raise
        raise type(exc)(f"{argument}: {exc}") from exc.__cause__
    except Exception as exc:
        raise ConfigError(f"{argument} cannot be used, since it raised {safe_str(exc)}") from exc


def check_number(
    owner: str,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
) -> float:
    """Return an argument that is to be a finite number; an int stays one.

    Args:
        owner: The class that it is an argument of.
        name: Its name.
        value: What was given.
        above: What it is to be greater than.
        least: What it is to be at least.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with suppress(OverflowError):  # an int beyond what floats hold
            plain = float(value)
            if above < plain < math.inf and plain >= least:
                return int(value) if isinstance(value, numbers.Integral) else plain
    bounds = [
        f"{text} {bound:g}"
        for text, bound in (("greater than", above), ("of at least", least))
        if math.isfinite(bound)
    ]
    wanted = " ".join(["a finite number", *bounds])
    raise ConfigError(f"{name} of {owner} is {safe_repr(value)}; {wanted} is wanted")


def as_float(value: Any) -> float | None:
    """Return a value of a result as a float, None if it is no number."""
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond what floats hold
        return math.inf if int(value) > 0 else -math.inf  # type: ignore[call-overload]


def check_int(owner: str, name: str, value: Any, least: int, most: float = math.inf) -> int:
    """Return an argument that is to be an int within bounds."""
    if not isinstance(value, bool) and isinstance(value, SupportsIndex):
        with suppress(Exception):  # an array of several numbers
            plain = value.__index__()
            if least <= plain <= most:
                return plain
    bounds = f"of at least {least}" if math.isinf(most) else f"from {least} to {most:g}"
    raise ConfigError(f"{name} of {owner} is {safe_repr(value)}; an int {bounds} is wanted")


def check_fraction(owner: str, name: str, value: Any) -> float:
    """Return an argument that is to be a number from 0 to 1."""
    plain = as_float(value)
    if plain is not None and type(value) is not bool and 0 <= plain <= 1:
        return plain
    raise ConfigError(f"{name} of {owner} is {safe_repr(value)}; a number from 0 to 1 is wanted")


def check_seed(owner: str, value: Any) -> int | None:
    """Return the argument ``seed``."""
    return None if value is None else check_int(owner, "seed", value, 0)


def check_bool(owner: str, name: str, value: Any) -> bool:
    """Return an argument that is to be True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} of {owner} is {safe_repr(value)}; True or False is wanted")


def check_key(owner: str, name: str, value: Any) -> str:
    """Return an argument that is to be the name of a key of the results."""
    if isinstance(value, str) and value:
        return value
    raise ConfigError(
        f"{name} of {owner} is {safe_repr(value)}; the name of a key of the results is wanted"
    )


def check_mode(owner: str, name: str, value: Any) -> str:
    """Return an argument that is to be ``"min"`` or ``"max"``."""
    if isinstance(value, str) and value in ("min", "max"):
        return value
    raise ConfigError(f"{name} of {owner} is {safe_repr(value)}; 'min' or 'max' is wanted")


def check_list(owner: str, name: str, value: Any) -> list[Any]:
    """Return an argument that is to be a list or tuple; None is an empty one."""
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    raise ConfigError(f"{name} of {owner} is {safe_repr(value)}; a list is wanted")
