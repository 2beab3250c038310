"""HyperBand: brackets of trials that are halved at each milestone (Li et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from asynctune._checks import argument_error, check_key, check_number
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._rungs import pluralize
from asynctune.schedulers.base import Decision, Free, TrialScheduler, Verdict, score_of, time_of

_MAX_HALVINGS = 1_000
_MAX_SHOWN = 8


@dataclass(frozen=True, slots=True)
class BracketPlan:
    """The size and the milestones of a bracket.

    Args:
        size: The number of trials that begin in the bracket.
        milestones: The times of the halvings, ascending, and last ``max_t``.
    """

    size: int
    milestones: tuple[float, ...]


def plan_band(max_t: float, reduction_factor: float) -> tuple[BracketPlan, ...]:
    """Return the brackets of a band, the most aggressive first.

    Bracket ``s`` begins with ``ceil((s_max + 1) / (s + 1) * eta**s)`` trials and halves them ``s`` times,
    first at ``int(max_t / eta**s)``; each milestone is ``eta`` times the one before, at most ``max_t``. A
    bracket whose first milestone would be 0 is left out.

    Args:
        max_t: The time at which every trial is stopped.
        reduction_factor: ``eta``: the ratio of the trials at a milestone to those that go on.
    """
    s_max = max(0, round(math.log(max_t) / math.log(reduction_factor)))
    plans = []
    for s in range(s_max, 0, -1):
        try:
            grown = reduction_factor**s
            first = int(max_t / grown)
        except OverflowError:  # eta**s is beyond all floats, and so beyond max_t
            continue
        if first < 1:
            continue
        milestones: list[float] = []
        milestone: float = first
        while len(milestones) < s and milestone < max_t:
            milestones.append(milestone)
            milestone = max(int(milestone * reduction_factor), milestone + 1)
        size = math.ceil((s_max + 1) * grown / (s + 1))
        plans.append(BracketPlan(size, (*milestones, max_t)))
    return (*plans, BracketPlan(s_max + 1, (max_t,)))


@dataclass(slots=True, eq=False)
class _Member:
    """A trial that has not ended.

    Args:
        trial_id: The id of the trial.
        order: The number of trials that were added before.
        bracket: The bracket of the trial.
        scores: The scores that the trial had when it first reached each milestone, in their order.
        is_waiting: Whether the scheduler paused the trial, and no event of the trial followed.
        resumed_past: The index of the last milestone that the trial may pass before its bracket is halved
            there, since its user resumed it; -1 for none.
        is_eliminated: Whether the trial was among the worse at a halving.
    """

    trial_id: str
    order: int
    bracket: _Bracket
    scores: list[float] = field(default_factory=list)
    is_waiting: bool = False
    resumed_past: int = -1
    is_eliminated: bool = False

    @property
    def is_held(self) -> bool:
        """Whether the trial has reached a milestone at which its bracket is not halved yet."""
        return len(self.scores) > self.bracket.stage

    def rank(self, stage: int) -> tuple[float, int]:
        """Return a sort key at a milestone: better scores first, of equal scores the earlier trial."""
        return -self.scores[stage], self.order


@dataclass(slots=True, eq=False)
class _Bracket:
    """Trials that are compared with each other.

    Args:
        number: The number of brackets that were opened before.
        plan: The size and the milestones of the bracket.
        stage: The index of the next milestone.
        is_closed: Whether no more trials are added.
        num_added: The number of trials that were added, without those removed before they started.
        members: The trials that have neither ended nor been eliminated, by id.
    """

    number: int
    plan: BracketPlan
    stage: int = 0
    is_closed: bool = False
    num_added: int = 0
    members: dict[str, _Member] = field(default_factory=dict)

    @property
    def is_last_stage(self) -> bool:
        """Whether no halving is left, so that the remaining trials go on to ``max_t``."""
        return self.stage >= len(self.plan.milestones) - 1

    @property
    def is_ready(self) -> bool:
        """Whether the bracket can be halved, since all remaining trials have reached its milestone."""
        return not self.is_last_stage and bool(self.members) and all(
            member.is_held for member in self.members.values()
        )  # fmt: skip

    def halve(self, eta: float, keep: _Member | None = None) -> list[_Member]:
        """Advance to the next milestone with the better trials, and return the eliminated ones.

        Args:
            eta: The ratio of the trials at a milestone to those that go on, whose number is rounded up.
            keep: A trial that goes on in any case.
        """
        ranked = sorted(self.members.values(), key=lambda member: member.rank(self.stage))
        worse = ranked[math.ceil(len(ranked) / eta) :]
        eliminated = [member for member in worse if member is not keep]
        for member in eliminated:
            member.is_eliminated = True
            del self.members[member.trial_id]
        self.stage += 1
        self.is_closed = True
        return eliminated

    def __str__(self) -> str:
        milestones = ", ".join(f"{milestone:g}" for milestone in self.plan.milestones)
        room = "" if self.is_closed else f" (room for {self.plan.size - self.num_added} more)"
        num_held = sum(member.is_held for member in self.members.values())
        held = "" if self.is_last_stage else f", where {num_held} are"
        count, goal = pluralize(len(self.members), "trial"), self.plan.milestones[self.stage]
        text = f"bracket {self.number}, milestones {milestones}: {count}{room} on the way to"
        return f"{text} {goal:g}{held}"


class HyperBandScheduler(TrialScheduler):
    """Trains many trials a little and the best of them long, in brackets of different sizes.

    Trials are assigned to brackets. At each milestone of its bracket a trial pauses until all unfinished
    trials of the bracket have reached the milestone; then the best ``1/reduction_factor`` of them, rounded
    up, go on to the next milestone, and the others end. The trials that remain after the last halving train
    until ``max_t``. With the defaults the brackets of a band are

    ====== ================
    trials milestones
    ====== ================
    81     1, 3, 9, 27, 81
    34     3, 9, 27, 81
    15     9, 27, 81
    8      27, 81
    5      81
    ====== ================

    and a new band follows when the band is full. A trial that fails or ends early leaves its bracket, which
    does not wait for it. When no new trial is to come, a bracket that is not full is halved with the trials
    that it has. Paused trials come before new trials, so that each bracket is finished soon.

    The score of a trial at a milestone is its metric when the trial first reaches the milestone or jumps
    over it. NaN is the worst value. Of equal trials those win that were added first.

    A paused trial that its user resumes by hand trains on to its next milestone, and is compared by the
    score that it had; if its bracket was only waiting for more trials to come, the bracket is halved now,
    and the trial goes on in any case.

    This differs from the system that the arguments come from. That system filled the brackets without any
    halving first, so that with few trials none was stopped early; here the most aggressive bracket comes
    first, as in the paper (https://jmlr.org/papers/v18/16-558.html). Also that system stopped survivors
    short of ``max_t``.

    Args:
        time_attr: The key of the results that is compared with milestones; its values grow.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        max_t: The time at which every trial is stopped, in units of ``time_attr``.
        reduction_factor: The ratio of the trials at a milestone to those that go on, more than 1.

    Raises:
        ConfigError: An argument is wrong.
    """

    needs_metric: ClassVar[bool] = True

    def __init__(
        self,
        time_attr: str = TRAINING_ITERATION,
        metric: str | None = None,
        mode: str | None = None,
        max_t: float = 81,
        reduction_factor: float = 3,
    ) -> None:
        super().__init__(metric, mode)
        name = type(self).__name__
        self.time_attr = check_key(name, "time_attr", time_attr)
        self.max_t = check_number(name, "max_t", max_t, above=0)
        self.reduction_factor = check_number(name, "reduction_factor", reduction_factor, above=1)
        halvings = math.log(self.max_t) / math.log(self.reduction_factor)
        if halvings > _MAX_HALVINGS:
            raise argument_error(
                name,
                "reduction_factor",
                f"large enough for at most {_MAX_HALVINGS} halvings",
                reduction_factor,
                f"this value makes {halvings:.0f} halvings before max_t={max_t!r}",
            )
        self._plans = plan_band(self.max_t, self.reduction_factor)
        self._num_brackets = 0
        self._num_trials = 0
        self._brackets: dict[int, _Bracket] = {}  # the unfinished brackets by number, ascending
        self._members: dict[str, _Member] = {}
        self._dismissed: dict[str, None] = {}

    @property
    def needs_checkpoints(self) -> bool:
        """Always true, since trials pause."""
        return True

    def on_trial_add(self, trial: Trial) -> None:
        bracket = next(reversed(self._brackets.values()), None)
        if bracket is None or bracket.is_closed:
            plan = self._plans[self._num_brackets % len(self._plans)]
            bracket = self._brackets[self._num_brackets] = _Bracket(self._num_brackets, plan)
            self._num_brackets += 1
        member = _Member(trial.trial_id, self._num_trials, bracket)
        self._num_trials += 1
        self._members[trial.trial_id] = bracket.members[trial.trial_id] = member
        bracket.num_added += 1
        bracket.is_closed = bracket.num_added >= bracket.plan.size

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        member = self._members.get(trial.trial_id)
        if time >= self.max_t or member is None or member.is_eliminated:
            if member is not None:
                self._stop_waiting(member)
            return Decision.STOP
        self._stop_waiting(member)
        bracket = member.bracket
        milestones = bracket.plan.milestones
        while time >= milestones[len(member.scores)]:
            member.scores.append(score)
        self._halve_if_ready(bracket)
        if trial.trial_id not in bracket.members:
            return Decision.STOP
        # A retry repeats milestones: the time of this result counts, not the number of scores.
        milestone = sum(time >= milestone for milestone in milestones) - 1
        if milestone < bracket.stage or milestone <= member.resumed_past:
            return Decision.CONTINUE
        member.is_waiting = True
        return Decision.PAUSE

    def on_trial_resume(self, trial: Trial) -> None:
        member = self._members.get(trial.trial_id)
        if member is None or not member.is_waiting:
            return
        self._stop_waiting(member)
        if member.is_eliminated:
            return
        if member.is_held:
            member.resumed_past = len(member.scores) - 1
            if member.bracket.is_ready:
                self._halve(member.bracket, keep=member)
                self._halve_if_ready(member.bracket)

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        self._remove_member(trial)

    def on_trial_error(self, trial: Trial) -> None:
        self._remove_member(trial)

    def on_trial_remove(self, trial: Trial) -> None:
        member = self._members.get(trial.trial_id)
        if member is not None:
            member.bracket.num_added -= 1
        self._remove_member(trial)

    def choose(self, free: Free) -> str | None:
        """Return a paused trial that is not held at a milestone; see the base class.

        If there is none, return None while new trials come.
        """
        waiting = []
        for trial_id in free.paused:
            member = self._members.get(trial_id)
            if member is None or not member.is_waiting:
                return trial_id  # the user paused this trial, and has released it since
            if not member.is_eliminated:
                waiting.append(member)
        survivors = [member for member in waiting if not member.is_held]
        if survivors:
            return _next_to_resume(survivors)
        if free.fresh:
            return None
        is_ready = {member.bracket.number: member.bracket.is_ready for member in waiting}
        unfilled = [member for member in waiting if is_ready[member.bracket.number]]
        if unfilled:
            return _next_to_resume(unfilled)
        # A bracket waits for a trial that its user has paused. If none went on now, all would be ended.
        return _next_to_resume(waiting) if waiting and free.is_last_chance else None

    def dismissed(self) -> Collection[str]:
        return tuple(self._dismissed)

    def debug_string(self) -> str:
        name, num_over = type(self).__name__, self._num_brackets - len(self._brackets)
        total = (
            f"{pluralize(self._num_trials, 'trial')} in {pluralize(self._num_brackets, 'bracket')}, "
            f"{num_over} of them over"
        )
        limits = (
            f"{self.time_attr} up to {self.max_t:g}, reduction_factor {self.reduction_factor:g}"
        )
        lines = [f"Using {name}: {limits}; {total}."]
        lines += [str(bracket) for bracket in list(self._brackets.values())[:_MAX_SHOWN]]
        if len(self._brackets) > _MAX_SHOWN:
            lines.append(f"... and {len(self._brackets) - _MAX_SHOWN} brackets more")
        return "\n".join(lines)

    def _stop_waiting(self, member: _Member) -> None:
        member.is_waiting = False
        self._dismissed.pop(member.trial_id, None)

    def _remove_member(self, trial: Trial) -> None:
        member = self._members.pop(trial.trial_id, None)
        if member is not None:
            self._dismissed.pop(trial.trial_id, None)
            member.bracket.members.pop(trial.trial_id, None)
            self._halve_if_ready(member.bracket)

    def _halve_if_ready(self, bracket: _Bracket) -> None:
        """Halve a closed bracket while all its trials have reached the milestone; drop an empty one."""
        while bracket.is_closed and bracket.is_ready:
            self._halve(bracket)
        if bracket.is_closed and not bracket.members:
            self._brackets.pop(bracket.number, None)

    def _halve(self, bracket: _Bracket, keep: _Member | None = None) -> None:
        for member in bracket.halve(self.reduction_factor, keep):
            if member.is_waiting:
                self._dismissed[member.trial_id] = None


class HyperBandForBOHB(HyperBandScheduler):
    """HyperBand as BOHB needs it (Falkner, Klein, Hutter 2018).

    Use it with :class:`~asynctune.suggest.BOHBSearch`, which suggests the configurations.

    The scheduler decides as :class:`HyperBandScheduler` does, which fulfils the demands of BOHB: the
    largest bracket comes first, a trial pauses at its milestone although its bracket is not full, and
    survivors come before new trials. The name shows that scheduler and searcher belong together; the
    arguments are the same. The searcher takes the ``time_attr`` of each result for the budget, so the two
    need no other connection: give both the same ``time_attr``.

    A limit to the concurrent trials of a searcher counts paused trials, too. The limit should let a whole
    bracket in, else brackets are halved with the few trials that they have.
    """


def _next_to_resume(waiting: Iterable[_Member]) -> str:
    """Return the id of the trial that goes on first: the last comparison's best of the oldest bracket."""

    def priority(member: _Member) -> tuple[int, float, int]:
        score, order = member.rank(min(member.bracket.stage, len(member.scores) - 1))
        return member.bracket.number, score, order

    return min(waiting, key=priority).trial_id
