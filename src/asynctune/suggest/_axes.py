"""Axes: samplers in the form that optimisers handle, a number between two bounds.

Every optimiser handles floats and ints within bounds, on a linear or a logarithmic scale, and positions
in a list. A quantised sampler becomes the int ``k`` of ``k * q``: its bounds are then multiples of ``q``,
even where those of the sampler are not, and its scale may be logarithmic. A sampler with many such ints
becomes a float that is rounded: for an optimiser both are the same, but Optuna's models iterate over the
ints one by one. A sampler that has none of these forms becomes a probability, mapped to values by the
inverse CDF.
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
    clamp,
    int_step_range,
    multiple,
    step_range,
)

_MAX_INTS = 50
_MANTISSA_BITS = 53  # of a float
_TAIL = 1e-6  # optimisers search no further than 4.75 standard deviations from the mean
_HALF_ULP = 2.0**-54  # 1 - 2 * _HALF_ULP is the largest float below 1
_NORMAL = NormalDist()


class Kind(Enum):
    """The form of an axis's number."""

    FLOAT = "float"
    INT = "int"
    POSITION = "position"
    """The position of a category; positions have no order."""
    PROBABILITY = "probability"


@dataclass(frozen=True, slots=True)
class Axis:
    """A sampler in the form of a number ``raw`` between two bounds.

    Args:
        domain: The sampler.
        kind: The form of ``raw``.
        low: The least ``raw``.
        high: The greatest ``raw``.
        log: Whether the logarithm of ``raw`` is uniform, and not ``raw`` itself.
    """

    domain: Domain
    kind: Kind
    low: float
    high: float
    log: bool = False

    def value(self, raw: float) -> Any:
        """Return the sampler's value at ``raw``."""
        domain = self.domain
        if isinstance(domain, Choice):
            return domain.categories[int(raw)]
        if self.kind is Kind.PROBABILITY:
            return self.at(raw)
        if self.kind is Kind.FLOAT and self._is_continuous:
            return clamp(float(raw), self.low, self.high)
        first, last = self._steps()
        return self._at_step(min(max(round(raw), first), last))

    def raw(self, value: Any) -> float:
        """Return the ``raw`` of a value.

        Raises:
            ValueError: The sampler cannot give the value; the text says which values are possible.
        """
        return self._raw_of_plain(self.plain(value))

    def plain(self, value: Any) -> Any:
        """Convert a value to the one that the sampler itself gives: a plain number, its own category.

        Raises:
            ValueError: The sampler cannot give the value; the text says which values are possible, as in
                ``"must be a number"``.
        """
        domain = self.domain
        if isinstance(domain, Choice):
            return domain.categories[_position(domain.categories, value)]
        if type(value) is bool or not isinstance(value, numbers.Real):
            raise ValueError("must be a number")
        if isinstance(domain, RandInt | LogRandInt):
            return self._plain_int(value)
        number = as_float(value)
        if number is None or not math.isfinite(number):
            raise ValueError("must be a finite number")
        q: float | None = getattr(domain, "q", None)
        if q is not None:
            step = round(number / q)
            if abs(step * q - number) > 1e-9 * max(abs(number), q):
                raise ValueError(f"must be a multiple of {q}")
            if isinstance(domain, RandN):
                return multiple(step, q)
            first, last = self._steps()
            if not first <= step <= last:
                raise ValueError(f"must be a number from {domain.low} to {domain.high}")  # type: ignore[attr-defined]
            return self._at_step(step)
        if isinstance(domain, Uniform | LogUniform) and not domain.low <= number <= domain.high:
            raise ValueError(f"must be a number from {domain.low} to {domain.high}")
        return number

    def at(self, probability: float) -> Any:
        """Return the value below which the sampler draws with this probability (the inverse CDF).

        Args:
            probability: A number from 0 to 1.
        """
        u, domain = probability, self.domain
        if isinstance(domain, RandN):
            # Clamped, since inv_cdf is not defined at 0 and 1.
            z = _NORMAL.inv_cdf(clamp(u, _HALF_ULP, 1 - _HALF_ULP * 2))
            value = domain.mean + domain.sd * z
            return value if domain.q is None else multiple(round(value / domain.q), domain.q)
        if isinstance(domain, Uniform | LogUniform) and self._is_continuous:
            value = (
                _log_between(domain.low, domain.high, u)
                if self.is_log
                else (domain.low * (1 - u) + domain.high * u)
            )
            return clamp(value, domain.low, domain.high)
        first, last = self._steps()
        if self.is_log:  # half a step beyond both ends, or they would come half as often
            step = round(_log_between(first - 0.5, last + 0.5, u))
        else:  # in ints, since a float cannot number more than 2**53 steps
            step = first + (int(u * 2**_MANTISSA_BITS) * (last - first + 1) >> _MANTISSA_BITS)
        step = min(max(step, first), last)
        return domain.categories[step] if isinstance(domain, Choice) else self._at_step(step)

    @property
    def is_log(self) -> bool:
        """Whether the sampler is uniform in the logarithm; the axis itself may be linear."""
        return isinstance(self.domain, LogUniform | LogRandInt)

    def _raw_of_plain(self, value: Any) -> float:
        """Return the ``raw`` of a value that :meth:`plain` returned."""
        domain = self.domain
        if isinstance(domain, Choice):
            return _position(domain.categories, value)
        if isinstance(domain, RandN):
            z = (value - domain.mean) / domain.sd if domain.sd else 0.0
            return clamp(_NORMAL.cdf(z), _TAIL, 1 - _TAIL)
        if self.kind is Kind.PROBABILITY:
            assert isinstance(domain, Uniform)
            # Fractions, since high - low is more than a float can hold.
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
            raise ValueError(f"must be an int from {first * q} to {last * q}{multiple}")
        return number

    def _steps(self) -> tuple[int, int]:
        """Return the first and last ``k`` of ``k * q``; of a choice, the first and last position."""
        match self.domain:
            case Choice(categories):
                return 0, len(categories) - 1
            case Uniform(low, high, q):
                return step_range(low, high, q)
            case LogUniform(low, high, _, q):
                first, last = step_range(low, high, q)
                return max(first, 1), last
            case RandInt() | LogRandInt() as domain:
                return int_step_range(domain.low, domain.high, domain.q)
        raise AssertionError(self.domain)

    def _at_step(self, step: int) -> Any:
        domain = self.domain
        if isinstance(domain, Uniform | LogUniform):
            assert domain.q is not None
            return clamp(multiple(step, domain.q), domain.low, domain.high)
        return step * _q_of(domain)


def axis_of(domain: Any) -> Axis:
    """Return the axis of a sampler.

    Raises:
        ValueError: ``domain`` is not a sampler of asynctune.
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
        if last - first < _MAX_INTS:
            return Axis(domain, Kind.INT, first, last, log)
        return Axis(domain, Kind.FLOAT, first - 0.5, last + 0.5, log)
    raise ValueError(
        f"{safe_repr(domain)} is not a sampler of asynctune such as asynctune.uniform(0, 1)"
    )


def axes_of(owner: str, samplers: Mapping[str, Any]) -> dict[str, Axis]:
    """Return the axes of samplers by path.

    Args:
        owner: The name of the searcher, for the error.
        samplers: The samplers by path.

    Raises:
        ConfigError: A sampler is not one of asynctune.
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
    """Return the position of a category: of the same object, or else of an equal one."""
    for position, category in enumerate(categories):
        if category is value:
            return position
    for position, category in enumerate(categories):
        if is_equal(category, value):
            return position
    raise ValueError(f"must be one of {safe_repr(list(categories))}")


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two values are of the same type and equal; False if comparing them raises."""
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # arrays of several numbers have no truth value
        return False


def _log_between(low: float, high: float, u: float) -> float:
    return math.exp(math.log(low) * (1 - u) + math.log(high) * u)
