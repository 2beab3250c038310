"""The median stopping rule (Golovin et al. 2017): stop trials that are worse than others on average."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

from asynctune._checks import check_bool, check_int, check_key, check_number
from asynctune.errors import MetricMissing
from asynctune.experiment.trial import Trial
from asynctune.result import TIME_TOTAL_S, Row
from asynctune.schedulers._rungs import interpolate, pluralize
from asynctune.schedulers.base import Decision, TrialScheduler, Verdict, score_of, time_of


def _new_column() -> array[float]:
    return array("d")


@dataclass(slots=True, eq=False)
class _Curve:
    """The learning curve of a trial, in 32 bytes per result.

    Args:
        times: The times of the results, ascending.
        bests: The best score up to each time.
        means: The mean of the finite scores from the grace period up to each time; -inf without any.
        counts: The number of these scores.
        first_time: The time of the first result at or after the grace period.
        last_time: The time of the last result.
        is_waiting: Whether the scheduler paused the trial, and no event of the trial followed.
        is_exempt: Whether the trial was paused once and resumed, and so is never paused again.
    """

    times: array[float] = field(default_factory=_new_column)
    bests: array[float] = field(default_factory=_new_column)
    means: array[float] = field(default_factory=_new_column)
    counts: array[float] = field(default_factory=_new_column)
    first_time: float = math.inf
    last_time: float = -math.inf
    is_waiting: bool = False
    is_exempt: bool = False

    def add(self, time: float, score: float, grace_period: float) -> None:
        """Append a result, and drop earlier results at or after its time, which a retry has undone."""
        for column in (self.bests, self.means, self.counts, self.times):
            del column[bisect_left(self.times, time) :]
        best, mean, count = -math.inf, -math.inf, 0.0
        if self.times:
            best, mean, count = self.bests[-1], self.means[-1], self.counts[-1]
        if time >= grace_period and math.isfinite(score):
            count += 1
            mean = score if count == 1 else _updated_mean(mean, score, count)
        self.times.append(time)
        self.bests.append(max(best, score))
        self.means.append(mean)
        self.counts.append(count)
        if self.first_time >= time:
            self.first_time = time if time >= grace_period else math.inf
        self.last_time = time

    def mean_at(self, time: float) -> float:
        """Return the mean of the scores up to a time at or after the first result."""
        return self.means[bisect_right(self.times, time) - 1]


class MedianStoppingRule(TrialScheduler):
    """Stops a trial whose best value so far is worse than the median of what others had on average.

    From ``grace_period`` on, each result at a time ``t`` is compared with the other trials that have
    reached ``t``, ended ones included: with the median of their averages over the results from
    ``grace_period`` until ``t``. A trial without any result in that time is left out. If these trials are
    fewer than ``min_samples_required``, the trial goes on.

    NaN and infinite values are left out of averages; a trial that has only such values counts as the
    worst. NaN is the worst value. A retried trial is compared with the results that it reported since.

    This differs from the system that the arguments come from. That system paused a trial after each result
    as long as others waited and there were too few trials to compare it with, so that each result cost a
    checkpoint; here the trial goes on, and ``min_time_slice``, the least time between two such pauses,
    changes nothing.

    Args:
        time_attr: The key of the results that is compared; its values grow.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        grace_period: The time before which no trial is stopped, in units of ``time_attr``.
        min_samples_required: The least number of other trials that a trial is compared with.
        min_time_slice: Accepted, and without effect.
        hard_stop: Whether a worse trial is stopped. Otherwise the trial pauses, is resumed when there is
            no new trial for a slot, and is never paused again.

    Raises:
        ConfigError: An argument is wrong.
    """

    needs_metric: ClassVar[bool] = True

    def __init__(
        self,
        time_attr: str = TIME_TOTAL_S,
        metric: str | None = None,
        mode: str | None = None,
        grace_period: float = 60.0,
        min_samples_required: int = 3,
        *,
        min_time_slice: float = 0,
        hard_stop: bool = True,
    ) -> None:
        super().__init__(metric, mode)
        name = type(self).__name__
        self.time_attr = check_key(name, "time_attr", time_attr)
        self.grace_period = check_number(name, "grace_period", grace_period, least=0)
        self.min_samples_required = check_int(name, "min_samples_required", min_samples_required, 1)
        self.min_time_slice = check_number(name, "min_time_slice", min_time_slice, least=0)
        self.hard_stop = check_bool(name, "hard_stop", hard_stop)
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        """Whether trials pause, as they do without ``hard_stop``."""
        return not self.hard_stop

    def begin(self, seed: int) -> None:
        self._curves: dict[str, _Curve] = {}
        self._below_median: dict[str, None] = {}

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        curve = self._curves.setdefault(trial.trial_id, _Curve())
        curve.is_waiting = False
        curve.add(time, score, self.grace_period)
        if time < self.grace_period or curve.is_exempt:
            return Decision.CONTINUE
        averages = self._averages(curve, time)
        if len(averages) < self.min_samples_required or curve.bests[-1] >= _median(averages):
            return Decision.CONTINUE
        self._below_median[trial.trial_id] = None
        if self.hard_stop:
            return Decision.STOP
        curve.is_waiting = True
        return Decision.PAUSE

    def on_trial_resume(self, trial: Trial) -> None:
        curve = self._curves.get(trial.trial_id)
        if curve is not None and curve.is_waiting:
            curve.is_waiting, curve.is_exempt = False, True

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        if self.metric is None or self.mode is None:
            return
        with suppress(MetricMissing):  # a trial may end before it reports the metric
            score = score_of(result, self.metric, self.mode)
            time = time_of(result, self.time_attr)
            curve = self._curves.setdefault(trial.trial_id, _Curve())
            if time > curve.last_time:
                curve.add(time, score, self.grace_period)

    def debug_string(self) -> str:
        what = "stopped" if self.hard_stop else "paused once"
        return (
            f"Using {type(self).__name__}: from {self.time_attr}={self.grace_period:g} on against the "
            f"median of at least {self.min_samples_required}; {pluralize(len(self._curves), 'trial')} "
            f"reported, {len(self._below_median)} of them {what}."
        )

    def _averages(self, own: _Curve, time: float) -> list[float]:
        """Return the averages up to a time of the other trials that have reached the time."""
        return [
            curve.mean_at(time)
            for curve in self._curves.values()
            if curve.last_time >= time >= curve.first_time and curve is not own
        ]


def _updated_mean(mean: float, score: float, count: float) -> float:
    """Return a mean with one more value. The mean of equal values is exactly that value."""
    # Equal values make the step 0. The difference of huge values overflows, so these take the other form.
    step = (score - mean) / count
    return mean + step if math.isfinite(step) else mean * ((count - 1) / count) + score / count


def _median(values: list[float]) -> float:
    ranked = sorted(values)
    middle = len(ranked) // 2
    return (
        ranked[middle] if len(ranked) % 2 else interpolate(ranked[middle - 1], ranked[middle], 0.5)
    )
