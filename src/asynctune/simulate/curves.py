"""Tables of learning curves: the results that training would report, and the duration of each step."""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from asynctune._checks import argument_error, safe_repr
from asynctune.errors import ConfigError
from asynctune.result import DONE, TIME_THIS_ITER_S, Row
from asynctune.space.domains import (
    Choice,
    Domain,
    LogRandInt,
    LogUniform,
    RandInt,
    Uniform,
    choice,
    grid_search,
    lograndint,
    loguniform,
    randint,
    uniform,
)
from asynctune.trainable.base import Trainable

CURVE = "curve"
"""The key of a configuration that selects a curve by its number in the table."""

SpaceKind: TypeAlias = Literal["rows", "grid", "domains"]

_MAKERS: Mapping[str, Any] = {
    "uniform": uniform,
    "loguniform": loguniform,
    "randint": randint,
    "lograndint": lograndint,
}
_WIDE_RANGE = 100.0
"""The ratio of bounds from which on a range of numbers is searched in logarithms."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The results of training one configuration, step by step.

    Args:
        config: The configuration.
        seconds: The duration of each step.
        metrics: The values of each metric, one per step.
    """

    config: Mapping[str, Any]
    seconds: Sequence[float]
    metrics: Mapping[str, Sequence[float]]

    def __len__(self) -> int:
        return len(self.seconds)

    def at(self, step: int) -> Row:
        """Return the result of a step, counted from 0. After the end this is the last result again."""
        step = min(step, len(self.seconds) - 1)
        row: Row = {name: values[step] for name, values in self.metrics.items()}
        row[TIME_THIS_ITER_S] = self.seconds[step]
        row[DONE] = step + 1 >= len(self.seconds)
        return row


class Curves:
    """A table of learning curves, which replaces training.

    Args:
        curves: The curves. All have the same keys in their configurations and the same metrics.
        domains: The search domain of each key. By default a domain spans the values of the configurations:
            the numbers between the smallest and the largest (in logarithms if both are above 0 and their
            ratio is 100 or more), and other values as a choice.

    Raises:
        ConfigError: The table is wrong; the message names the curve.
    """

    def __init__(
        self, curves: Sequence[Curve], domains: Mapping[str, Domain] | None = None
    ) -> None:
        if not curves:
            raise ConfigError("curves of Curves must have at least one curve, got none")
        for number, curve in enumerate(curves):
            _check(number, curve, curves[0])
        self._curves = tuple(curves)
        self.domains = dict(domains) if domains is not None else _spanned(curves)
        if self.domains.keys() != curves[0].config.keys():
            raise ConfigError(
                f"domains of Curves must have the keys of the configurations, {sorted(curves[0].config)}, "
                f"got {sorted(self.domains)}"
            )
        self._axes = {name: _Axis.of(name, domain) for name, domain in self.domains.items()}
        self._points = [self._point(curve.config) for curve in self._curves]
        self._nearest: dict[tuple[float, ...], int] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Curves:
        """Read a table from a file of JSON lines, gzipped if its name ends in ``.gz``. Blocks for a moment.

        The first line is an object that may have the key ``"domains"``. Its value is an object that has, by
        key of the configurations, an object with ``kind`` (``uniform``, ``loguniform``, ``randint``,
        ``lograndint``), ``lower`` and ``upper``, or with the kind ``choice`` and ``values``. Each other
        line is a curve: ``"config"``, ``"seconds"``, and for each metric the list of its values, in which
        null stands for NaN.

        Args:
            path: The path of the file.

        Raises:
            ConfigError: The file has another format; the message names the file and the curve or key.
            FileNotFoundError: The file does not exist.
        """
        opened = gzip.open if os.fspath(path).endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as file:
            try:
                head, *lines = [json.loads(line) for line in file if line.strip()]
                domains = head.get("domains")
                curves = [_read(line) for line in lines]
                return cls(curves, domains and {k: _domain(k, d) for k, d in domains.items()})
            except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as exc:
                raise ConfigError(f"{os.fspath(path)} is not a table of curves: {exc}") from exc

    def __len__(self) -> int:
        return len(self._curves)

    def __getitem__(self, number: int) -> Curve:
        return self._curves[number]

    def space(self, kind: SpaceKind = "rows") -> dict[str, Any]:
        """Return a search space for the argument ``config`` of a run.

        Args:
            kind: ``"rows"`` for one curve of the table, each with the same probability; ``"grid"`` for each
                curve of the table once; ``"domains"`` for any configuration within the domains, which
                trains on the nearest curve. Searchers and PBT need ``"domains"``.

        Raises:
            ConfigError: ``kind`` is none of these.
        """
        match kind:
            case "rows":
                return {CURVE: randint(0, len(self))}
            case "grid":
                return {CURVE: grid_search(list(range(len(self))))}
            case "domains":
                return dict(self.domains)
        raise argument_error("Curves.space()", "kind", "'rows', 'grid' or 'domains'", kind)

    def find(self, config: Mapping[str, Any]) -> int:
        """Return the number of the curve that is nearest to a configuration.

        The distance is Euclidean. Each number counts as its fraction of the range of its domain (in
        logarithms if the domain is logarithmic); two different other values have a distance of 1.

        Args:
            config: ``{"curve": number}``, or a value for each key of the table; other keys are ignored.

        Raises:
            ConfigError: A key is missing, or a value does not fit its domain.
        """
        number = config.get(CURVE)
        if number is not None and CURVE not in self.domains:
            if isinstance(number, int) and 0 <= number < len(self):
                return number
            raise argument_error(
                "", f"config[{CURVE!r}]", f"an int from 0 to {len(self) - 1}", number
            )
        point = self._point(config)
        if point not in self._nearest:
            distances = (math.dist(point, other) for other in self._points)
            self._nearest[point] = min(zip(distances, range(len(self)), strict=True))[1]
        return self._nearest[point]

    @functools.cached_property
    def trainable(self) -> type[Trainable]:
        """The trainable for :func:`asynctune.run`: a class that reports the results of the table.

        A :class:`SimulatedExecutor` takes the seconds of the table for each step; any other executor trains
        without delay.
        """
        return type("Curve", (TabulatedTrainable,), {"curves": self})

    def _point(self, config: Mapping[str, Any]) -> tuple[float, ...]:
        missing = [name for name in self._axes if name not in config]
        if missing:
            raise ConfigError(
                f"config has no {missing[0]!r}; it must have {', '.join(self._axes)}, or {CURVE!r}, the "
                "number of a curve"
            )
        return tuple(x for name, axis in self._axes.items() for x in axis.coordinates(config[name]))


class TabulatedTrainable(Trainable):
    """Reports the steps of a curve one after the other. :attr:`Curves.trainable` adds the table."""

    curves: ClassVar[Curves]

    def _setup(self, config: dict[str, Any]) -> None:
        self._step = 0
        self._curve = self.curves[self.curves.find(config)]

    def _train(self) -> Row:
        self._step += 1
        return self._curve.at(self._step - 1)

    def _save(self, tmp_checkpoint_dir: str) -> dict[str, Any]:
        return {"step": self._step}

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self._step = checkpoint["step"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._curve = self.curves[self.curves.find(new_config)]
        self._step = 0
        return True


@dataclass(frozen=True, slots=True)
class _Axis:
    """The values of one key as coordinates, for distances."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    categories: tuple[Any, ...] = ()

    @classmethod
    def of(cls, name: str, domain: Domain) -> _Axis:
        match domain:
            case Choice(values) if all(_is_number(value) for value in values):
                low, high = min(values), max(values)
                return cls(name, low, high, log=low > 0 and high >= 4 * low)
            case Choice(values):
                return cls(name, categories=tuple(values))
            case Uniform(low=low, high=high) | RandInt(low=low, high=high):
                return cls(name, low, high)
            case LogUniform(low=low, high=high) | LogRandInt(low=low, high=high):
                return cls(name, low, high, log=True)
        kinds = f"{', '.join(_MAKERS)} or choice"
        raise argument_error("Curves", f"domains[{name!r}]", kinds, domain)

    def coordinates(self, value: Any) -> tuple[float, ...]:
        if self.categories:
            if value not in self.categories:
                what = f"one of {safe_repr(list(self.categories))}"
                raise argument_error("", f"config[{self.name!r}]", what, value)
            # With these coordinates two different categories have a distance of 1.
            return tuple(math.sqrt(0.5) * (value == category) for category in self.categories)
        if not _is_number(value):
            raise argument_error("", f"config[{self.name!r}]", "a finite number", value)
        within = min(max(value, self.low), self.high)
        if self.low == self.high:
            return (0.0,)
        if self.log:
            return (math.log(within / self.low) / math.log(self.high / self.low),)
        return ((within - self.low) / (self.high - self.low),)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(number: int, curve: Curve, first: Curve) -> None:
    if not len(curve):
        raise ConfigError(f"curve {number} must have at least one step, got none")
    if curve.config.keys() != first.config.keys() or curve.metrics.keys() != first.metrics.keys():
        raise ConfigError(
            f"curve {number} must have the keys {sorted(first.config)} and the metrics "
            f"{sorted(first.metrics)} of curve 0, got {sorted(curve.config)} and {sorted(curve.metrics)}"
        )
    if not all(_is_number(value) and value >= 0 for value in curve.seconds):
        raise ConfigError(
            f"seconds of curve {number} must be finite numbers of at least 0, got "
            f"{safe_repr(curve.seconds)}"
        )
    for name, values in curve.metrics.items():
        if len(values) != len(curve):
            raise ConfigError(
                f"{name} of curve {number} must have {len(curve)} values, as many as seconds, got "
                f"{len(values)}"
            )
        if not all(isinstance(value, int | float) for value in values):
            raise ConfigError(
                f"{name} of curve {number} must have numbers as values, got {safe_repr(values)}"
            )


def _read(line: dict[str, Any]) -> Curve:
    config, seconds = line.pop("config"), line.pop("seconds")
    metrics = {
        name: tuple(math.nan if value is None else value for value in values)
        for name, values in line.items()
    }
    return Curve(config, tuple(seconds), metrics)


def _domain(name: str, values: dict[str, Any]) -> Domain:
    kind = values["kind"]
    if kind == "choice":
        return choice(values["values"])
    if kind not in _MAKERS:
        kinds = f"{', '.join(_MAKERS)} or choice"
        raise argument_error("", f"kind of the domain of {name!r}", kinds, kind)
    domain: Domain = _MAKERS[kind](values["lower"], values["upper"])
    return domain


def _spanned(curves: Sequence[Curve]) -> dict[str, Domain]:
    return {name: _span([curve.config[name] for curve in curves]) for name in curves[0].config}


def _span(values: list[Any]) -> Domain:
    if not all(_is_number(value) for value in values):
        return choice(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    log = low > 0 and high >= _WIDE_RANGE * low
    if all(isinstance(value, int) for value in values):
        return lograndint(low, high + 1) if log else randint(low, high + 1)
    return loguniform(low, high) if log else uniform(low, high)
