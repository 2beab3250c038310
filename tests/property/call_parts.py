"""The parts of calls that hypothesis draws: things to give for an argument, most of no use for any.

Values that one call must not share with another, and those whose making is what fails, are :class:`Made`
when the call is.
"""

from __future__ import annotations

import decimal
import fractions
import math
import pathlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

import asynctune as tune
from asynctune.errors import ConfigError
from asynctune.resources import Resources


@dataclass(frozen=True)
class Made:
    """A value that is made when the call is."""

    text: str
    make: Callable[[], Any]

    def __repr__(self) -> str:
        return self.text


def made(value: Any) -> Any:
    """Make what is to be made, anywhere in the dicts, lists and tuples of a value."""
    if isinstance(value, Made):
        return value.make()
    if type(value) is dict:
        return {key: made(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(made, value))
    return value


@dataclass(frozen=True)
class Wrong:
    """Something wrong in a call.

    Args:
        arguments: What is given for it, ``trainable`` included.
        words: The message has one of these, whatever case its letters have.
        without: Arguments that are left away, or it might be right.
        error: What is raised.
        where: The executor that it needs, "" for any.
    """

    arguments: Mapping[str, Any]
    words: tuple[str, ...]
    without: tuple[str, ...] = ()
    error: type[Exception] = ConfigError
    where: str = ""

    @property
    def touches(self) -> set[str]:
        """The arguments that are not to be changed, or it might be right."""
        return {*self.arguments, *self.without}


@dataclass(frozen=True)
class Call:
    """A call of ``tune.run``: what is given, where, and what is wrong with it."""

    arguments: Mapping[str, Any]
    where: str
    wrong: tuple[Wrong, ...] = ()


# Trainables


def function(config):
    tune.report(loss=1)


def with_reporter(config, reporter):
    reporter(loss=1)


def generates(config):
    yield {"loss": 1}


async def asynchronous(config):
    await tune.report(loss=1)


class Able(tune.Trainable):
    """Can do all that there is."""

    def _train(self):
        return {"loss": 1}

    def _save(self, checkpoint_dir):
        return {}

    def _export_model(self, formats, path):
        return {}

    def method(self, config):
        return {}


class CannotSave(tune.Trainable):
    def _train(self):
        return {"loss": 1}


class CannotTrain(tune.Trainable):
    def _setup(self, config):
        pass


class NoTrainable:
    def __call__(self):
        pass


class RequestsByItself(Able):
    @classmethod
    def default_resource_request(cls, config):
        return Resources(cpu=1)


class RequestsTooMuch(Able):
    @classmethod
    def default_resource_request(cls, config):
        return Resources(cpu=10_000)


class RequestsNonsense(Able):
    @classmethod
    def default_resource_request(cls, config):
        return "one, please"


class RequestRaises(Able):
    @classmethod
    def default_resource_request(cls, config):
        raise KeyError("gpus")


class RequestOfInstance(Able):
    def default_resource_request(self, config):
        return Resources()


class HelpRaises(RequestsTooMuch):
    @classmethod
    def resource_help(cls, config):
        raise KeyError("help")


def no_argument():
    pass


def three_arguments(config, reporter, third):
    pass


def closes_over(value):
    return lambda config: tune.report(loss=bool(value))


def closes_over_nothing_yet():
    lock = threading.Lock()

    def trains(config):
        tune.report(loss=bool(lock) + later)

    if lock.locked():
        later = 1
    return trains


# Junk: of no use for almost anything


class Hostile:
    """Raises wherever it is looked at."""

    def _raise(self, *args: object) -> Any:
        raise RuntimeError("it does not like to be looked at")

    __repr__ = __str__ = __bool__ = __eq__ = __len__ = __iter__ = __fspath__ = __format__ = _raise
    __float__ = __index__ = __getitem__ = __contains__ = _raise
    __hash__ = object.__hash__


class BrokenPath:
    __fspath__ = Hostile._raise


class HostileMapping(dict):
    __iter__ = keys = items = values = Hostile._raise


class HostileError(Exception):
    __str__ = __repr__ = Hostile._raise


class Unpicklable:
    __reduce_ex__ = Hostile._raise


class Pair(tuple):
    """A tuple that is made of two arguments."""

    __slots__ = ()

    def __new__(cls, first, second):
        return super().__new__(cls, (first, second))


NAMES = [
    "", ".", "..", "/", "a/b", "../a", "/etc", "a\0b", "\0", "x" * 300, "\ud800", "a\udcffb", "a\nb",
    "\u202e",
    "~", "-", " ", "a b", "é", "\\", "CON", "%s{0}", "s3://bucket/a", "NaN", "None", "\x1b[31m",
]  # fmt: skip
names = st.one_of(
    st.sampled_from(NAMES), st.text("ab/\\. ~\0\n'\"{}%é\ud800\u202e\U0001f600", max_size=8)
)
HUGE = Made("10**5000", lambda: 10**5000)
MINUS_HUGE = Made("-10**5000", lambda: -(10**5000))
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 10**30, 10**400, HUGE, MINUS_HUGE,
        1j, True, False,
         fractions.Fraction(-1, 3), fractions.Fraction(10**400), decimal.Decimal("sNaN"),
         np.float32("nan"),
         np.float64("inf"), np.int64(-5), timedelta(-1), timedelta.max]
    ),
)  # fmt: skip
things = st.sampled_from(
    [
        None, ..., NotImplemented, object, int, print, math, no_argument, threading.Lock(), b"",
        b"bytes",
        bytearray(b"x"), frozenset({1}), pathlib.Path("a"), range(3), np.array([1, 2]),
        np.array(["a"]), np.zeros(0),
        Made("Hostile()", Hostile), Made("HostileMapping(a=1)", lambda: HostileMapping(a=1)),
        Made("iter([])", lambda: iter([])), Made("set()", set), HostileError, Able, function,
    ]
)  # fmt: skip
flat = st.one_of(numbers, names, things)
junk = st.one_of(flat, st.lists(flat, max_size=3), st.lists(flat, max_size=2).map(tuple))
