"""Population based bandits: PBT whose new values are chosen by a model of what was gained with which."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError
from asynctune.experiment.trial import Trial
from asynctune.schedulers._explore import copied, is_number
from asynctune.schedulers.pbt import Member, PopulationBasedTraining
from asynctune.space.domains import LogUniform, Uniform, is_grid
from asynctune.space.spec import Path

_MOST_OBSERVED = 200
_MOST_ALIKE = 3
_ENOUGH = 2
_CANDIDATES = 128
_NEAR = 0.2


@dataclass(frozen=True, slots=True)
class _Interval:
    """What a trial gained from one perturbation to the next.

    Args:
        time: When it ended.
        score: The score when it began.
        point: The hyperparameters, as numbers from 0 to 1.
        gain: How much better the score got, per unit of time.
    """

    time: float
    score: float
    point: tuple[float, ...]
    gain: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """A hyperparameter as a number from 0 to 1."""

    path: Path
    sampler: Uniform | LogUniform

    def unit(self, config: Any) -> float | None:
        """Return where a config has it; None if it has no number there."""
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
        """Put a value into a config, an int where one was."""
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

    From what the trials gained in the intervals so far, at which time, score and hyperparameters, it learns
    how the gain of the next interval depends on the hyperparameters, and takes those with the highest upper
    confidence bound. What is being tried at the moment counts as known, so a batch spreads out. It learns
    from the last 200 intervals, three of each configuration; before there are two it draws at random.

    It needs numpy: ``pip install asynctune[pb2]``.

    Args:
        time_attr: As in :class:`PopulationBasedTraining`.
        metric: Likewise.
        mode: Likewise.
        perturbation_interval: Likewise.
        hyperparam_bounds: The hyperparameters: ``{name: [low, high]}``, or a ``tune.uniform`` or
            ``tune.loguniform`` in place of the two numbers, or a dict of these. What is an int in the
            config stays one.
        quantile_fraction: As in :class:`PopulationBasedTraining`.
        log_config: Likewise.
        custom_explore_fn: Likewise.

    Raises:
        ConfigError: An argument is wrong, or there is no numpy.
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
        self._best_of = gp.best_of
        where = f"hyperparam_bounds of {type(self).__name__}"
        if not isinstance(hyperparam_bounds, Mapping) or not hyperparam_bounds:
            raise ConfigError(
                f"{where} is {safe_repr(hyperparam_bounds)}; a dict such as "
                f"{{'lr': [0.001, 0.1]}} is wanted"
            )
        samplers = _samplers(where, hyperparam_bounds)
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
        self._observed: deque[_Interval] = deque(maxlen=_MOST_OBSERVED)
        self._begun: dict[str, tuple[float, float]] = {}
        self._pending: dict[str, tuple[float, float, tuple[float, ...]]] = {}

    def debug_string(self) -> str:
        return f"{super().debug_string()}\nthe model knows {len(self._observed)} intervals"

    def _saw(self, member: Member, time: float, score: float, *, is_due: bool) -> None:
        trial_id = member.trial.trial_id
        begun = self._begun.get(trial_id)
        if begun is not None and time <= begun[0]:
            begun = None  # a retry: it comes by here again
        if is_due:
            self._pending.pop(trial_id, None)
            point = self._point(member.trial.config)
            if begun is not None and point is not None and math.isfinite(score):
                gain = (score - begun[1]) / (time - begun[0])
                if math.isfinite(gain):
                    self._observe(_Interval(time, begun[1], point, gain))
        if is_due or begun is None:
            begun = time, score
        if math.isfinite(begun[1]):
            self._begun[trial_id] = begun
        else:
            self._begun.pop(trial_id, None)

    def _mutated(self, donor: Member) -> dict[Any, Any]:
        config: dict[Any, Any] = copied(donor.trial.config)
        assert donor.score is not None
        time, score = donor.last_time + self.perturbation_interval, donor.score
        chosen = self._chosen(time, score, self._point(donor.trial.config))
        for axis, unit in zip(self._axes, chosen, strict=True):
            axis.set(config, unit)
        return config

    def _took_over(self, member: Member, donor: Member, config: dict[Any, Any]) -> None:
        trial_id, score, point = member.trial.trial_id, donor.score, self._point(config)
        self._begun.pop(trial_id, None)
        if score is not None and math.isfinite(score):
            self._begun[trial_id] = donor.last_time, score
            if point is not None:
                ends = donor.last_time + self.perturbation_interval
                self._pending[trial_id] = ends, score, point

    def _chosen(
        self, time: float, score: float, near: tuple[float, ...] | None
    ) -> tuple[float, ...]:
        """Return the point to try, between two perturbations of a trial.

        Args:
            time: When that ends.
            score: The score when it begins.
            near: Where the donor was.
        """
        candidates = [tuple(self._rng.random() for _ in self._axes) for _ in range(_CANDIDATES)]
        if len(self._observed) < _ENOUGH:
            return candidates[0]
        # Far from everything known, all is alike; near the donor a small step can be the best.
        if near is not None:
            candidates += [
                tuple(min(max(unit + _NEAR * self._bell(), 0.0), 1.0) for unit in near)
                for _ in range(_CANDIDATES)
            ]
        levels = [
            known.score / 2 for known in self._observed
        ]  # halved, so that no difference is too large
        low, high = min(levels), max(levels)

        def extended(score: float, point: tuple[float, ...]) -> tuple[float, ...]:
            level = (score / 2 - low) / (high - low) if high > low else 0.5
            return (min(max(level, 0.0), 1.0), *point)

        step = self.perturbation_interval
        observed = [
            (known.time / step, extended(known.score, known.point), known.gain)
            for known in self._observed
        ]
        pending = [
            (when / step, extended(level, point)) for when, level, point in self._pending.values()
        ]
        wanted = [extended(score, candidate) for candidate in candidates]
        return candidates[self._best_of(wanted, time / step, observed, pending)]

    def _observe(self, interval: _Interval) -> None:
        """Take note of an interval; many of the same hyperparameters would push the others out."""
        alike = [known for known in self._observed if known.point == interval.point]
        if len(alike) >= _MOST_ALIKE:
            self._observed.remove(alike[0])
        self._observed.append(interval)

    def _point(self, config: Any) -> tuple[float, ...] | None:
        """Return where a config is; None if something is missing in it."""
        units = [axis.unit(config) for axis in self._axes]
        return tuple(unit for unit in units if unit is not None) if None not in units else None

    def _bell(self) -> float:
        """Draw a number around 0, with a standard deviation of 1/2."""
        return sum(self._rng.random() for _ in range(3)) - 1.5

    def _leaves(self, trial: Trial) -> None:
        super()._leaves(trial)
        self._begun.pop(trial.trial_id, None)
        self._pending.pop(trial.trial_id, None)


def _samplers(where: str, bounds: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the samplers of the bounds."""
    return {key: _sampler(f"{where}[{safe_repr(key)}]", given) for key, given in bounds.items()}


def _sampler(where: str, given: Any) -> Any:
    if isinstance(given, Mapping) and given and not is_grid(given):
        return _samplers(where, given)
    if isinstance(given, Uniform | LogUniform) and given.q is None and given.low < given.high:
        return given
    if isinstance(given, list | tuple) and len(given) == 2 and all(map(is_number, given)):
        with contextlib.suppress(OverflowError):
            low, high = map(float, given)
            if low < high and math.isfinite(high - low):
                return Uniform(low, high)
    raise ConfigError(
        f"{where} is {safe_repr(given)}; two numbers [low, high], or a uniform or "
        f"loguniform with low below "
        "high, are wanted"
    )


def _axes(above: Path, samplers: Mapping[Any, Any]) -> Iterator[_Axis]:
    for key, sampler in samplers.items():
        if isinstance(sampler, Mapping):
            yield from _axes((*above, key), sampler)
        else:
            yield _Axis((*above, key), sampler)
