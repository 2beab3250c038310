"""Markers, which stand in a config in place of a value: samplers, grids, and functions of other values.

The public functions check their arguments and return a domain, whose fields describe the distribution.
Adapters for search libraries read these fields.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from asynctune._checks import argument_error, check_callable, check_int, check_number

GRID = "grid_search"
_Number = TypeVar("_Number", int, float)


class Domain:
    """A distribution of numbers or categories. Adapters read the fields of the subclasses."""

    __slots__ = ()

    def sample(self, rng: random.Random) -> Any:
        """Draw a value.

        Only ``rng.random()`` is called: of all methods, it alone gives the same numbers in every Python.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Uniform(Domain):
    """Floats of ``[low, high]``; with ``q`` the multiples of ``q``, all equally likely."""

    low: float
    high: float
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        if self.q is None:
            u = rng.random()
            return clamp(self.low * (1 - u) + self.high * u, self.low, self.high)
        first, last = step_range(self.low, self.high, self.q)
        return clamp(multiple(first + _below(rng, last - first + 1), self.q), self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogUniform(Domain):
    """Floats of ``[low, high]``, uniform in their logarithm; with ``q`` the multiples of ``q``."""

    low: float
    high: float
    base: float = 10
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        if self.q is None:
            return clamp(_log_uniform(rng, self.low, self.high), self.low, self.high)
        first, last = step_range(self.low, self.high, self.q)
        # A lower bound of less than the rounding error gives step 0, which has no logarithm.
        k = _log_step(rng, max(first, 1), last)
        return clamp(multiple(k, self.q), self.low, self.high)


@dataclass(frozen=True, slots=True)
class RandInt(Domain):
    """Ints from ``low`` to ``high``, ``high`` excluded; with ``q`` the multiples, ``high`` included."""

    low: int
    high: int
    q: int | None = None

    def sample(self, rng: random.Random) -> int:
        first, last = int_step_range(self.low, self.high, self.q)
        return (first + _below(rng, last - first + 1)) * (self.q or 1)


@dataclass(frozen=True, slots=True)
class LogRandInt(Domain):
    """Ints as in :class:`RandInt`, each with a probability proportional to ``1 / value``."""

    low: int
    high: int
    base: float = 10
    q: int | None = None

    def sample(self, rng: random.Random) -> int:
        return _log_step(rng, *int_step_range(self.low, self.high, self.q)) * (self.q or 1)


@dataclass(frozen=True, slots=True)
class RandN(Domain):
    """Normally distributed floats; with ``q`` rounded to multiples of ``q``."""

    mean: float
    sd: float
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        # Box and Muller, "A note on the generation of random normal deviates" (1958).
        radius = math.sqrt(-2 * math.log(1 - rng.random()))
        value = self.mean + self.sd * radius * math.cos(math.tau * rng.random())
        return value if self.q is None else multiple(round(value / self.q), self.q)


@dataclass(frozen=True, slots=True)
class Choice(Domain):
    """The elements of ``categories``, all equally likely."""

    categories: tuple[Any, ...]

    def position(self, rng: random.Random) -> int:
        """Draw the index of an element."""
        return _below(rng, len(self.categories))

    def sample(self, rng: random.Random) -> Any:
        return self.categories[self.position(rng)]


def uniform(low: float, high: float) -> Uniform:
    """Draw a float between ``low`` and ``high``."""
    return Uniform(*_bounds("uniform", _float, low, high))


def quniform(low: float, high: float, q: float) -> Uniform:
    """Draw a multiple of ``q`` from ``low`` to ``high``, both included if they are multiples."""
    return Uniform(*_bounds("quniform", _float, low, high, q), q=_float("quniform", "q", q))


def loguniform(low: float, high: float, base: float = 10) -> LogUniform:
    """Draw a float above 0, uniform in its logarithm. ``base`` has no effect on the distribution."""
    bounds = _bounds("loguniform", _float, low, high, log=True)
    return LogUniform(*bounds, _base("loguniform", base))


def qloguniform(low: float, high: float, q: float, base: float = 10) -> LogUniform:
    """Draw as :func:`loguniform`, a multiple of ``q``; both bounds are included if they are multiples."""
    bounds = _bounds("qloguniform", _float, low, high, q, log=True)
    return LogUniform(*bounds, _base("qloguniform", base), _float("qloguniform", "q", q))


def randint(low: int, high: int) -> RandInt:
    """Draw an int from ``low`` to ``high``, ``high`` excluded."""
    return RandInt(*_bounds("randint", check_int, low, high))


def qrandint(low: int, high: int, q: int = 1) -> RandInt:
    """Draw a multiple of ``q`` from ``low`` to ``high``, both included if they are multiples."""
    return RandInt(*_bounds("qrandint", check_int, low, high, q), q=check_int("qrandint", "q", q))


def lograndint(low: int, high: int, base: float = 10) -> LogRandInt:
    """Draw an int above 0, ``high`` excluded, with a probability proportional to ``1 / value``.

    ``base`` has no effect on the distribution.
    """
    bounds = _bounds("lograndint", check_int, low, high, log=True)
    return LogRandInt(*bounds, _base("lograndint", base))


def qlograndint(low: int, high: int, q: int, base: float = 10) -> LogRandInt:
    """Draw as :func:`lograndint`, a multiple of ``q``; both bounds are included if they are multiples."""
    bounds = _bounds("qlograndint", check_int, low, high, q, log=True)
    return LogRandInt(*bounds, _base("qlograndint", base), check_int("qlograndint", "q", q))


def randn(mean: float = 0.0, sd: float = 1.0) -> RandN:
    """Draw a normally distributed float."""
    return RandN(*_normal("randn", mean, sd))


def qrandn(mean: float, sd: float, q: float) -> RandN:
    """Draw a normally distributed float, rounded to a multiple of ``q``."""
    mean, sd = _normal("qrandn", mean, sd)
    return RandN(mean, sd, _step("qrandn", _float, q, abs(mean) + 40 * sd))


def choice(categories: Sequence[Any]) -> Choice:
    """Draw an element of a list and return the object itself. Elements may hold samplers."""
    return Choice(check_values("choice", "categories", categories))


def grid_search(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Try each value of a list, combined with each point of the other grids."""
    return {GRID: list(check_values(GRID, "values", values))}


@dataclass(frozen=True, slots=True)
class SampleFrom:
    """The marker that :func:`sample_from` returns: a function of other values of the config."""

    func: Callable[[Any], Any]


def sample_from(func: Callable[[Any], Any]) -> SampleFrom:
    """Compute a value from other values of the config.

    Args:
        func: The function, called as ``func(spec)``. ``spec.config.x`` or ``spec.config["x"]`` is the
            drawn value of another key; ``spec.rng`` is a :class:`random.Random` for the function's own
            draws.

    Raises:
        ConfigError: ``func`` cannot be called with one argument, or is a coroutine function.
    """
    check_callable("sample_from", "func", func, "spec", allow_class=True)
    return SampleFrom(func)


def is_grid(node: Any) -> bool:
    """Return whether a node is a grid, made by :func:`grid_search` or written as a dict."""
    return isinstance(node, Mapping) and len(node) == 1 and GRID in node


def check_values(owner: str, name: str, values: Any) -> tuple[Any, ...]:
    """Return a non-empty list, tuple or range of values as a tuple.

    Args:
        owner: The function that takes the values, or ``""``.
        name: The name of the argument, or a text that locates the values in a config.
        values: The values.

    Raises:
        ConfigError: They are of another type, or there are none.
    """
    if not isinstance(values, list | tuple | range) or not values:
        raise argument_error(owner, name, "a non-empty list, tuple or range", values)
    return tuple(values)


def _float(function: str, name: str, value: Any, least: float = -math.inf) -> float:
    return float(check_number(function, name, value, least=least))


def _base(function: str, base: Any) -> float:
    return float(check_number(function, "base", base, above=1))


def _normal(function: str, mean: Any, sd: Any) -> tuple[float, float]:
    centre, spread = _float(function, "mean", mean), _float(function, "sd", sd, least=0)
    if not math.isfinite(abs(centre) + 40 * spread):
        what = "so small that all values within 40 standard deviations of the mean are finite"
        raise argument_error(function, "sd", what, sd)
    return centre, spread


def _step(
    function: str, check: Callable[[str, str, Any], _Number], q: Any, largest: _Number
) -> _Number:
    step = check(function, "q", q)
    # Beyond 1e12 steps, the rounding error of a multiple exceeds 1e-4 of a step.
    if step <= 0 or largest > 1e12 * step:
        what = "greater than 0 and at least 1e-12 times the largest value"
        raise argument_error(function, "q", what, q)
    return step


def _bounds(
    function: str,
    check: Callable[[str, str, Any], _Number],
    low: Any,
    high: Any,
    q: Any = None,
    *,
    log: bool = False,
) -> tuple[_Number, _Number]:
    least, most = check(function, "low", low), check(function, "high", high)
    if log and least <= 0:
        raise argument_error(function, "low", "greater than 0, to have a logarithm", low)
    if most < least:
        raise argument_error(function, "high", f"at least low ({low})", high)
    if q is None:
        if isinstance(least, int) and most == least:
            what = f"greater than low ({low}), since high is excluded"
            raise argument_error(function, "high", what, high)
        return least, most
    step = _step(function, check, q, max(abs(least), abs(most)))
    first, last = (int_step_range if isinstance(step, int) else step_range)(least, most, step)
    if max(first, 1 if log else first) > last:
        raise argument_error(function, "q", f"a number with a multiple from {low} to {high}", q)
    return least, most


def step_range(low: float, high: float, q: Any) -> tuple[int, int]:
    """Return the first and last int k for which k * q is within the bounds.

    A multiple that exceeds a bound by no more than a rounding error counts as within.
    """
    least, most = low / q, high / q
    return math.ceil(least - 4 * math.ulp(least)), math.floor(most + 4 * math.ulp(most))


def int_step_range(low: Any, high: Any, q: Any) -> tuple[int, int]:
    """Return the first and last int k for which k * q is within the bounds; without q, high is excluded."""
    return (low, high - 1) if q is None else (-(-low // q), high // q)


def multiple(k: int, q: float) -> float:
    """Return k * q, rounded to 15 digits if that changes no more than the rounding error."""
    # 3 * 0.1 is 0.30000000000000004, and the user expects 0.3.
    value = k * q
    short = float(f"{value:.15g}")
    return short if abs(short - value) <= 2 * math.ulp(value) else value


def clamp(value: float, low: float, high: float) -> float:
    """Return the number within the bounds that is closest to a value."""
    return min(max(value, low), high)


def _below(rng: random.Random, n: int) -> int:
    """Draw one of range(n).

    The draw uses at least 32 bits more than n has, so that no number is noticeably more likely.
    """
    chunks = n.bit_length() // 32 + 2
    bits = 0
    for _ in range(chunks):
        bits = bits << 32 | int(rng.random() * 2**32)
    return bits * n >> 32 * chunks


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    u = rng.random()
    return math.exp(math.log(low) * (1 - u) + math.log(high) * u)


def _log_step(rng: random.Random, first: int, last: int) -> int:
    # The interval extends half a step beyond both ends: rounding would halve their probability otherwise.
    return min(max(round(_log_uniform(rng, first - 0.5, last + 0.5)), first), last)
