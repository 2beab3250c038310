"""The median stopping rule (Golovin et al. 2017): who is worse than others were on average, stops."""

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
from asynctune.schedulers._rungs import between, counted
from asynctune.schedulers.base import Decision, TrialScheduler, Verdict, score_of, time_of


def _doubles() -> array[float]:
    return array("d")


@dataclass(slots=True, eq=False)
class _Course:
    """What a trial has reported so far, 32 bytes a result.

    Args:
        times: When.
        bests: The best score until then.
        means: The mean of the finite scores from the grace period until then; -inf without any.
        counts: How many these are.
        begins: The time of the first result from the grace period on.
        ends: That of the last result.
        waits: Whether it was told to pause, and nothing was heard of it since.
        is_left_alone: Whether it was told so once, and goes on.
    """

    times: array[float] = field(default_factory=_doubles)
    bests: array[float] = field(default_factory=_doubles)
    means: array[float] = field(default_factory=_doubles)
    counts: array[float] = field(default_factory=_doubles)
    begins: float = math.inf
    ends: float = -math.inf
    waits: bool = False
    is_left_alone: bool = False

    def add(self, time: float, score: float, grace_period: float) -> None:
        """Note a result; what was reported from that time on before was taken back by a retry."""
        for column in (self.bests, self.means, self.counts, self.times):
            del column[bisect_left(self.times, time) :]
        best, mean, count = -math.inf, -math.inf, 0.0
        if self.times:
            best, mean, count = self.bests[-1], self.means[-1], self.counts[-1]
        if time >= grace_period and math.isfinite(score):
            count += 1
            mean = score if count == 1 else _moved(mean, score, count)
        self.times.append(time)
        self.bests.append(max(best, score))
        self.means.append(mean)
        self.counts.append(count)
        if self.begins >= time:
            self.begins = time if time >= grace_period else math.inf
        self.ends = time

    def mean_at(self, time: float) -> float:
        """Return the mean of what was reported until a time, at or after the first result."""
        return self.means[bisect_right(self.times, time) - 1]


class MedianStoppingRule(TrialScheduler):
    """Stops a trial whose best value so far is worse than the median of what others had on average.

    From ``grace_period`` on, each result at a time ``t`` is compared with the trials that have come at
    least as far, those included that have ended: with the median of their averages over the results from
    ``grace_period`` until ``t``. A trial without any result in that time is left out. If they are fewer
    than ``min_samples_required``, the trial goes on.

    NaN and infinite values are left out of averages; a trial that has none but these counts as the worst.
    NaN is the worst value. A trial that was tried again is compared with what it reported since.

    This differs from the system that the arguments come from. There a trial paused after each result as
    long as there were too few to compare it with and others waited, so that each result cost saving it;
    here it goes on, and ``min_time_slice``, the least time between two such pauses, changes nothing.

    Args:
        time_attr: What is compared: a key of the results that grows.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        grace_period: Before it no trial is stopped, in units of ``time_attr``.
        min_samples_required: With how many others a trial is compared at least.
        min_time_slice: Accepted, and without effect.
        hard_stop: Whether a trial that is worse is stopped. Otherwise it pauses, goes on when there is no
            new trial for a slot, and is left alone then.

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
        """Without ``hard_stop``: trials pause."""
        return not self.hard_stop

    def begin(self, seed: int) -> None:
        self._courses: dict[str, _Course] = {}
        self._worse: dict[str, None] = {}

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        course = self._courses.setdefault(trial.trial_id, _Course())
        course.waits = False
        course.add(time, score, self.grace_period)
        if time < self.grace_period or course.is_left_alone:
            return Decision.CONTINUE
        averages = self._averages(course, time)
        if len(averages) < self.min_samples_required or course.bests[-1] >= _median(averages):
            return Decision.CONTINUE
        self._worse[trial.trial_id] = None
        if self.hard_stop:
            return Decision.STOP
        course.waits = True
        return Decision.PAUSE

    def on_trial_resume(self, trial: Trial) -> None:
        course = self._courses.get(trial.trial_id)
        if course is not None and course.waits:
            course.waits, course.is_left_alone = False, True

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        if self.metric is None or self.mode is None:
            return
        with suppress(MetricMissing):  # it may have ended before it had one
            score = score_of(result, self.metric, self.mode)
            time = time_of(result, self.time_attr)
            course = self._courses.setdefault(trial.trial_id, _Course())
            if time > course.ends:
                course.add(time, score, self.grace_period)

    def debug_string(self) -> str:
        what = "stopped" if self.hard_stop else "paused once"
        return (
            f"Using {type(self).__name__}: from {self.time_attr}={self.grace_period:g} on against the "
            f"median of at least {self.min_samples_required}; {counted(len(self._courses), 'trial')} "
            f"reported, {len(self._worse)} of them {what}."
        )

    def _averages(self, own: _Course, time: float) -> list[float]:
        """Return what the other trials that have come to a time had on average until then."""
        return [
            course.mean_at(time)
            for course in self._courses.values()
            if course.ends >= time >= course.begins and course is not own
        ]


def _moved(mean: float, score: float, count: float) -> float:
    """Return a mean with one value more; of equal values it is that very value."""
    step = (score - mean) / count
    return mean + step if math.isfinite(step) else mean * ((count - 1) / count) + score / count


def _median(values: list[float]) -> float:
    ranked = sorted(values)
    middle = len(ranked) // 2
    return ranked[middle] if len(ranked) % 2 else between(ranked[middle - 1], ranked[middle], 0.5)
