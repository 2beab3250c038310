"""ASHA: asynchronous successive halving, which stops trials at rungs or lets the best of them go on."""

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
from asynctune.schedulers._rungs import Entry, Ladder, Rung, counted, rung_at
from asynctune.schedulers.base import Decision, Free, TrialScheduler, Verdict, score_of, time_of

_MOST_BRACKETS = 1_000


@dataclass(slots=True, eq=False)
class _Member:
    """A trial.

    Args:
        bracket: Where it is compared.
        reached: The highest rung at which it was recorded, -1 for none.
        entry: What was recorded there.
        goes_on: Whether it may pass that rung.
        waits: Whether it was told to pause there, and nothing was heard of it since.
        stops_at: From which time on it is stopped.
    """

    bracket: _Bracket
    reached: int = -1
    entry: Entry | None = None
    goes_on: bool = True
    waits: bool = False
    stops_at: float = math.inf

    @property
    def rung(self) -> Rung:
        """The highest rung at which it was recorded."""
        return self.bracket.rungs[self.reached]

    def record(self, trial_id: str, rung: int, score: float) -> None:
        """Note that it came to a rung."""
        self.reached = rung
        self.entry = self.rung.record(trial_id, score)

    def wait(self) -> None:
        """It pauses at its rung."""
        assert self.entry is not None
        self.waits, self.goes_on = True, False
        self.rung.wait(self.entry)

    def wake(self) -> bool:
        """It does not wait any more; tell whether it did."""
        waited, self.waits = self.waits, False
        if waited:
            assert self.entry is not None
            self.rung.leave(self.entry)
        return waited

    def promote(self) -> None:
        """Let it pass its rung."""
        self.goes_on = True
        self.rung.num_promoted += 1


class _Bracket:
    """Trials that are compared with each other, at the same rungs."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.rungs = [Rung(level) for level in levels]


class AsyncHyperBandScheduler(TrialScheduler):
    """Gives up early on trials that are worse than others were at the same time (Li et al. 2020).

    The rungs are ``grace_period`` times powers of ``reduction_factor``, up to ``max_t``: by default 1, 4,
    16 and 64. What counts at a rung is the metric that a trial has when it first comes there. A trial
    that jumps over several rungs is recorded at the highest of them, and has passed the others. NaN is
    the worst value. No trial waits for another one.

    At a rung a trial is stopped if its metric is worse than the quantile ``1 - 1/reduction_factor`` of
    those that were recorded there before. Who comes first, or is as good as the quantile, goes on.

    With ``promote=True`` a trial pauses at each rung instead, and a free slot goes, from the highest rung
    down, to the best paused trial that is among the best ``1/reduction_factor`` of its rung, rounded down;
    of equals the earlier comes first. Only if there is none, a new trial begins. A trial that would be
    given its own slot back goes on at once. This is algorithm 2 of the paper
    (https://arxiv.org/abs/1810.05934): it never goes on with a trial only because that came early, and it
    needs checkpoints. When no new trial is to come, nothing runs and none may go on, the paused ones end;
    so fewer than ``reduction_factor`` trials all end at the first rung. A trial that its user lets go on
    by hand passes its rung like one that was promoted.

    With several brackets, bracket ``s`` leaves out the lowest ``s`` rungs. A new trial is put into one of
    them by chance, more probably into one with more rungs (the softmax of their number).

    Args:
        time_attr: What is compared with rungs: a key of the results that grows.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        max_t: How far a trial comes at most, in units of ``time_attr``; there it is stopped.
        grace_period: The lowest rung; before it no trial is stopped.
        reduction_factor: One of how many goes on at a rung, more than 1.
        brackets: How many brackets there are.
        promote: Whether trials pause at rungs, and the best go on, rather than that the others are stopped.

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
        ladder = Ladder.checked(name, max_t, grace_period, reduction_factor)
        self.max_t = ladder.max_t
        self.grace_period = ladder.grace_period
        self.reduction_factor = ladder.reduction_factor
        self.brackets = check_int(name, "brackets", brackets, 1, _MOST_BRACKETS)
        self.promote = check_bool(name, "promote", promote)
        self._ladder = ladder
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        """With ``promote``: trials pause."""
        return self.promote

    def begin(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._brackets = [
            _Bracket(self._ladder.levels(skipped)) for skipped in range(self.brackets)
        ]
        most = len(self._brackets[0].rungs)
        self._weights = [math.exp(len(bracket.rungs) - most) for bracket in self._brackets]
        # From the highest rung down, which is the order in which they are looked through.
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
        member.wake()
        if time >= self.max_t:
            self._record(member, trial, time, score)
            return Decision.STOP
        if self.promote:
            return self._pause_or_promote(member, trial, time, score)
        return self._stop_or_pass(member, trial, time, score)

    def on_trial_resume(self, trial: Trial) -> None:
        member = self._member(trial)
        if member.wake():
            member.promote()

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        member = self._member(trial)
        member.wake()
        if self.metric is None or self.mode is None:
            return
        with suppress(MetricMissing):  # it may have ended before it had one
            score = score_of(result, self.metric, self.mode)
            self._record(member, trial, time_of(result, self.time_attr), score)

    def on_trial_error(self, trial: Trial) -> None:
        self._member(trial).wake()

    def on_trial_remove(self, trial: Trial) -> None:
        self._member(trial).wake()

    def choose(self, free: Free) -> str | None:
        """Name the paused trial that is to be promoted, None: a new one; see the base class."""
        if not self.promote:
            return super().choose(free)
        for trial_id in free.paused:
            member = self._members.get(trial_id)
            if member is None or not member.waits:
                return trial_id  # its user paused it, and nobody holds it any more
        among = frozenset(free.paused)
        found = (rung.first_promotable(self.reduction_factor, among) for rung in self._rungs)
        return next((trial_id for trial_id in found if trial_id is not None), None)

    def debug_string(self) -> str:
        text = (
            f"Using {type(self).__name__}: {self.time_attr} up to {self.max_t:g}, reduction_factor "
            f"{self.reduction_factor:g}; {counted(len(self._members), 'trial')}"
        )
        text += "." if self.promote else f", {self._num_stopped} of them stopped at rungs."
        lines = [text]
        for number, bracket in enumerate(self._brackets[: len(self._brackets[0].rungs) + 1]):
            rungs = "; ".join(self._described(rung) for rung in reversed(bracket.rungs))
            lines.append(f"bracket {number}: {rungs or 'no rungs'}")
        return "\n".join(lines)

    # -- what becomes of a trial -------------------------------------------------------------------

    def _stop_or_pass(self, member: _Member, trial: Trial, time: float, score: float) -> Decision:
        if time >= member.stops_at:
            return Decision.STOP  # it was told so before, and has been tried again since
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
            member.goes_on = False
        # A retry comes by rungs again: those below the one that holds it were passed before.
        if member.goes_on or rung_at(member.bracket.levels, time) < member.reached:
            return Decision.CONTINUE
        member.wait()
        if next(self._promotable(), None) != member.entry:
            return Decision.PAUSE
        member.wake()
        member.promote()
        return Decision.CONTINUE

    def _record(self, member: _Member, trial: Trial, time: float, score: float) -> bool:
        """Note a score, if it is the first at or above the rung; tell whether it is."""
        rung = rung_at(member.bracket.levels, time)
        if rung <= member.reached:
            return False
        member.record(trial.trial_id, rung, score)
        return True

    def _promotable(self) -> Iterator[Entry]:
        for rung in self._rungs:
            yield from rung.promotable(self.reduction_factor)

    # -- small things ------------------------------------------------------------------------------

    def _member(self, trial: Trial) -> _Member:
        member = self._members.get(trial.trial_id)
        if member is None:
            # Drawn also if there is but one, so that what is drawn depends on the order of trials alone.
            (bracket,) = self._rng.choices(self._brackets, self._weights)
            member = self._members[trial.trial_id] = _Member(bracket)
        return member

    def _cutoff(self, rung: Rung) -> float:
        return rung.quantile(1 - 1 / self.reduction_factor)

    def _described(self, rung: Rung) -> str:
        text = f"{rung.level:g}: {counted(len(rung.entries), 'trial')}"
        if self.promote:
            return f"{text}, {rung.num_promoted} promoted, {len(rung.waiting)} wait"
        if rung.entries and rung.level < self.max_t:
            cutoff = self._cutoff(rung)
            text += f", cutoff {-cutoff if self.mode == 'min' else cutoff:.6g}"
        return text


ASHAScheduler = AsyncHyperBandScheduler
