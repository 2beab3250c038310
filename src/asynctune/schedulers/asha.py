"""ASHA: asynchronous successive halving, which stops trials at rungs or promotes the best of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from asynctune._checks import check_bool, check_int, check_key
from asynctune.errors import MetricMissing
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._rungs import Entry, Ladder, Rung, pluralize, rung_at
from asynctune.schedulers.base import Decision, Free, TrialScheduler, Verdict, score_of, time_of

_MAX_BRACKETS = 1_000


@dataclass(slots=True, eq=False)
class _Member:
    """A trial in a bracket.

    Args:
        bracket: The bracket of the trial.
        reached: The index of the highest rung at which the trial was recorded, -1 for none.
        entry: The entry of the trial at that rung.
        may_pass: Whether the trial may train past that rung.
        is_waiting: Whether the scheduler paused the trial at that rung, and no event of the trial
            followed.
        stops_at: The time from which on the trial is stopped.
    """

    bracket: _Bracket
    reached: int = -1
    entry: Entry | None = None
    may_pass: bool = True
    is_waiting: bool = False
    stops_at: float = math.inf

    @property
    def rung(self) -> Rung:
        """The highest rung at which the trial was recorded."""
        return self.bracket.rungs[self.reached]

    def record(self, trial_id: str, rung: int, score: float) -> None:
        """Record that the trial reached a rung."""
        self.reached = rung
        self.entry = self.rung.record(trial_id, score)

    def start_waiting(self) -> None:
        """Let the trial wait at its rung."""
        assert self.entry is not None
        self.is_waiting, self.may_pass = True, False
        self.rung.add_waiting(self.entry)

    def stop_waiting(self) -> bool:
        """End the wait of the trial, and return whether the trial was waiting."""
        was_waiting, self.is_waiting = self.is_waiting, False
        if was_waiting:
            assert self.entry is not None
            self.rung.remove_waiting(self.entry)
        return was_waiting

    def promote(self) -> None:
        """Let the trial pass its rung."""
        self.may_pass = True
        self.rung.num_promoted += 1


class _Bracket:
    """Trials that are compared with each other, at the same rungs."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.rungs = [Rung(level) for level in levels]


class AsyncHyperBandScheduler(TrialScheduler):
    """Stops or pauses trials early that are worse than others were at the same time (Li et al. 2020).

    The rungs are ``grace_period`` times powers of ``reduction_factor``, up to ``max_t``: by default 1, 4,
    16 and 64. The score of a trial at a rung is its metric when the trial first reaches the rung. A trial
    that jumps over several rungs is recorded at the highest of them, and has passed the others. NaN is
    the worst value. No trial waits for another one.

    At a rung a trial is stopped if its metric is worse than the quantile ``1 - 1/reduction_factor`` of
    the scores that were recorded there before. The first trial at a rung, and a trial as good as the
    quantile, goes on.

    With ``promote=True`` a trial pauses at each rung instead. A free slot goes, from the highest rung
    down, to the best paused trial that is among the best ``1/reduction_factor`` of its rung, rounded down;
    of equal trials the earlier comes first. Only if there is none, a new trial begins. A trial that would
    get its own slot back goes on at once. This is algorithm 2 of the paper
    (https://arxiv.org/abs/1810.05934): no trial goes on only because it came early, and the trials need
    checkpoints. When no new trial is to come, nothing runs and no paused trial may go on, the paused
    trials end; so fewer than ``reduction_factor`` trials all end at the first rung. A trial that its user
    resumes by hand passes its rung like a promoted one.

    With several brackets, bracket ``s`` leaves out the lowest ``s`` rungs. A new trial is assigned to a
    bracket at random, more probably to one with more rungs (the softmax of their number).

    Args:
        time_attr: The key of the results that is compared with rungs; its values grow.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        max_t: The time at which every trial is stopped, in units of ``time_attr``.
        grace_period: The time of the lowest rung, in units of ``time_attr``; before it no trial is stopped.
        reduction_factor: The ratio of the trials at a rung to those that pass, more than 1.
        brackets: The number of brackets.
        promote: Whether trials pause at rungs and the best are promoted, or the worse ones are stopped.

    Raises:
        ConfigError: An argument is wrong.
    """

    needs_metric: ClassVar[bool] = True

    def __init__(
        self,
        time_attr: str = TRAINING_ITERATION,
        metric: str | None = None,
        mode: str | None = None,
        max_t: float = 100,
        grace_period: float = 1,
        *,
        reduction_factor: float = 4,
        brackets: int = 1,
        promote: bool = False,
    ) -> None:
        super().__init__(metric, mode)
        name = type(self).__name__
        self.time_attr = check_key(name, "time_attr", time_attr)
        ladder = Ladder.from_arguments(name, max_t, grace_period, reduction_factor)
        self.max_t = ladder.max_t
        self.grace_period = ladder.grace_period
        self.reduction_factor = ladder.reduction_factor
        self.brackets = check_int(name, "brackets", brackets, 1, _MAX_BRACKETS)
        self.promote = check_bool(name, "promote", promote)
        self._ladder = ladder
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        """Whether trials pause, as they do with ``promote``."""
        return self.promote

    def begin(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._brackets = [
            _Bracket(self._ladder.levels(skipped)) for skipped in range(self.brackets)
        ]
        most = len(self._brackets[0].rungs)
        self._weights = [math.exp(len(bracket.rungs) - most) for bracket in self._brackets]
        # choose() searches them in this order: a promotion from a higher rung comes first.
        self._rungs = sorted(
            (rung for bracket in self._brackets for rung in bracket.rungs),
            key=lambda rung: -rung.level,
        )
        self._members: dict[str, _Member] = {}
        self._num_stopped = 0

    def on_trial_add(self, trial: Trial) -> None:
        self._member(trial)

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        member = self._member(trial)
        member.stop_waiting()
        if time >= self.max_t:
            self._record(member, trial, time, score)
            return Decision.STOP
        if self.promote:
            return self._pause_or_promote(member, trial, time, score)
        return self._stop_or_pass(member, trial, time, score)

    def on_trial_resume(self, trial: Trial) -> None:
        member = self._member(trial)
        if member.stop_waiting():
            member.promote()

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        member = self._member(trial)
        member.stop_waiting()
        if self.metric is None or self.mode is None:
            return
        with suppress(MetricMissing):  # a trial may end before it reports the metric
            score = score_of(result, self.metric, self.mode)
            self._record(member, trial, time_of(result, self.time_attr), score)

    def on_trial_error(self, trial: Trial) -> None:
        self._member(trial).stop_waiting()

    def on_trial_remove(self, trial: Trial) -> None:
        self._member(trial).stop_waiting()

    def choose(self, free: Free) -> str | None:
        """Return the paused trial to promote, or None for a new trial; see the base class."""
        if not self.promote:
            return super().choose(free)
        for trial_id in free.paused:
            member = self._members.get(trial_id)
            if member is None or not member.is_waiting:
                return trial_id  # the user paused this trial, and has released it since
        among = frozenset(free.paused)
        found = (rung.first_promotable(self.reduction_factor, among) for rung in self._rungs)
        return next((trial_id for trial_id in found if trial_id is not None), None)

    def debug_string(self) -> str:
        text = (
            f"Using {type(self).__name__}: {self.time_attr} up to {self.max_t:g}, reduction_factor "
            f"{self.reduction_factor:g}; {pluralize(len(self._members), 'trial')}"
        )
        text += "." if self.promote else f", {self._num_stopped} of them stopped at rungs."
        lines = [text]
        for number, bracket in enumerate(self._brackets[: len(self._brackets[0].rungs) + 1]):
            rungs = "; ".join(self._describe(rung) for rung in reversed(bracket.rungs))
            lines.append(f"bracket {number}: {rungs or 'no rungs'}")
        return "\n".join(lines)

    # -- decisions ---------------------------------------------------------------------------------

    def _stop_or_pass(self, member: _Member, trial: Trial, time: float, score: float) -> Decision:
        if time >= member.stops_at:
            return Decision.STOP  # a retry of a trial that was stopped at a rung before
        rung = rung_at(member.bracket.levels, time)
        if rung <= member.reached:
            return Decision.CONTINUE
        cutoff = self._cutoff(member.bracket.rungs[rung])
        member.record(trial.trial_id, rung, score)
        if score >= cutoff:
            return Decision.CONTINUE
        member.stops_at = member.rung.level
        self._num_stopped += 1
        return Decision.STOP

    def _pause_or_promote(
        self, member: _Member, trial: Trial, time: float, score: float
    ) -> Decision:
        if self._record(member, trial, time, score):
            member.may_pass = False
        # A retry meets rungs again. The trial passed those below its highest rung before.
        if member.may_pass or rung_at(member.bracket.levels, time) < member.reached:
            return Decision.CONTINUE
        member.start_waiting()
        if next(self._promotable(), None) != member.entry:
            return Decision.PAUSE
        member.stop_waiting()
        member.promote()
        return Decision.CONTINUE

    def _record(self, member: _Member, trial: Trial, time: float, score: float) -> bool:
        """Record a trial at the rung of a time. Return False if that rung or a higher one has the trial."""
        rung = rung_at(member.bracket.levels, time)
        if rung <= member.reached:
            return False
        member.record(trial.trial_id, rung, score)
        return True

    def _promotable(self) -> Iterator[Entry]:
        for rung in self._rungs:
            yield from rung.promotable(self.reduction_factor)

    # -- helpers -----------------------------------------------------------------------------------

    def _member(self, trial: Trial) -> _Member:
        member = self._members.get(trial.trial_id)
        if member is None:
            # Even for a single bracket: so that the draws depend on the order of trials alone.
            (bracket,) = self._rng.choices(self._brackets, self._weights)
            member = self._members[trial.trial_id] = _Member(bracket)
        return member

    def _cutoff(self, rung: Rung) -> float:
        return rung.quantile(1 - 1 / self.reduction_factor)

    def _describe(self, rung: Rung) -> str:
        text = f"{rung.level:g}: {pluralize(len(rung.entries), 'trial')}"
        if self.promote:
            return f"{text}, {rung.num_promoted} promoted, {len(rung.waiting)} wait"
        if rung.entries and rung.level < self.max_t:
            cutoff = self._cutoff(rung)
            text += f", cutoff {-cutoff if self.mode == 'min' else cutoff:.6g}"
        return text


ASHAScheduler = AsyncHyperBandScheduler
"""The name of the algorithm in its paper."""
