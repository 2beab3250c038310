"""A sampler as optimisers know it: a number between two bounds.

They all know floats and ints in bounds, perhaps on a logarithmic scale, and positions in a list. So a
quantised sampler is the int ``k`` of ``k * q``: its bounds are multiples, whatever those of the sampler
are, and it can be logarithmic too. Where there are many of these ints, it is a float that is rounded: to
an optimiser that is the same, but Optuna's models go through ints one by one. What fits none of these is
the probability at which its value is found.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from statistics import NormalDist
from typing import Any

from asynctune._checks import as_float, safe_repr
from asynctune.errors import ConfigError
from asynctune.space.domains import (
    Choice,
    Domain,
    LogRandInt,
    LogUniform,
    RandInt,
    RandN,
    Uniform,
    _clamp,
    _int_steps,
    _multiple,
    _steps,
)

_MANY = 50
_BITS = 53  # of a float
_TAIL = 1e-6  # an optimiser looks no further than 4.75 standard deviations from the mean
_HALF_ULP = 2.0**-54
_NORMAL = NormalDist()


class Kind(Enum):
    """What the number of an axis is."""

    FLOAT = "float"
    INT = "int"
    POSITION = "position"
    """Of a category: there is no order."""
    PROBABILITY = "probability"


@dataclass(frozen=True, slots=True)
class Axis:
    """One sampler as a number ``raw``.

    Args:
        domain: The sampler.
        kind: What ``raw`` is.
        low: The least it can be.
        high: The most it can be.
        log: Whether its logarithm is what is uniform.
    """

    domain: Domain
    kind: Kind
    low: float
    high: float
    log: bool = False

    def value(self, raw: float) -> Any:
        """Return the sampler's value at a number."""
        domain = self.domain
        if isinstance(domain, Choice):
            return domain.categories[int(raw)]
        if self.kind is Kind.PROBABILITY:
            return self.at(raw)
        if self.kind is Kind.FLOAT and self._is_continuous:
            return _clamp(float(raw), self.low, self.high)
        first, last = self._steps()
        return self._at_step(min(max(round(raw), first), last))

    def raw(self, value: Any) -> float:
        """Return the number of a value.

        Raises:
            ValueError: The sampler cannot give it; the text says what it can give.
        """
        return self._number(self.plain(value))

    def plain(self, value: Any) -> Any:
        """Return a value as the sampler itself would give it: plain numbers, its own categories.

        Raises:
            ValueError: The sampler cannot give it; the text says what it can give.
        """
        domain = self.domain
        if isinstance(domain, Choice):
            return domain.categories[_position(domain.categories, value)]
        if type(value) is bool or not isinstance(value, numbers.Real):
            raise ValueError("a number is wanted")
        if isinstance(domain, RandInt | LogRandInt):
            return self._plain_int(value)
        number = as_float(value)
        if number is None or not math.isfinite(number):
            raise ValueError("a finite number is wanted")
        q: float | None = getattr(domain, "q", None)
        if q is not None:
            step = round(number / q)
            if abs(step * q - number) > 1e-9 * max(abs(number), q):
                raise ValueError(f"a multiple of {q} is wanted")
            if isinstance(domain, RandN):
                return _multiple(step, q)
            first, last = self._steps()
            if not first <= step <= last:
                raise ValueError(f"a number from {domain.low} to {domain.high} is wanted")  # type: ignore[attr-defined]
            return self._at_step(step)
        if isinstance(domain, Uniform | LogUniform) and not domain.low <= number <= domain.high:
            raise ValueError(f"a number from {domain.low} to {domain.high} is wanted")
        return number

    def at(self, probability: float) -> Any:
        """Return the value below which the sampler draws with this probability (its inverse CDF).

        Args:
            probability: From 0 to 1.
        """
        u, domain = probability, self.domain
        if isinstance(domain, RandN):
            z = _NORMAL.inv_cdf(_clamp(u, _HALF_ULP, 1 - _HALF_ULP * 2))
            value = domain.mean + domain.sd * z
            return value if domain.q is None else _multiple(round(value / domain.q), domain.q)
        if isinstance(domain, Uniform | LogUniform) and self._is_continuous:
            value = (
                _log_between(domain.low, domain.high, u)
                if self.is_log
                else (domain.low * (1 - u) + domain.high * u)
            )
            return _clamp(value, domain.low, domain.high)
        first, last = self._steps()
        if self.is_log:  # half a step beyond both ends, or these would come half as often
            step = round(_log_between(first - 0.5, last + 0.5, u))
        else:
            step = first + (int(u * 2**_BITS) * (last - first + 1) >> _BITS)
        step = min(max(step, first), last)
        return domain.categories[step] if isinstance(domain, Choice) else self._at_step(step)

    @property
    def is_log(self) -> bool:
        """Whether the sampler is uniform in the logarithm, whatever the axis is."""
        return isinstance(self.domain, LogUniform | LogRandInt)

    def _number(self, value: Any) -> float:
        """Return the number of a plain value."""
        domain = self.domain
        if isinstance(domain, Choice):
            return _position(domain.categories, value)
        if isinstance(domain, RandN):
            z = (value - domain.mean) / domain.sd if domain.sd else 0.0
            return _clamp(_NORMAL.cdf(z), _TAIL, 1 - _TAIL)
        if self.kind is Kind.PROBABILITY:
            assert isinstance(domain, Uniform)
            low, high = Fraction(domain.low), Fraction(domain.high)
            return float((Fraction(value) - low) / (high - low))
        if self._is_continuous:
            return float(value)
        q = _q_of(domain)
        step: int = (
            value // q if isinstance(q, int) and isinstance(value, int) else round(value / q)
        )
        return step if self.kind is Kind.INT else float(step)

    @property
    def _is_continuous(self) -> bool:
        return isinstance(self.domain, Uniform | LogUniform) and self.domain.q is None

    def _plain_int(self, value: Any) -> int:
        domain, first, last = self.domain, *self._steps()
        q = _q_of(domain)
        number = int(value) if math.isfinite(value) else None
        if number is None or number != value or number % q or not first <= number // q <= last:
            multiple = "" if q == 1 else f", a multiple of {q}"
            raise ValueError(f"an int from {first * q} to {last * q}{multiple} is wanted")
        return number

    def _steps(self) -> tuple[int, int]:
        """Return the first and last k of ``k * q``."""
        match self.domain:
            case Choice(categories):
                return 0, len(categories) - 1
            case Uniform(low, high, q):
                return _steps(low, high, q)
            case LogUniform(low, high, _, q):
                first, last = _steps(low, high, q)
                return max(first, 1), last
            case RandInt() | LogRandInt() as domain:
                return _int_steps(domain.low, domain.high, domain.q)
        raise AssertionError(self.domain)

    def _at_step(self, step: int) -> Any:
        domain = self.domain
        if isinstance(domain, Uniform | LogUniform):
            assert domain.q is not None
            return _clamp(_multiple(step, domain.q), domain.low, domain.high)
        return step * _q_of(domain)


def axis_of(domain: Any) -> Axis:
    """Return the axis of a sampler.

    Raises:
        ValueError: It is none of asynctune's own.
    """
    if isinstance(domain, RandN):
        return Axis(domain, Kind.PROBABILITY, _TAIL, 1 - _TAIL)
    if isinstance(domain, Choice):
        return Axis(domain, Kind.POSITION, 0, len(domain.categories) - 1)
    if isinstance(domain, Uniform | LogUniform) and domain.q is None:
        log = isinstance(domain, LogUniform)
        if log or math.isfinite(domain.high - domain.low):
            return Axis(domain, Kind.FLOAT, domain.low, domain.high, log)
        return Axis(domain, Kind.PROBABILITY, 0.0, 1.0)
    if isinstance(domain, Uniform | LogUniform | RandInt | LogRandInt):
        log = isinstance(domain, LogUniform | LogRandInt)
        first, last = Axis(domain, Kind.INT, 0, 0)._steps()
        if last - first < _MANY:
            return Axis(domain, Kind.INT, first, last, log)
        return Axis(domain, Kind.FLOAT, first - 0.5, last + 0.5, log)
    raise ValueError(f"{safe_repr(domain)} is no sampler such as asynctune.uniform(0, 1)")


def axes_of(owner: str, samplers: Mapping[str, Any]) -> dict[str, Axis]:
    """Return the axes of samplers by path.

    Args:
        owner: The searcher, for the error.
        samplers: The samplers.

    Raises:
        ConfigError: A sampler is none of asynctune's own.
    """
    axes = {}
    for path, domain in samplers.items():
        try:
            axes[path] = axis_of(domain)
        except ValueError as exc:
            raise ConfigError(f"{owner} cannot search {path!r}: {exc}") from exc
    return axes


def _q_of(domain: Domain) -> Any:
    return getattr(domain, "q", None) or 1


def _position(categories: tuple[Any, ...], value: Any) -> int:
    """Find a category: the very object, or else an equal one."""
    for position, category in enumerate(categories):
        if category is value:
            return position
    for position, category in enumerate(categories):
        if is_equal(category, value):
            return position
    raise ValueError(f"one of {safe_repr(list(categories))} is wanted")


def is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same kind, whatever they think of being compared."""
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an array, or whatever else does not like to be compared
        return False


def _log_between(low: float, high: float, u: float) -> float:
    return math.exp(math.log(low) * (1 - u) + math.log(high) * u)
