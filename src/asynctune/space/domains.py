"""What can be put into a config in place of a value: samplers, grids, and functions of other values.

The functions check their arguments and return values that say what is drawn; adapters for search
libraries read the fields of these.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat, SupportsIndex, TypeVar

from asynctune._checks import function_name, safe_repr
from asynctune.errors import ConfigError

GRID = "grid_search"
_BITS = 1000  # what a float can hold
_Number = TypeVar("_Number", int, float)


class Domain:
    """What a number or a choice is drawn from. Adapters read the fields of the subclasses."""

    __slots__ = ()

    def sample(self, rng: random.Random) -> Any:
        """Draw a value. Of ``rng`` only ``random()`` is used: only that is the same in any Python."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Uniform(Domain):
    """Floats of ``[low, high]``; with ``q`` its multiples, each as likely as another."""

    low: float
    high: float
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        if self.q is None:
            u = rng.random()
            return _clamp(self.low * (1 - u) + self.high * u, self.low, self.high)
        first, last = _steps(self.low, self.high, self.q)
        return _clamp(_multiple(first + _below(rng, last - first + 1), self.q), self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogUniform(Domain):
    """Floats of ``[low, high]``, uniform in their logarithm (of any ``base``); with ``q`` multiples."""

    low: float
    high: float
    base: float = 10
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        if self.q is None:
            return _clamp(_log_uniform(rng, self.low, self.high), self.low, self.high)
        first, last = _steps(self.low, self.high, self.q)
        k = _log_step(rng, max(first, 1), last)  # a tiny bound is 0, to within a rounding error
        return _clamp(_multiple(k, self.q), self.low, self.high)


@dataclass(frozen=True, slots=True)
class RandInt(Domain):
    """Ints from ``low`` to ``high``: without ``q`` excluding ``high``, with ``q`` its multiples."""

    low: int
    high: int
    q: int | None = None

    def sample(self, rng: random.Random) -> int:
        first, last = _int_steps(self.low, self.high, self.q)
        return (first + _below(rng, last - first + 1)) * (self.q or 1)


@dataclass(frozen=True, slots=True)
class LogRandInt(Domain):
    """Like :class:`RandInt`, with a probability that falls with the value as ``1 / value``."""

    low: int
    high: int
    base: float = 10
    q: int | None = None

    def sample(self, rng: random.Random) -> int:
        return _log_step(rng, *_int_steps(self.low, self.high, self.q)) * (self.q or 1)


@dataclass(frozen=True, slots=True)
class RandN(Domain):
    """Normally distributed floats; with ``q`` rounded to its multiples."""

    mean: float
    sd: float
    q: float | None = None

    def sample(self, rng: random.Random) -> float:
        # Box and Muller, "A note on the generation of random normal deviates" (1958).
        radius = math.sqrt(-2 * math.log(1 - rng.random()))
        value = self.mean + self.sd * radius * math.cos(math.tau * rng.random())
        return value if self.q is None else _multiple(round(value / self.q), self.q)


@dataclass(frozen=True, slots=True)
class Choice(Domain):
    """The elements of ``categories``, each as likely as another."""

    categories: tuple[Any, ...]

    def position(self, rng: random.Random) -> int:
        """Draw the position of an element."""
        return _below(rng, len(self.categories))

    def sample(self, rng: random.Random) -> Any:
        return self.categories[self.position(rng)]


def uniform(low: float, high: float) -> Uniform:
    """Draw a float between ``low`` and ``high``."""
    return Uniform(*_bounds("uniform", _real, low, high))


def quniform(low: float, high: float, q: float) -> Uniform:
    """Draw a multiple of ``q`` from ``low`` to ``high``, both included if they are multiples."""
    return Uniform(*_bounds("quniform", _real, low, high, q), q=_real("quniform", "q", q))


def loguniform(low: float, high: float, base: float = 10) -> LogUniform:
    """Draw a float above 0, uniform in its logarithm. ``base`` does not change what is drawn."""
    bounds = _bounds("loguniform", _real, low, high, log=True)
    return LogUniform(*bounds, _base("loguniform", base))


def qloguniform(low: float, high: float, q: float, base: float = 10) -> LogUniform:
    """Like :func:`loguniform`, in multiples of ``q``; both bounds are included if multiples."""
    bounds = _bounds("qloguniform", _real, low, high, q, log=True)
    return LogUniform(*bounds, _base("qloguniform", base), _real("qloguniform", "q", q))


def randint(low: int, high: int) -> RandInt:
    """Draw an int from ``low`` to ``high``, ``high`` excluded."""
    return RandInt(*_bounds("randint", _whole, low, high))


def qrandint(low: int, high: int, q: int = 1) -> RandInt:
    """Draw a multiple of ``q`` from ``low`` to ``high``, both included if they are multiples."""
    return RandInt(*_bounds("qrandint", _whole, low, high, q), q=_whole("qrandint", "q", q))


def lograndint(low: int, high: int, base: float = 10) -> LogRandInt:
    """Draw an int above 0, ``high`` excluded, as likely as ``1 / value``. ``base`` changes nothing."""
    bounds = _bounds("lograndint", _whole, low, high, log=True)
    return LogRandInt(*bounds, _base("lograndint", base))


def qlograndint(low: int, high: int, q: int, base: float = 10) -> LogRandInt:
    """Like :func:`lograndint`, in multiples of ``q``; both bounds are included if multiples."""
    bounds = _bounds("qlograndint", _whole, low, high, q, log=True)
    return LogRandInt(*bounds, _base("qlograndint", base), _whole("qlograndint", "q", q))


def randn(mean: float = 0.0, sd: float = 1.0) -> RandN:
    """Draw a normally distributed float."""
    return RandN(*_normal("randn", mean, sd))


def qrandn(mean: float, sd: float, q: float) -> RandN:
    """Draw a normally distributed float, rounded to a multiple of ``q``."""
    mean, sd = _normal("qrandn", mean, sd)
    return RandN(mean, sd, _step("qrandn", _real, q, abs(mean) + 40 * sd))


def choice(categories: Sequence[Any]) -> Choice:
    """Draw one of the elements of a list; it comes back as it is. Elements may hold samplers."""
    return Choice(listed("choice", categories))


def grid_search(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Try each value of a list, with each combination of the other grids."""
    return {GRID: list(listed(GRID, values))}


@dataclass(frozen=True, slots=True)
class SampleFrom:
    """What :func:`sample_from` returns."""

    func: Callable[[Any], Any]


def sample_from(func: Callable[[Any], Any]) -> SampleFrom:
    """Make a value of other values of the config.

    Args:
        func: Called as ``func(spec)``. ``spec.config.x`` or ``spec.config["x"]`` is another value,
            drawn by then; ``spec.rng`` is a :class:`random.Random` for what the function draws.

    Raises:
        ConfigError: ``func`` cannot be called with one argument, or is a coroutine function.
    """
    if not callable(func) or inspect.iscoroutinefunction(func):
        raise ConfigError(
            f"sample_from: func is {safe_repr(func)}; it must be a plain function of spec"
        )
    try:
        inspect.signature(func).bind(None)
    except TypeError as exc:
        name = function_name(func)
        raise ConfigError(f"sample_from: {name} must be callable as {name}(spec): {exc}") from exc
    except ValueError:  # a builtin that does not tell its signature
        pass
    return SampleFrom(func)


def is_grid(node: Any) -> bool:
    """Whether a node is a grid, made by :func:`grid_search` or written by hand."""
    return isinstance(node, Mapping) and len(node) == 1 and GRID in node


def listed(what: str, values: Any) -> tuple[Any, ...]:
    """Return the values of a list, tuple or range; ``what`` is how an error calls it."""
    if not isinstance(values, list | tuple | range):
        raise ConfigError(f"{what} takes a list of values, not {safe_repr(values)}")
    if not values:
        raise ConfigError(f"{what} got an empty list; it must hold at least one value")
    return tuple(values)


def _real(function: str, name: str, value: Any, least: float = -math.inf) -> float:
    if isinstance(value, SupportsFloat) and not isinstance(value, bool):
        try:
            number = float(value)
        except Exception:  # too large an int, a signalling NaN, an array of several numbers
            number = math.nan
        if math.isfinite(number) and number >= least:
            return number
    wanted = "a finite number" + ("" if least == -math.inf else f" of at least {least}")
    raise ConfigError(f"{function}: {name} is {safe_repr(value)}; it must be {wanted}")


def _whole(function: str, name: str, value: Any) -> int:
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(Exception):  # an array of several numbers
            number = value.__index__()
            if number.bit_length() <= _BITS:
                return number
    wanted = f"an int of at most {_BITS} bits"
    raise ConfigError(f"{function}: {name} is {safe_repr(value)}; it must be {wanted}")


def _base(function: str, base: Any) -> float:
    number = _real(function, "base", base)
    if number <= 1:
        raise ConfigError(f"{function}: base is {safe_repr(base)}; it must be above 1")
    return number


def _normal(function: str, mean: Any, sd: Any) -> tuple[float, float]:
    centre, spread = _real(function, "mean", mean), _real(function, "sd", sd, least=0)
    if not math.isfinite(abs(centre) + 40 * spread):
        raise ConfigError(f"{function}: sd is {sd}; it must leave what is drawn finite")
    return centre, spread


def _step(
    function: str, read: Callable[[str, str, Any], _Number], q: Any, most: _Number
) -> _Number:
    step = read(function, "q", q)
    if step <= 0 or most > 1e12 * step:
        raise ConfigError(
            f"{function}: q is {q}; it must be above 0 and no speck beside the bounds"
        )
    return step


def _bounds(
    function: str,
    read: Callable[[str, str, Any], _Number],
    low: Any,
    high: Any,
    q: Any = None,
    *,
    log: bool = False,
) -> tuple[_Number, _Number]:
    least, most = read(function, "low", low), read(function, "high", high)
    if log and least <= 0:
        raise ConfigError(f"{function}: low is {low}; it must be above 0, to have a logarithm")
    if most < least:
        raise ConfigError(f"{function}: high is {high}; it must not be below low, {low}")
    if q is None:
        if isinstance(least, int) and most == least:
            raise ConfigError(
                f"{function}: high is {high}, which is excluded; it must be above low"
            )
        return least, most
    step = _step(function, read, q, max(abs(least), abs(most)))
    first, last = (_int_steps if isinstance(step, int) else _steps)(least, most, step)
    if max(first, 1 if log else first) > last:
        raise ConfigError(
            f"{function}: q is {q}, but no multiple of it lies between {low} and {high}"
        )
    return least, most


def _steps(low: float, high: float, q: Any) -> tuple[int, int]:
    """Return the first and last k for which k * q is within the bounds, to within a rounding error."""
    least, most = low / q, high / q
    return math.ceil(least - 4 * math.ulp(least)), math.floor(most + 4 * math.ulp(most))


def _int_steps(low: Any, high: Any, q: Any) -> tuple[int, int]:
    return (low, high - 1) if q is None else (-(-low // q), high // q)


def _multiple(k: int, q: float) -> float:
    # 3 * 0.1 is 0.30000000000000004; where 15 digits say the same to within rounding, they are meant.
    value = k * q
    short = float(f"{value:.15g}")
    return short if abs(short - value) <= 2 * math.ulp(value) else value


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _below(rng: random.Random, n: int) -> int:
    """Draw one of range(n), with 32 bits more than needed so that none is favoured noticeably."""
    chunks = n.bit_length() // 32 + 2
    bits = 0
    for _ in range(chunks):
        bits = bits << 32 | int(rng.random() * 2**32)
    return bits * n >> 32 * chunks


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    u = rng.random()
    return math.exp(math.log(low) * (1 - u) + math.log(high) * u)


def _log_step(rng: random.Random, first: int, last: int) -> int:
    # Half a step beyond both ends, or these would be drawn half as often as they should.
    return min(max(round(_log_uniform(rng, first - 0.5, last + 0.5)), first), last)
