"""Checks of arguments, and the parts of their error messages.

Each check returns the argument as a plain value or raises a ``ConfigError`` of one form: "<name> of
<owner> must be <what>, got <value>". The owner is the class or function that takes the argument;
``""`` stands for ``run``, whose arguments are named alone.

The value may be any object of the user, and its ``repr``, ``str``, ``__float__`` or ``__index__`` may
raise anything. None of this keeps a check from raising its own error.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, SupportsFloat, SupportsIndex

from asynctune.errors import ConfigError, TuneError

_MAX_BITS = 1000
"""The size of the largest int that is accepted: each fits a float, with room for arithmetic."""

_NO_NUMBERS = frozenset("bcmMSU")
"""The kinds of numpy's types that ``float()`` converts although they are no real numbers."""


def safe_repr(value: object) -> str:
    """Return at most 200 characters of the repr of a value, or the reason why there is none."""
    try:
        return repr(value)[:200]
    except Exception as exc:
        return f"<{type(value).__qualname__}, whose repr raised {type(exc).__name__}>"


def safe_str(error: BaseException) -> str:
    """Return the class and text of an exception, even if its ``str`` raises."""
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
    """Make every error of the block name an argument.

    Args:
        argument: The name of the argument.

    Raises:
        ConfigError: The block raised an exception. A ``TuneError`` keeps its class, and its text if
            the text names the argument or the class is not a ``ConfigError``.
    """
    try:
        yield
    except TuneError as exc:
        if argument in str(exc) or not isinstance(exc, ConfigError):
            raise
        raise type(exc)(f"{argument}: {exc}") from exc.__cause__
    except Exception as exc:
        raise ConfigError(f"{argument} cannot be used, since it raised {safe_str(exc)}") from exc


def argument_error(owner: str, name: str, what: str, value: Any, hint: str = "") -> ConfigError:
    """Return the error for a wrong argument.

    Args:
        owner: The class or function that takes the argument; ``""`` for ``run``.
        name: The name of the argument.
        what: A noun phrase for what the argument must be.
        value: The value that was passed.
        hint: A sentence or clause that follows after a semicolon.
    """
    argument = f"{name} of {owner}" if owner else name
    text = f"{argument} must be {what}, got {safe_repr(value)}"
    return ConfigError(f"{text}; {hint}" if hint else text)


def check_number(
    owner: str,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Return a finite number as a Python float, or as an int if its type is integral.

    numpy scalars, 0-d arrays, fractions and decimals are numbers. Bools, text, complex numbers and
    durations are not, nor are those of numpy.

    Args:
        owner: The class or function that takes the argument; ``""`` for ``run``.
        name: The name of the argument.
        value: The value that was passed.
        above: The largest number that is too small.
        least: The smallest accepted number.
        most: The largest accepted number.

    Raises:
        ConfigError: The value is no finite number, or is out of bounds.
    """
    if isinstance(value, SupportsFloat) and not isinstance(value, bool):
        # float() raises for an int beyond the range of floats and for an array of several numbers.
        with suppress(Exception):
            kind = getattr(getattr(value, "dtype", None), "kind", None)
            plain = math.nan if kind in _NO_NUMBERS else float(value)
            if math.isfinite(plain) and above < plain and least <= plain <= most:
                return int(value) if isinstance(value, numbers.Integral) else plain
    if math.isfinite(least) and math.isfinite(most):
        raise argument_error(owner, name, f"a number from {least:g} to {most:g}", value)
    bounds = {"greater than": above, "of at least": least, "of at most": most}
    texts = [f" {text} {bound:g}" for text, bound in bounds.items() if math.isfinite(bound)]
    raise argument_error(owner, name, "a finite number" + " and".join(texts), value)


def as_float(value: Any) -> float | None:
    """Return a value of a result as a float; None if the value is no number."""
    if not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond the range of floats
        return math.inf if int(value) > 0 else -math.inf  # type: ignore[call-overload]


def check_int(
    owner: str, name: str, value: Any, least: float = -math.inf, most: float = math.inf
) -> int:
    """Return a whole number within bounds as a Python int.

    numpy ints and 0-d arrays of them are ints; bools are not. No int has more than 1,000 bits.

    Args:
        owner: The class or function that takes the argument; ``""`` for ``run``.
        name: The name of the argument.
        value: The value that was passed.
        least: The smallest accepted int.
        most: The largest accepted int.

    Raises:
        ConfigError: The value is no int, or is out of bounds.
    """
    what = "an int"
    if math.isfinite(least):
        what += f" of at least {least}" if math.isinf(most) else f" from {least} to {most}"
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(Exception):  # an array of several numbers
            plain = value.__index__()
            if plain.bit_length() > _MAX_BITS:
                what += f", of at most {_MAX_BITS} bits"
            elif least <= plain <= most:
                return plain
    raise argument_error(owner, name, what, value)


def check_fraction(owner: str, name: str, value: Any) -> float:
    """Return a number from 0 to 1 as a float."""
    return float(check_number(owner, name, value, least=0, most=1))


def check_seed(owner: str, value: Any) -> int | None:
    """Return the argument ``seed``: None, or an int of at least 0."""
    return None if value is None else check_int(owner, "seed", value, 0)


def check_seconds(
    owner: str, name: str, value: Any, *, zero: bool = False, finite: bool = True
) -> float:
    """Return a number of seconds, or the seconds of a timedelta, as a float.

    Args:
        owner: The class or function that takes the argument; ``""`` for ``run``.
        name: The name of the argument.
        value: The value that was passed.
        zero: Whether 0 is accepted.
        finite: Whether infinity is refused.

    Raises:
        ConfigError: The value is no number of seconds, or is out of bounds.
    """
    given = value.total_seconds() if isinstance(value, timedelta) else value
    seconds = None
    with suppress(Exception):  # a timedelta64 of numpy is Real, but float() raises
        seconds = None if isinstance(given, bool) else as_float(given)
    # as_float() makes infinity of an int beyond the floats, which is a mistake here.
    may_be_infinite = not finite and not isinstance(given, numbers.Rational)
    most = math.inf if may_be_infinite else sys.float_info.max
    if seconds is not None and (0 < seconds <= most or (zero and seconds == 0)):
        return seconds
    bound = "0 or more" if zero else "more than 0"
    what = f"a timedelta or a{' finite' if finite else ''} number of seconds, {bound}"
    raise argument_error(owner, name, what, value)


def check_bool(owner: str, name: str, value: Any) -> bool:
    """Return a value that is True or False."""
    if isinstance(value, bool):
        return value
    raise argument_error(owner, name, "True or False", value)


def check_choice(owner: str, name: str, value: Any, *choices: str) -> str:
    """Return a str that is one of several."""
    if isinstance(value, str) and value in choices:
        return value
    *head, last = map(repr, choices)
    raise argument_error(owner, name, f"{', '.join(head)} or {last}", value)


def check_mode(owner: str, name: str, value: Any) -> str:
    """Return a value that is ``"min"`` or ``"max"``."""
    return check_choice(owner, name, value, "min", "max")


def check_key(owner: str, name: str, value: Any) -> str:
    """Return the name of a metric or another key of the results: a non-empty str."""
    if isinstance(value, str) and value:
        return value
    raise argument_error(owner, name, "a key of the results (a non-empty str)", value)


def check_metric_and_mode(owner: str, metric: Any, mode: Any) -> None:
    """Check the arguments ``metric`` and ``mode``. Each may be None, but a metric needs a mode.

    Raises:
        ConfigError: One of them is wrong, or the mode is missing.
    """
    if mode is not None:
        check_mode(owner, "mode", mode)
    if metric is not None:
        check_key(owner, "metric", metric)
        if mode is None:
            raise argument_error(owner, "mode", f"'min' or 'max' with metric={metric!r}", mode)


def bind_objective(part: Any, metric: str | None, mode: str | None) -> None:
    """Give a scheduler or searcher the objective of its run, unless it has one of its own.

    A class of the user need not call the constructor of its base class, so attributes may be missing.

    Args:
        part: The scheduler or searcher.
        metric: The metric of the run.
        mode: The mode of the run.

    Raises:
        ConfigError: Another run has used this instance, or a needed objective is missing.
    """
    name = type(part).__name__
    if getattr(part, "_used", False):
        raise ConfigError(f"this {name} was already used by another run; make a new one")
    part._used = True
    if getattr(part, "metric", None) is None:
        part.metric, part.mode = metric, getattr(part, "mode", None) or mode
    if part.needs_metric and (part.metric is None or part.mode is None):
        raise ConfigError(f"{name} needs an objective; pass metric and mode to {name} or to run()")


def check_list(owner: str, name: str, value: Any) -> list[Any]:
    """Return a list, a tuple or another sequence, but no str or bytes, as a list; None is an empty list."""
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return list(value)
    raise argument_error(owner, name, "a list", value)


def check_callable(
    owner: str,
    name: str,
    value: Any,
    *parameters: str,
    what: str = "",
    allow_class: bool = False,
    allow_async: bool = False,
) -> Any:
    """Return a function that accepts a number of positional arguments.

    Args:
        owner: The class or function that takes the argument; ``""`` for ``run``.
        name: The name of the argument.
        value: The value that was passed.
        *parameters: The names of the positional arguments of each call, as messages show them.
        what: A noun phrase for what the argument must be; by default a function of the parameters.
        allow_class: Whether a class is accepted, such as ``str`` where a text is made of the argument. By
            default a class is refused, since the caller most likely forgot to create an instance.
        allow_async: Whether an ``async def`` function is accepted.

    Raises:
        ConfigError: The value cannot be called with these arguments, or is of a refused kind.
    """
    plain = "" if allow_async else "plain "
    what = what or f"a {plain}function ({', '.join(parameters)})"
    if not callable(value) or (inspect.isclass(value) and not allow_class):
        raise argument_error(owner, name, what, value)
    if inspect.iscoroutinefunction(value) and not allow_async:
        raise argument_error(owner, name, what, value, "an async function cannot be used here")
    try:
        inspect.signature(value).bind(*parameters)
    except TypeError as exc:
        raise argument_error(
            owner, name, what, value, f"its signature does not fit: {exc}"
        ) from exc
    except ValueError:  # a builtin without a signature
        pass
    return value
