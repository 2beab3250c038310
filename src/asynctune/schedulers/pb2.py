"""Population based bandits: PBT whose new values are chosen by a model of the gains so far."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynctune._checks import argument_error, safe_repr
from asynctune.errors import ConfigError
from asynctune.experiment.trial import Trial
from asynctune.schedulers._explore import copy_config, is_number
from asynctune.schedulers.pbt import Member, PopulationBasedTraining
from asynctune.space.domains import LogUniform, Uniform, is_grid
from asynctune.space.spec import Path

_MAX_INTERVALS = 200
_MAX_PER_POINT = 3
_MIN_INTERVALS = 2
_NUM_CANDIDATES = 128
_STEP_SIZE = 0.2


@dataclass(frozen=True, slots=True)
class _Interval:
    """The gain of a trial from one perturbation to the next.

    Args:
        time: The end of the interval, in units of ``time_attr``.
        score: The score at the beginning of the interval.
        point: The hyperparameters, as numbers from 0 to 1.
        gain: The improvement of the score, per unit of time.
    """

    time: float
    score: float
    point: tuple[float, ...]
    gain: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """A hyperparameter that is mapped to numbers from 0 to 1."""

    path: Path
    sampler: Uniform | LogUniform

    def to_unit(self, config: Any) -> float | None:
        """Return the hyperparameter of a config as a number from 0 to 1; None if the config lacks it."""
        for key in self.path:
            if not isinstance(config, Mapping) or key not in config:
                return None
            config = config[key]
        if not is_number(config):
            return None
        low, high = self._scaled(self.sampler.low), self._scaled(self.sampler.high)
        value = self._scaled(min(max(config, self.sampler.low), self.sampler.high))
        return (value - low) / (high - low) if high > low else 0.5

    def set(self, config: dict[Any, Any], unit: float) -> None:
        """Set the hyperparameter in a config. An int stays an int."""
        low, high = self._scaled(self.sampler.low), self._scaled(self.sampler.high)
        value = low * (1 - unit) + high * unit
        if isinstance(self.sampler, LogUniform):
            value = math.exp(value)
        value = min(max(value, self.sampler.low), self.sampler.high)
        for key in self.path[:-1]:
            config = config.setdefault(key, {})
        old = config.get(self.path[-1])
        is_int = isinstance(old, numbers.Integral) and not isinstance(old, bool)
        config[self.path[-1]] = round(value) if is_int else value

    def _scaled(self, value: float) -> float:
        return math.log(value) if isinstance(self.sampler, LogUniform) else float(value)


class PB2(PopulationBasedTraining):
    """PBT whose new hyperparameters come from a Gaussian process (Parker-Holder et al. 2020).

    A model learns from the gains of the trials in the intervals so far, with their times, scores and
    hyperparameters, how the gain of the next interval depends on the hyperparameters. An exploiting trial
    gets those with the highest upper confidence bound. Hyperparameters that are being tried at the moment
    count as tried, so a batch spreads out. The model learns from the last 200 intervals, at most three of
    each configuration; before there are two, hyperparameters are drawn at random.

    PB2 needs numpy: ``pip install asynctune[pb2]``.

    Args:
        time_attr: As in :class:`PopulationBasedTraining`.
        metric: Likewise.
        mode: Likewise.
        perturbation_interval: Likewise.
        hyperparam_bounds: The hyperparameters and their bounds: ``{name: [low, high]}``, or a
            ``tune.uniform`` or ``tune.loguniform`` in place of the two numbers, or a dict of these. An int
            of the config stays an int.
        quantile_fraction: As in :class:`PopulationBasedTraining`.
        log_config: Likewise.
        custom_explore_fn: Likewise.

    Raises:
        ConfigError: An argument is wrong, or numpy is not installed.
    """

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        hyperparam_bounds: Mapping[Any, Any] | None = None,
        *,
        quantile_fraction: float = 0.25,
        log_config: bool = True,
        custom_explore_fn: Callable[[dict[Any, Any]], dict[Any, Any]] | None = None,
    ) -> None:
        try:
            from asynctune.schedulers import _gp as gp
        except ImportError as exc:
            raise ConfigError("PB2 needs numpy; pip install 'asynctune[pb2]'") from exc
        self._choose_candidate = gp.choose_candidate
        argument = f"hyperparam_bounds of {type(self).__name__}"
        if not isinstance(hyperparam_bounds, Mapping) or not hyperparam_bounds:
            what = "a dict such as {'lr': [0.001, 0.1]}"
            raise argument_error("", argument, what, hyperparam_bounds)
        samplers = _samplers(argument, hyperparam_bounds)
        self._axes = tuple(_axes((), samplers))
        super().__init__(
            time_attr,
            metric,
            mode,
            perturbation_interval,
            samplers,
            quantile_fraction=quantile_fraction,
            custom_explore_fn=custom_explore_fn,
            log_config=log_config,
        )

    def begin(self, seed: int) -> None:
        super().begin(seed)
        self._intervals: deque[_Interval] = deque(maxlen=_MAX_INTERVALS)
        self._starts: dict[str, tuple[float, float]] = {}  # of intervals: time, score
        # Of the intervals after exploits: end, score at the start, point.
        self._pending: dict[str, tuple[float, float, tuple[float, ...]]] = {}

    def debug_string(self) -> str:
        return f"{super().debug_string()}\nthe model has {len(self._intervals)} intervals"

    def _observe_result(self, member: Member, time: float, score: float, *, is_due: bool) -> None:
        trial_id = member.trial.trial_id
        start = self._starts.get(trial_id)
        if start is not None and time <= start[0]:
            start = None  # a retry went back to before the interval
        if is_due:
            self._pending.pop(trial_id, None)
            point = self._to_point(member.trial.config)
            if start is not None and point is not None and math.isfinite(score):
                gain = (score - start[1]) / (time - start[0])
                if math.isfinite(gain):
                    self._add_interval(_Interval(time, start[1], point, gain))
        if is_due or start is None:
            start = time, score
        if math.isfinite(start[1]):
            self._starts[trial_id] = start
        else:
            self._starts.pop(trial_id, None)

    def _new_config(self, donor: Member) -> dict[Any, Any]:
        config: dict[Any, Any] = copy_config(donor.trial.config)
        assert donor.score is not None
        time, score = donor.last_time + self.perturbation_interval, donor.score
        chosen = self._choose_point(time, score, self._to_point(donor.trial.config))
        for axis, unit in zip(self._axes, chosen, strict=True):
            axis.set(config, unit)
        return config

    def _on_exploit(self, member: Member, donor: Member, config: dict[Any, Any]) -> None:
        trial_id, score, point = member.trial.trial_id, donor.score, self._to_point(config)
        self._starts.pop(trial_id, None)
        if score is not None and math.isfinite(score):
            self._starts[trial_id] = donor.last_time, score
            if point is not None:
                end = donor.last_time + self.perturbation_interval
                self._pending[trial_id] = end, score, point

    def _choose_point(
        self, time: float, score: float, near: tuple[float, ...] | None
    ) -> tuple[float, ...]:
        """Return the point to try in the next interval of a trial.

        Args:
            time: The end of the interval.
            score: The score at the beginning of the interval.
            near: The point of the donor; None if its config lacks a hyperparameter.
        """
        candidates = [tuple(self._rng.random() for _ in self._axes) for _ in range(_NUM_CANDIDATES)]
        if len(self._intervals) < _MIN_INTERVALS:
            return candidates[0]
        # Far from all observations the model predicts the same gain everywhere, so random candidates alone
        # would miss that a small step from the donor can be the best.
        if near is not None:
            candidates += [
                tuple(min(max(unit + _STEP_SIZE * self._draw_step(), 0.0), 1.0) for unit in near)
                for _ in range(_NUM_CANDIDATES)
            ]
        # Halved, so that no difference overflows.
        levels = [interval.score / 2 for interval in self._intervals]
        low, high = min(levels), max(levels)

        def with_score(score: float, point: tuple[float, ...]) -> tuple[float, ...]:
            level = (score / 2 - low) / (high - low) if high > low else 0.5
            return (min(max(level, 0.0), 1.0), *point)

        step = self.perturbation_interval
        observed = [
            (interval.time / step, with_score(interval.score, interval.point), interval.gain)
            for interval in self._intervals
        ]
        pending = [
            (end / step, with_score(start, point)) for end, start, point in self._pending.values()
        ]
        queries = [with_score(score, candidate) for candidate in candidates]
        return candidates[self._choose_candidate(queries, time / step, observed, pending)]

    def _add_interval(self, interval: _Interval) -> None:
        """Append an interval. Drop the oldest of a point with too many, which would displace the others."""
        alike = [other for other in self._intervals if other.point == interval.point]
        if len(alike) >= _MAX_PER_POINT:
            self._intervals.remove(alike[0])
        self._intervals.append(interval)

    def _to_point(self, config: Any) -> tuple[float, ...] | None:
        """Return the point of a config; None if the config lacks a hyperparameter."""
        units = [axis.to_unit(config) for axis in self._axes]
        return tuple(unit for unit in units if unit is not None) if None not in units else None

    def _draw_step(self) -> float:
        """Draw a number around 0, with a standard deviation of 1/2."""
        return sum(self._rng.random() for _ in range(3)) - 1.5

    def _remove_member(self, trial: Trial) -> None:
        super()._remove_member(trial)
        self._starts.pop(trial.trial_id, None)
        self._pending.pop(trial.trial_id, None)


def _samplers(argument: str, bounds: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the samplers of the bounds.

    Args:
        argument: The name of the bounds in errors.
        bounds: The bounds, by key of the config.

    Raises:
        ConfigError: A bound is wrong; the message names its key.
    """
    return {key: _sampler(f"{argument}[{safe_repr(key)}]", bound) for key, bound in bounds.items()}


def _sampler(argument: str, bound: Any) -> Any:
    if isinstance(bound, Mapping) and bound and not is_grid(bound):
        return _samplers(argument, bound)
    if isinstance(bound, Uniform | LogUniform) and bound.q is None and bound.low < bound.high:
        return bound
    if isinstance(bound, list | tuple) and len(bound) == 2 and all(map(is_number, bound)):
        with contextlib.suppress(OverflowError):
            low, high = map(float, bound)
            if low < high and math.isfinite(high - low):
                return Uniform(low, high)
    what = "two numbers [low, high], or a uniform or loguniform, with low below high"
    raise argument_error("", argument, what, bound)


def _axes(above: Path, samplers: Mapping[Any, Any]) -> Iterator[_Axis]:
    for key, sampler in samplers.items():
        if isinstance(sampler, Mapping):
            yield from _axes((*above, key), sampler)
        else:
            yield _Axis((*above, key), sampler)
