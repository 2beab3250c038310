"""One argument of ``run``: its default, its check, and its description, declared in one place."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar, overload

from asynctune import _checks
from asynctune._checks import argument_error, naming_argument
from asynctune.callbacks.base import Callback
from asynctune.errors import ConfigError, UnsafePath
from asynctune.executors.base import Executor
from asynctune.experiment.status import Resume
from asynctune.loggers import DEFAULT_LOGGERS, Logger
from asynctune.resources import Resources
from asynctune.schedulers import FIFOScheduler, TrialScheduler
from asynctune.schedulers.stoppers.base import Stopper, make_stopper
from asynctune.storage.checkpoints.directory import find_root
from asynctune.suggest import BasicVariantGenerator, Searcher

Given = TypeVar("Given")
Value = TypeVar("Value")
Seconds: TypeAlias = float | timedelta


class Argument(Generic[Given, Value]):
    """The declaration of one argument, as a field of :class:`~asynctune.runner.plan.options.Options`.

    A data descriptor: a type checker takes the type of the parameter from ``__set__``, and that of the
    attribute from ``__get__``. So callers are checked against the accepted type, and consumers against the
    converted one.

    Args:
        default: The value that stands for an argument that is not passed.
        check: Called as ``check(name, value)`` with what is passed, or the default. The check returns the
            value that the run works with, and raises :class:`ConfigError` if the argument is wrong.
        doc: The description of the argument, for the docstring of ``run``.
    """

    def __init__(self, default: Given, check: Callable[[str, Any], Value], doc: str) -> None:
        self.default = default
        self.doc = doc
        self._check = check
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, options: None, owner: type) -> Given: ...
    @overload
    def __get__(self, options: object, owner: type) -> Value: ...
    def __get__(self, options: object | None, owner: type) -> Given | Value:
        if options is None:  # a dataclass asks its class for the default of a field
            return self.default
        value: Value = vars(options)[self._name]
        return value

    def __set__(self, options: object, given: Given) -> None:
        vars(options)[self._name] = self._check(self._name, given)


Unchanged: TypeAlias = Argument[Value, Value]
"""An argument that its check returns as it was passed."""


def as_given(_: str, value: Any) -> Any:
    """Return an argument unchanged: the plan checks it, together with others."""
    return value


def optional(check: Callable[[str, Any], Value]) -> Callable[[str, Any], Value | None]:
    """Return a check that lets None pass."""

    def checked(name: str, value: Any) -> Value | None:
        return None if value is None else check(name, value)

    return checked


def integer(least: float = -math.inf) -> Callable[[str, Any], int]:
    """Return a check for an int of at least ``least``."""

    def checked(name: str, value: Any) -> int:
        return _checks.check_int("", name, value, least)

    return checked


def num_samples(name: str, value: Any) -> int:
    """Check a number of samples: positive, or -1 for no end."""
    number = None
    with suppress(ConfigError):
        number = integer(-1)(name, value)
    if not number:
        raise argument_error("", name, "a positive int or -1 (unlimited)", value)
    return number


def flag(name: str, value: Any) -> bool:
    """Check a bool."""
    return _checks.check_bool("", name, value)


def key(name: str, value: Any) -> str:
    """Check the name of a metric."""
    return _checks.check_key("", name, value)


def mode(name: str, value: Any) -> str:
    """Check the direction of an objective."""
    return _checks.check_mode("", name, value)


def one_of(*choices: str) -> Callable[[str, Any], str]:
    """Return a check for one of several strings."""

    def checked(name: str, value: Any) -> str:
        return _checks.check_choice("", name, value, *choices)

    return checked


def seconds(*, zero: bool = False) -> Callable[[str, Any], float]:
    """Return a check that converts a duration to seconds, and None to ``math.inf``.

    Args:
        zero: Whether 0 is allowed.
    """

    def checked(name: str, value: Any) -> float:
        if value is None:
            return math.inf
        return _checks.check_seconds("", name, value, zero=zero, finite=False)

    return checked


def instance(kind: type[Value], described: str) -> Callable[[str, Any], Value]:
    """Return a check for an instance of a class.

    Args:
        kind: The class.
        described: What the error asks for.
    """

    def checked(name: str, value: Any) -> Value:
        if isinstance(value, kind):
            return value
        raise argument_error("", name, described, value)

    return checked


def function(
    *parameters: str, allow_class: bool = False, allow_async: bool = False
) -> Callable[[str, Any], Any]:
    """Return a check for a callable.

    Args:
        *parameters: The names of the arguments that the run calls the function with.
        allow_class: Whether a class such as ``str`` is a function, too.
        allow_async: Whether the function may be ``async def``.
    """

    def checked(name: str, value: Any) -> Any:
        return _checks.check_callable(
            "", name, value, *parameters, allow_class=allow_class, allow_async=allow_async
        )

    return checked


def stopper(name: str, value: Any) -> Stopper:
    """Convert any form of ``stop`` to a stopper."""
    with naming_argument(name):
        return make_stopper(value)


def scheduler(name: str, value: Any) -> TrialScheduler:
    """Check a scheduler; None is one that lets every trial run to its end."""
    if value is None:
        return FIFOScheduler()
    return instance(TrialScheduler, "an instance of a scheduler")(name, value)


def searcher(name: str, value: Any) -> Searcher:
    """Check a searcher; None is one that draws every sampler at random."""
    if value is None:
        return BasicVariantGenerator()
    return instance(Searcher, "an instance of a searcher")(name, value)


def executor(name: str, value: Any) -> Executor:
    """Check an executor."""
    expected = "an instance of an executor, such as ProcessExecutor() or InlineExecutor()"
    return instance(Executor, expected)(name, value)  # type: ignore[type-abstract]


def resources(name: str, value: Any) -> Resources:
    """Convert the resources of a trial."""
    with naming_argument(name):
        return Resources.from_mapping(value, name)


def score_attr(name: str, value: Any) -> str:
    """Check the metric that ranks checkpoints."""
    if isinstance(value, str) and value.removeprefix("min-"):
        return value
    what = "the name of a metric, with 'min-' in front of it if low values are better"
    raise argument_error("", name, what, value)


def export_formats(name: str, value: Any) -> tuple[str, ...]:
    """Convert a format or a list of formats to a tuple."""
    if value is None:
        return ()
    formats = [value] if isinstance(value, str) else _checks.check_list("", name, value)
    if all(isinstance(item, str) and item for item in formats):
        return tuple(formats)
    raise argument_error("", name, "a list of names", value)


def callbacks(name: str, value: Any) -> tuple[Callback, ...]:
    """Convert a list of callbacks to a tuple."""
    items = _checks.check_list("", name, value)
    for item in items:
        if not isinstance(item, Callback):
            raise argument_error("", f"each item of {name}", "an instance of tune.Callback", item)
    return tuple(items)


def loggers(name: str, value: Any) -> tuple[type[Logger], ...]:
    """Convert a list of logger classes to a tuple; None is the default loggers."""
    if value is None:
        return DEFAULT_LOGGERS
    items = _checks.check_list("", name, value)
    for item in items:
        if not (inspect.isclass(item) and issubclass(item, Logger)):
            raise argument_error("", f"each item of {name}", "a class derived from Logger", item)
    return tuple(items)


def checkpoint(name: str, value: Any) -> str:
    """Check that a path leads to a checkpoint, and make it absolute."""
    if not isinstance(value, str | os.PathLike):
        raise argument_error("", name, "the path of a checkpoint", value)
    with naming_argument(name):
        find_root(value)
    return str(os.path.abspath(value))


def resume(name: str, value: Any) -> Resume:
    """Convert the argument ``resume``."""
    if value is None or value is False:
        return Resume.NEW
    if value is True:
        return Resume.MUST_EXIST
    if isinstance(value, str) and value in (Resume.IF_EXISTS, Resume.ERRORED):
        return Resume(value)
    raise argument_error("", name, "True, False, 'AUTO' or 'errored'", value)


def experiment_name(name: str, value: Any) -> str:
    """Check that the name of an experiment is that of one plain directory."""
    if not isinstance(value, str):
        raise argument_error("", name, "a string", value)
    if not value or value in (".", "..") or any(mark in value for mark in "/\\\0"):
        raise UnsafePath(
            f"{name} must be a plain name without slashes, got {value!r}, which would leave the results "
            "folder (the argument for the folder is storage_path)"
        )
    if len(value.encode("utf-8", "surrogatepass")) > 200 or not value.isprintable():
        raise UnsafePath(
            f"{name} must have at most 200 bytes of printable characters, got {value!r}"
        )
    return value


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Check a mapping. The error shows the type alone, since the value may hold keys of a storage."""
    if isinstance(value, Mapping):
        return value
    raise argument_error("", name, "a dict", type(value))
