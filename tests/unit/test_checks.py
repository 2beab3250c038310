"""The checks of arguments: the plain values they return, and the one form of their messages."""

from __future__ import annotations

import decimal
import fractions
import math

import numpy as np
import pytest

from asynctune._checks import (
    argument_error,
    check_bool,
    check_callable,
    check_choice,
    check_fraction,
    check_int,
    check_key,
    check_list,
    check_metric_and_mode,
    check_number,
    check_seconds,
    check_seed,
)
from asynctune.errors import ConfigError


class Hostile:
    def __repr__(self):
        raise RuntimeError("no repr")

    __float__ = __index__ = __repr__


class Retry:
    def __init__(self, first=None, second=None):
        pass


async def asynchronous(first, second):
    pass


@pytest.mark.parametrize("number", [3, np.int8(3), np.array(3)])
def test_an_int_of_any_kind_becomes_a_plain_int(number):
    assert type(check_int("Thing", "size", number, 3, 3)) is int


@pytest.mark.parametrize(
    ("number", "kind"),
    [(3, int), (np.int64(3), int), (3.5, float), (np.float32(3.5), float), (np.array(3.5), float),
     (fractions.Fraction(7, 2), float), (decimal.Decimal("3.5"), float)],
)  # fmt: skip
def test_a_number_of_any_kind_becomes_a_plain_number(number, kind):
    found = check_number("Thing", "size", number, above=2, most=3.5)
    assert type(found) is kind
    assert found == number


WRONG = [
    (lambda: check_int("Thing", "size", 1.0), "size of Thing must be an int, got 1.0"),
    (lambda: check_int("Thing", "size", 0, 1), "size of Thing must be an int of at least 1, got 0"),
    (lambda: check_int("", "size", 9, 1, 8), "size must be an int from 1 to 8, got 9"),
    (lambda: check_int("", "size", 1 << 1000, 1), "size must be an int of at least 1, of at most 1000"),
    (lambda: check_int("", "size", True), "size must be an int, got True"),
    (lambda: check_seed("Thing", -1), "seed of Thing must be an int of at least 0, got -1"),
    (lambda: check_number("", "size", math.nan), "size must be a finite number, got nan"),
    (lambda: check_number("", "size", 10**400), "size must be a finite number, got 1000"),
    (lambda: check_number("", "size", 1, above=1), "size must be a finite number greater than 1, got 1"),
    (lambda: check_number("", "size", 0, least=1), "size must be a finite number of at least 1, got 0"),
    (lambda: check_number("", "size", [1]), "size must be a finite number, got [1]"),
    (lambda: check_fraction("Thing", "size", 2), "size of Thing must be a number from 0 to 1, got 2"),
    (lambda: check_bool("", "flag", 1), "flag must be True or False, got 1"),
    (lambda: check_choice("", "way", [], "a", "b", "c"), "way must be 'a', 'b' or 'c', got []"),
    (lambda: check_key("", "metric", ""), "metric must be a key of the results (a non-empty str), got ''"),
    (lambda: check_list("", "items", "abc"), "items must be a list, got 'abc'"),
    (lambda: check_metric_and_mode("", "loss", None),
     "mode must be 'min' or 'max' with metric='loss', got None"),
    (lambda: check_metric_and_mode("Thing", None, "up"),
     "mode of Thing must be 'min' or 'max', got 'up'"),
    (lambda: check_number("", "size", np.True_), "size must be a finite number, got "),
    (lambda: check_number("", "size", np.str_("2")), "size must be a finite number, got "),
    (lambda: check_number("", "size", np.complex128(1)), "size must be a finite number, got "),
    (lambda: check_number("", "size", np.array(True)), "size must be a finite number, got array(True)"),
    (lambda: check_fraction("", "size", np.True_), "size must be a number from 0 to 1, got "),
    (lambda: check_seconds("", "time", np.timedelta64(2, "s")),
     "time must be a timedelta or a finite number of seconds, more than 0, got "),
    (lambda: check_number("", "size", Hostile()),
     "size must be a finite number, got <Hostile, whose repr raised RuntimeError>"),
    (lambda: check_int("", "size", Hostile()), "size must be an int, got <Hostile, whose repr raised"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_every_message_names_the_argument_the_right_values_and_the_wrong_one(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_a_hint_follows_the_message():
    error = argument_error("Thing", "size", "small", 3, "divide it")
    assert str(error) == "size of Thing must be small, got 3; divide it"


@pytest.mark.parametrize("function", [print, max, lambda a, b: a, lambda *a: a])
def test_a_function_that_accepts_the_arguments_is_returned(function):
    assert check_callable("Thing", "decide", function, "trial", "error") is function


@pytest.mark.parametrize(
    ("value", "end"),
    [(None, "got None"), (lambda: 1, "too many positional arguments"), (Retry, "Retry'>"),
     (lambda a, b, c: 1, "missing a required argument: 'c'"),
     (asynchronous, "an async function cannot be used here")],
)  # fmt: skip
def test_a_value_that_cannot_be_called_so_is_refused(value, end):
    with pytest.raises(
        ConfigError,
        match=r"^decide of Thing must be a plain function \(trial, error\), got ",
    ) as caught:
        check_callable("Thing", "decide", value, "trial", "error")
    assert str(caught.value).endswith(end)


def test_classes_and_async_functions_can_be_allowed():
    assert check_callable("", "label", str, "trial", allow_class=True) is str
    assert check_callable("", "f", asynchronous, "a", "b", allow_async=True) is asynchronous
    with pytest.raises(ConfigError, match=r"^f must be a Retry maker, got 3$"):
        check_callable("", "f", 3, "a", "b", what="a Retry maker", allow_async=True)
