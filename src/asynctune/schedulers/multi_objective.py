"""ASHA for several objectives: trials are compared by their fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from asynctune._checks import argument_error, check_key, check_mode
from asynctune.errors import MetricMissing
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._fronts import Fronts, Point
from asynctune.schedulers._rungs import Ladder, pluralize, rung_at
from asynctune.schedulers.base import Decision, TrialScheduler, Verdict, score_of, time_of


@dataclass(slots=True, eq=False)
class _Member:
    """A trial.

    Args:
        reached: The index of the highest rung at which the trial was recorded, -1 for none.
        stops_at: The time from which on the trial is stopped.
    """

    reached: int = -1
    stops_at: float = math.inf


class MultiObjectiveASHAScheduler(TrialScheduler):
    """Stops trials early that are worse in several objectives at once (Schmucker et al. 2021).

    The rungs are those of :class:`~asynctune.schedulers.AsyncHyperBandScheduler`. A trial that reaches a
    rung goes on if it is among the best ``1/reduction_factor``, rounded up, of all that reached the rung,
    itself included. First come the trials that no other dominates: one trial dominates another if it is
    worse in no objective and better in at least one. Then come those that no other dominates once the
    first are taken away, and so on. If not all trials of such a front can be among the best, those are
    that cover the front most evenly: first the best in the first metric, then always the one that is
    farthest from those before, distances being relative to the extent of the front (an epsilon-net, as in
    https://arxiv.org/abs/2106.12639).

    So a trial goes on that is the best in one objective, or a good compromise; a trial with the very values
    of an earlier one is the first to be left out. A trial with NaN in any of its metrics, or with an
    infinite value on the bad side, is worse than all without, whatever its other metrics are.

    The scheduler has metrics of its own, and ignores those of the run.

    Args:
        metrics: The objectives.
        modes: ``"min"`` or ``"max"`` for each objective, or one of the two for all.
        time_attr: The key of the results that is compared with rungs; its values grow.
        max_t: The time at which every trial is stopped, in units of ``time_attr``.
        grace_period: The time of the lowest rung, in units of ``time_attr``; before it no trial is stopped.
        reduction_factor: The ratio of the trials at a rung to those that pass, more than 1.

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
        ladder = Ladder.from_arguments(name, max_t, grace_period, reduction_factor)
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
            return Decision.STOP  # a retry of a trial that was stopped at a rung before
        number = self._record(member, time, point)
        if number is None:
            return Decision.CONTINUE
        rung = self._rungs[member.reached]
        if rung.is_in_best(number, math.ceil(len(rung) / self.reduction_factor)):
            return Decision.CONTINUE
        member.stops_at = self._levels[member.reached]
        self._num_stopped += 1
        return Decision.STOP

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        with suppress(MetricMissing):  # a trial may end before it reports the metrics
            self._record(self._member(trial), time_of(result, self.time_attr), self._point(result))

    def debug_string(self) -> str:
        text = (
            f"Using {type(self).__name__}: {self.time_attr} up to {self.max_t:g}, reduction_factor "
            f"{self.reduction_factor:g}; {pluralize(len(self._members), 'trial')}, {self._num_stopped} of "
            "them stopped at rungs."
        )
        lines = [text]
        for level, rung in zip(reversed(self._levels), reversed(self._rungs), strict=True):
            first = f", {rung.sizes()[0]} of them in the first front" if len(rung) else ""
            lines.append(f"rung {level:g}: {pluralize(len(rung), 'trial')}{first}")
        return "\n".join(lines)

    def _point(self, result: Row) -> Point:
        point = tuple(
            score_of(result, metric, mode)
            for metric, mode in zip(self.metrics, self.modes, strict=True)
        )
        # A trial that diverged in one objective must not survive as the best in another.
        return (-math.inf,) * len(point) if -math.inf in point else point

    def _record(self, member: _Member, time: float, point: Point) -> int | None:
        """Record a trial at the rung of a time. Return its number, None if that or a higher rung has it."""
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
        what = "a list of metrics such as ['loss', 'latency']"
        raise argument_error(owner, "metrics", what, metrics)
    checked = tuple(check_key(owner, f"metrics[{n}]", name) for n, name in enumerate(names))
    if len(set(checked)) < len(checked):
        raise argument_error(owner, "metrics", "a list of different names", metrics)
    return checked


def _modes(owner: str, modes: Any, count: int) -> tuple[str, ...]:
    if isinstance(modes, str):
        return (check_mode(owner, "modes", modes),) * count
    if not isinstance(modes, list | tuple) or len(modes) != count:
        each = pluralize(count, "metric")
        what = f"'min' or 'max', or a list of these with one for each of the {each}"
        raise argument_error(owner, "modes", what, modes)
    return tuple(check_mode(owner, f"modes[{n}]", mode) for n, mode in enumerate(modes))
