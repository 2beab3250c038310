"""ASHA for several objectives: trials are compared by the fronts that they form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from asynctune._checks import check_key, check_mode, safe_repr
from asynctune.errors import ConfigError, MetricMissing
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._fronts import Fronts, Point
from asynctune.schedulers._rungs import Ladder, counted, rung_at
from asynctune.schedulers.base import Decision, TrialScheduler, Verdict, score_of, time_of


@dataclass(slots=True, eq=False)
class _Member:
    """A trial.

    Args:
        reached: The highest rung at which it was recorded, -1 for none.
        stops_at: From which time on it is stopped.
    """

    reached: int = -1
    stops_at: float = math.inf


class MultiObjectiveASHAScheduler(TrialScheduler):
    """Gives up early on trials that are worse in several objectives at once (Schmucker et al. 2021).

    The rungs are those of :class:`~asynctune.schedulers.AsyncHyperBandScheduler`. A trial that comes to
    one goes on if it is among the best ``1/reduction_factor``, rounded up, of all that came there, itself
    included. First are those that no other dominates, that is: is nowhere worse and somewhere better;
    then those that no other dominates once the first are taken away, and so on. Where not all of such a
    front can be among the best, those are that cover it most evenly: first the best in the first metric,
    then always the one that is farthest from those before, distances being relative to the extent of the
    front (an epsilon-net, as in https://arxiv.org/abs/2106.12639).

    So a trial goes on that is the best in anything, or a good compromise; a trial with the very values of
    an earlier one is the first to be left out. One with NaN in any of its metrics, or with an infinite
    value on the bad side, is worse than all without, whatever the other metrics say.

    It has metrics of its own; those of the run do not matter to it.

    Args:
        metrics: The objectives.
        modes: ``"min"`` or ``"max"`` for each of them, or one of the two for all.
        time_attr: What is compared with rungs: a key of the results that grows.
        max_t: How far a trial comes at most, in units of ``time_attr``; there it is stopped.
        grace_period: The lowest rung; before it no trial is stopped.
        reduction_factor: One of how many goes on at a rung, more than 1.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        modes: Sequence[str] | str,
        time_attr: str = TRAINING_ITERATION,
        max_t: float = 100,
        grace_period: float = 1,
        *,
        reduction_factor: float = 4,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.metrics = _metrics(name, metrics)
        self.modes = _modes(name, modes, len(self.metrics))
        self.time_attr = check_key(name, "time_attr", time_attr)
        ladder = Ladder.checked(name, max_t, grace_period, reduction_factor)
        self.max_t = ladder.max_t
        self.grace_period = ladder.grace_period
        self.reduction_factor = ladder.reduction_factor
        self._levels = ladder.levels()
        self.begin(0)

    def bind(self, metric: str | None, mode: str | None) -> Self:
        return super().bind(None, None)

    def begin(self, seed: int) -> None:
        self._rungs = [Fronts() for _ in self._levels]
        self._members: dict[str, _Member] = {}
        self._num_stopped = 0

    def on_trial_add(self, trial: Trial) -> None:
        self._member(trial)

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        time, point = time_of(result, self.time_attr), self._point(result)
        member = self._member(trial)
        if time >= self.max_t:
            self._record(member, time, point)
            return Decision.STOP
        if time >= member.stops_at:
            return Decision.STOP  # it was told so before, and has been tried again since
        number = self._record(member, time, point)
        if number is None:
            return Decision.CONTINUE
        rung = self._rungs[member.reached]
        if rung.is_among(number, math.ceil(len(rung) / self.reduction_factor)):
            return Decision.CONTINUE
        member.stops_at = self._levels[member.reached]
        self._num_stopped += 1
        return Decision.STOP

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        with suppress(MetricMissing):  # it may have ended before it had them
            self._record(self._member(trial), time_of(result, self.time_attr), self._point(result))

    def debug_string(self) -> str:
        text = (
            f"Using {type(self).__name__}: {self.time_attr} up to {self.max_t:g}, reduction_factor "
            f"{self.reduction_factor:g}; {counted(len(self._members), 'trial')}, {self._num_stopped} of "
            "them stopped at rungs."
        )
        lines = [text]
        for level, rung in zip(reversed(self._levels), reversed(self._rungs), strict=True):
            first = f", {rung.sizes()[0]} of them in the first front" if len(rung) else ""
            lines.append(f"rung {level:g}: {counted(len(rung), 'trial')}{first}")
        return "\n".join(lines)

    def _point(self, result: Row) -> Point:
        point = tuple(
            score_of(result, metric, mode)
            for metric, mode in zip(self.metrics, self.modes, strict=True)
        )
        return (-math.inf,) * len(point) if -math.inf in point else point

    def _record(self, member: _Member, time: float, point: Point) -> int | None:
        """Add a trial to a rung, if it was not there nor above; return its number there."""
        rung = rung_at(self._levels, time)
        if rung <= member.reached:
            return None
        member.reached = rung
        return self._rungs[rung].add(point)

    def _member(self, trial: Trial) -> _Member:
        return self._members.setdefault(trial.trial_id, _Member())


def _metrics(owner: str, metrics: Any) -> tuple[str, ...]:
    names: tuple[Any, ...] = tuple(metrics) if isinstance(metrics, list | tuple) else ()
    if not names:
        raise ConfigError(
            f"metrics of {owner} is {safe_repr(metrics)}; a list of metrics such as ['loss', 'latency'] is "
            "wanted"
        )
    checked = tuple(check_key(owner, f"metrics[{n}]", name) for n, name in enumerate(names))
    if len(set(checked)) < len(checked):
        raise ConfigError(f"metrics of {owner} is {safe_repr(metrics)}; no name may come twice")
    return checked


def _modes(owner: str, modes: Any, count: int) -> tuple[str, ...]:
    if isinstance(modes, str):
        return (check_mode(owner, "modes", modes),) * count
    if not isinstance(modes, list | tuple) or len(modes) != count:
        raise ConfigError(
            f"modes of {owner} is {safe_repr(modes)}; 'min' or 'max' is wanted, or a "
            f"list of them with one for "
            f"each of the {counted(count, 'metric')}"
        )
    return tuple(check_mode(owner, f"modes[{n}]", mode) for n, mode in enumerate(modes))
