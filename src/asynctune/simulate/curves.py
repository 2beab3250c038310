"""Tables of learning curves: what training would report, and how long each step of it would take."""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from asynctune._checks import safe_repr
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
"""The key of a configuration that names a curve by its position in the table."""

SpaceKind: TypeAlias = Literal["rows", "grid", "domains"]

_MAKERS: Mapping[str, Any] = {
    "uniform": uniform,
    "loguniform": loguniform,
    "randint": randint,
    "lograndint": lograndint,
}
_WIDE = 100.0


@dataclass(frozen=True, slots=True)
class Curve:
    """What training one configuration reports, step by step.

    Args:
        config: The configuration.
        seconds: How long each step takes.
        metrics: The values of each metric, one for each step.
    """

    config: Mapping[str, Any]
    seconds: Sequence[float]
    metrics: Mapping[str, Sequence[float]]

    def __len__(self) -> int:
        return len(self.seconds)

    def at(self, step: int) -> Row:
        """Return what step number ``step`` reports, from 0; behind the end the last one's, once more."""
        step = min(step, len(self.seconds) - 1)
        row: Row = {name: values[step] for name, values in self.metrics.items()}
        row[TIME_THIS_ITER_S] = self.seconds[step]
        row[DONE] = step + 1 >= len(self.seconds)
        return row


class Curves:
    """A table of learning curves, which stands in for training.

    Args:
        curves: The curves. Their configurations have the same keys, and they report the same metrics.
        domains: What searchers may suggest for each key; by default what the configurations span: the
            numbers between the least and the most (in logarithms, if these are above 0 and far apart), and
            the other values as a choice.

    Raises:
        ConfigError: The table is wrong; the message names the curve.
    """

    def __init__(
        self, curves: Sequence[Curve], domains: Mapping[str, Domain] | None = None
    ) -> None:
        if not curves:
            raise ConfigError("curves is empty; a table has at least one curve")
        for number, curve in enumerate(curves):
            _check(number, curve, curves[0])
        self._curves = tuple(curves)
        self.domains = dict(domains) if domains is not None else _spanned(curves)
        if self.domains.keys() != curves[0].config.keys():
            raise ConfigError(
                f"domains has the keys {sorted(self.domains)}, the configurations have "
                f"{sorted(curves[0].config)}; the same are wanted"
            )
        self._axes = {name: _Axis.of(name, domain) for name, domain in self.domains.items()}
        self._places = [self._place(curve.config) for curve in self._curves]
        self._found: dict[tuple[float, ...], int] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Curves:
        """Read a table: JSON lines, gzipped if the name ends in ``.gz``. Blocks for a moment.

        The first line is an object of its own, which may hold ``"domains"``: by key, an object of ``kind``
        (``uniform, loguniform, randint, lograndint``) with ``lower`` and ``upper``, or of the kind
        ``choice`` with ``values``. Each other line is a curve: ``"config"``, ``"seconds"``, and for each
        metric the list of its values, in which null is NaN.

        Raises:
            ConfigError: It is no such table; the message names the file and the line.
            FileNotFoundError: There is none.
        """
        opened = gzip.open if os.fspath(path).endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as file:
            try:
                head, *lines = [json.loads(line) for line in file if line.strip()]
                domains = head.get("domains")
                curves = [_read(line) for line in lines]
                return cls(curves, domains and {k: _domain(k, d) for k, d in domains.items()})
            except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as exc:
                raise ConfigError(f"{os.fspath(path)} is no table of curves: {exc}") from exc

    def __len__(self) -> int:
        return len(self._curves)

    def __getitem__(self, number: int) -> Curve:
        return self._curves[number]

    def space(self, kind: SpaceKind = "rows") -> dict[str, Any]:
        """Return a config to tune over.

        Args:
            kind: ``"rows"``: one curve of the table, each as likely as another; ``"grid"``: each curve of
                the table once; ``"domains"``: any configuration within the domains, which gets the curve
                that lies nearest, so that searchers and PBT have something to search.

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
        raise ConfigError(f"kind is {safe_repr(kind)}; 'rows', 'grid' or 'domains' is wanted")

    def find(self, config: Mapping[str, Any]) -> int:
        """Return the number of the curve of a configuration, or of the one that is nearest to it.

        Near means: each number as its place between the bounds of its domain (in logarithms where the
        domain is), words as equal or not.

        Args:
            config: ``{"curve": number}``, or a value for each key; other keys count for nothing.

        Raises:
            ConfigError: A key is missing, or a value is none of its domain's kind.
        """
        number = config.get(CURVE)
        if number is not None and CURVE not in self.domains:
            if isinstance(number, int) and 0 <= number < len(self):
                return number
            raise ConfigError(
                f"config[{CURVE!r}] is {safe_repr(number)}; the curves have the "
                f"numbers 0 to {len(self) - 1}"
            )
        place = self._place(config)
        if place not in self._found:
            distances = (math.dist(place, other) for other in self._places)
            self._found[place] = min(zip(distances, range(len(self)), strict=True))[1]
        return self._found[place]

    @functools.cached_property
    def trainable(self) -> type[Trainable]:
        """What is given to :func:`asynctune.run`: a class that reports what the table says.

        A :class:`SimulatedExecutor` takes the time that the table says; any other executor none.
        """
        return type("Curve", (TabulatedTrainable,), {"curves": self})

    def _place(self, config: Mapping[str, Any]) -> tuple[float, ...]:
        missing = [name for name in self._axes if name not in config]
        if missing:
            raise ConfigError(
                f"config has no {missing[0]!r}; a curve is found by {', '.join(self._axes)}, or by "
                f"{CURVE!r}, its number"
            )
        return tuple(x for name, axis in self._axes.items() for x in axis.place(config[name]))


class TabulatedTrainable(Trainable):
    """Reports the steps of a curve, one after the other. :attr:`Curves.trainable` is one with a table."""

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
    """How the values of one key are laid out, for distances."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    words: tuple[Any, ...] = ()

    @classmethod
    def of(cls, name: str, domain: Domain) -> _Axis:
        match domain:
            case Choice(values) if all(_is_number(value) for value in values):
                low, high = min(values), max(values)
                return cls(name, low, high, log=low > 0 and high >= 4 * low)
            case Choice(values):
                return cls(name, words=tuple(values))
            case Uniform(low=low, high=high) | RandInt(low=low, high=high):
                return cls(name, low, high)
            case LogUniform(low=low, high=high) | LogRandInt(low=low, high=high):
                return cls(name, low, high, log=True)
        raise ConfigError(
            f"domains[{name!r}] is {safe_repr(domain)}; uniform, loguniform, randint, "
            f"lograndint or choice is "
            "wanted"
        )

    def place(self, value: Any) -> tuple[float, ...]:
        if self.words:
            if value not in self.words:
                raise ConfigError(
                    f"config[{self.name!r}] is {safe_repr(value)}; one of "
                    f"{safe_repr(list(self.words))} is wanted"
                )
            # Two different words lie at a distance of 1.
            return tuple(math.sqrt(0.5) * (value == word) for word in self.words)
        if not _is_number(value):
            raise ConfigError(f"config[{self.name!r}] is {safe_repr(value)}; a number is wanted")
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
        raise ConfigError(f"curve {number} has no steps")
    if curve.config.keys() != first.config.keys() or curve.metrics.keys() != first.metrics.keys():
        raise ConfigError(
            f"curve {number} has the keys {sorted(curve.config)} and the metrics {sorted(curve.metrics)}, "
            f"curve 0 has {sorted(first.config)} and {sorted(first.metrics)}; the same are wanted"
        )
    if not all(_is_number(value) and value >= 0 for value in curve.seconds):
        raise ConfigError(f"curve {number}: seconds are not all numbers of at least 0")
    for name, values in curve.metrics.items():
        if len(values) != len(curve):
            raise ConfigError(
                f"curve {number} has {len(values)} values of {name} and {len(curve)} of seconds; as many "
                "are wanted"
            )
        if not all(isinstance(value, int | float) for value in values):
            raise ConfigError(f"curve {number}: the values of {name} are not all numbers")


def _read(line: dict[str, Any]) -> Curve:
    config, seconds = line.pop("config"), line.pop("seconds")
    metrics = {
        name: tuple(math.nan if value is None else value for value in values)
        for name, values in line.items()
    }
    return Curve(config, tuple(seconds), metrics)


def _domain(name: str, told: dict[str, Any]) -> Domain:
    kind = told["kind"]
    if kind == "choice":
        return choice(told["values"])
    if kind not in _MAKERS:
        raise ConfigError(
            f"the domain of {name!r} is of the kind {safe_repr(kind)}; one of {', '.join(_MAKERS)}, choice "
            "is wanted"
        )
    made: Domain = _MAKERS[kind](told["lower"], told["upper"])
    return made


def _spanned(curves: Sequence[Curve]) -> dict[str, Domain]:
    return {name: _span([curve.config[name] for curve in curves]) for name in curves[0].config}


def _span(values: list[Any]) -> Domain:
    if not all(_is_number(value) for value in values):
        return choice(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    far = low > 0 and high >= _WIDE * low
    if all(isinstance(value, int) for value in values):
        return lograndint(low, high + 1) if far else randint(low, high + 1)
    return loguniform(low, high) if far else uniform(low, high)
