"""HyperBand: brackets of trials, of which the better go on at each milestone (Li et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from asynctune._checks import check_key, check_number
from asynctune.errors import ConfigError
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._rungs import counted
from asynctune.schedulers.base import Decision, Free, TrialScheduler, Verdict, score_of, time_of

_MOST_HALVINGS = 1_000
_MANY = 8


@dataclass(frozen=True, slots=True)
class BracketPlan:
    """What a bracket is to be.

    Args:
        size: How many trials begin in it.
        milestones: How far they come before each halving, ascending, and at the end ``max_t``.
    """

    size: int
    milestones: tuple[float, ...]


def plan_band(max_t: float, reduction_factor: float) -> tuple[BracketPlan, ...]:
    """Return the brackets of a band, the most aggressive first.

    Bracket ``s`` begins with ``ceil((s_max + 1) / (s + 1) * eta**s)`` trials and halves them ``s`` times,
    first at ``int(max_t / eta**s)``; each milestone is ``eta`` times the one before, at most ``max_t``. A
    bracket whose first milestone would be 0 is left out.

    Args:
        max_t: How far a trial comes at most.
        reduction_factor: ``eta``: one of how many goes on at a milestone.
    """
    s_max = max(0, round(math.log(max_t) / math.log(reduction_factor)))
    plans = []
    for s in range(s_max, 0, -1):
        try:
            grown = reduction_factor**s
            first = int(max_t / grown)
        except OverflowError:  # far beyond max_t
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
        trial_id: Its id.
        order: How many trials were added before it.
        bracket: Where it is.
        scores: What it had when it first came to each milestone, from the first on.
        waits: Whether it was told to pause, and nothing was heard of it since.
        let_go: The last milestone that its user let it pass, although its bracket was not there yet.
        is_lost: Whether others were better.
    """

    trial_id: str
    order: int
    bracket: _Bracket
    scores: list[float] = field(default_factory=list)
    waits: bool = False
    let_go: int = -1
    is_lost: bool = False

    @property
    def is_held(self) -> bool:
        """Whether it has come to a milestone at which its bracket is yet to be halved."""
        return len(self.scores) > self.bracket.stage

    def rank(self, stage: int) -> tuple[float, int]:
        """Return what sorts the better first; of equals the one that was added first."""
        return -self.scores[stage], self.order


@dataclass(slots=True, eq=False)
class _Bracket:
    """Trials that are compared with each other.

    Args:
        number: How many brackets were opened before it.
        plan: What it is to be.
        stage: At which milestone it is.
        is_closed: Whether no trial is added any more.
        num_begun: How many trials were added, but for those that never started.
        members: Those who are in the running, by id.
    """

    number: int
    plan: BracketPlan
    stage: int = 0
    is_closed: bool = False
    num_begun: int = 0
    members: dict[str, _Member] = field(default_factory=dict)

    @property
    def is_decided(self) -> bool:
        """Whether there is nothing to halve any more: who is left goes on to ``max_t``."""
        return self.stage >= len(self.plan.milestones) - 1

    @property
    def has_remote(self) -> bool:
        """Whether everyone has come to the milestone."""
        return not self.is_decided and bool(self.members) and all(
            member.is_held for member in self.members.values()
        )  # fmt: skip

    def halve(self, eta: float, keep: _Member | None = None) -> list[_Member]:
        """Go on to the next milestone with the better ones, and return the others.

        Args:
            eta: One of how many goes on, rounded up.
            keep: Goes on in any case.
        """
        ranked = sorted(self.members.values(), key=lambda member: member.rank(self.stage))
        lost = [member for member in ranked[math.ceil(len(ranked) / eta) :] if member is not keep]
        for member in lost:
            member.is_lost = True
            del self.members[member.trial_id]
        self.stage += 1
        self.is_closed = True
        return lost

    def __str__(self) -> str:
        milestones = ", ".join(f"{milestone:g}" for milestone in self.plan.milestones)
        to_come = "" if self.is_closed else f" (room for {self.plan.size - self.num_begun} more)"
        there = sum(member.is_held for member in self.members.values())
        waits = "" if self.is_decided else f", where {there} are"
        count, goal = counted(len(self.members), "trial"), self.plan.milestones[self.stage]
        text = f"bracket {self.number}, milestones {milestones}: {count}{to_come} on the way to"
        return f"{text} {goal:g}{waits}"


class HyperBandScheduler(TrialScheduler):
    """Trains many trials a little and the best of them long, in several mixtures of many and long.

    Trials are put into brackets. At each milestone of its bracket a trial pauses until all trials of the
    bracket that have not ended are there; then the best ``1/reduction_factor`` of them, rounded up, go on
    to the next milestone, and the others end. Who is left after the last halving trains until ``max_t``.
    With the defaults the brackets of a band are

    ====== ================
    trials milestones
    ====== ================
    81     1, 3, 9, 27, 81
    34     3, 9, 27, 81
    15     9, 27, 81
    8      27, 81
    5      81
    ====== ================

    and a new band follows when it is full. A trial that fails or ends early leaves its bracket, which does
    not wait for it. When no new trial is to come, a bracket that is not full is halved with those that it
    has. Who paused before comes before new trials, so that what was begun is finished soon.

    What counts is the metric that a trial has when it first comes to a milestone, or first jumps over it.
    NaN is the worst value. Of equals those win that were added first.

    A paused trial that its user lets go on by hand trains on to its next milestone, and is judged with the
    score that it had; if its bracket was only waiting for more trials to come, it is halved now, and
    the trial goes on in any case.

    This differs from the system that the arguments come from. There the brackets without any halving
    were filled first, so that with few trials none was stopped early; here the most aggressive is the
    first, as in the paper (https://jmlr.org/papers/v18/16-558.html). And there survivors stopped short of
    ``max_t``.

    Args:
        time_attr: What is compared with milestones: a key of the results that grows.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        max_t: How far a trial comes at most, in units of ``time_attr``; there it is stopped.
        reduction_factor: One of how many goes on at a milestone, more than 1.

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
        if halvings > _MOST_HALVINGS:
            raise ConfigError(
                f"reduction_factor of {name} is {reduction_factor!r}, so that a trial could be halved "
                f"{halvings:.0f} times before max_t={max_t!r}; at most {_MOST_HALVINGS} times is wanted"
            )
        self._plans = plan_band(self.max_t, self.reduction_factor)
        self._num_brackets = 0
        self._num_trials = 0
        self._brackets: dict[
            int, _Bracket
        ] = {}  # in the order of their numbers, but for what is over
        self._members: dict[str, _Member] = {}
        self._dismissed: dict[str, None] = {}

    @property
    def needs_checkpoints(self) -> bool:
        """Always: trials pause."""
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
        bracket.num_begun += 1
        bracket.is_closed = bracket.num_begun >= bracket.plan.size

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        member = self._members.get(trial.trial_id)
        if time >= self.max_t or member is None or member.is_lost:
            if member is not None:
                self._has_heard(member)
            return Decision.STOP
        self._has_heard(member)
        bracket = member.bracket
        milestones = bracket.plan.milestones
        while time >= milestones[len(member.scores)]:
            member.scores.append(score)
        self._settle(bracket)
        if trial.trial_id not in bracket.members:
            return Decision.STOP
        # A retry comes by its milestones again: where it is now counts, not where it was before.
        here = sum(time >= milestone for milestone in milestones) - 1
        if here < bracket.stage or here <= member.let_go:
            return Decision.CONTINUE
        member.waits = True
        return Decision.PAUSE

    def on_trial_resume(self, trial: Trial) -> None:
        member = self._members.get(trial.trial_id)
        if member is None or not member.waits:
            return
        self._has_heard(member)
        if member.is_lost:
            return
        if member.is_held:
            member.let_go = len(member.scores) - 1
            if member.bracket.has_remote:
                self._halve(member.bracket, keep=member)
                self._settle(member.bracket)

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        self._forget(trial)

    def on_trial_error(self, trial: Trial) -> None:
        self._forget(trial)

    def on_trial_remove(self, trial: Trial) -> None:
        member = self._members.get(trial.trial_id)
        if member is not None:
            member.bracket.num_begun -= 1
        self._forget(trial)

    def choose(self, free: Free) -> str | None:
        """Name a paused trial that nothing holds, else none while new trials come; see the base class."""
        waiting = []
        for trial_id in free.paused:
            member = self._members.get(trial_id)
            if member is None or not member.waits:
                return trial_id  # its user paused it, and an earlier driver was the last to know
            if not member.is_lost:
                waiting.append(member)
        survivors = [member for member in waiting if not member.is_held]
        if survivors:
            return _first(survivors)
        if free.fresh:
            return None
        there = {member.bracket.number: member.bracket.has_remote for member in waiting}
        unfilled = [member for member in waiting if there[member.bracket.number]]
        if unfilled:
            return _first(unfilled)
        # Some bracket waits for a trial that its user has paused: rather than end all, go on without it.
        return _first(waiting) if waiting and free.is_last_chance else None

    def dismissed(self) -> Collection[str]:
        return tuple(self._dismissed)

    def debug_string(self) -> str:
        name, over = type(self).__name__, self._num_brackets - len(self._brackets)
        total = (
            f"{counted(self._num_trials, 'trial')} in {counted(self._num_brackets, 'bracket')}, "
            f"{over} of them over"
        )
        limits = (
            f"{self.time_attr} up to {self.max_t:g}, reduction_factor {self.reduction_factor:g}"
        )
        lines = [f"Using {name}: {limits}; {total}."]
        lines += [str(bracket) for bracket in list(self._brackets.values())[:_MANY]]
        if len(self._brackets) > _MANY:
            lines.append(f"... and {len(self._brackets) - _MANY} brackets more")
        return "\n".join(lines)

    def _has_heard(self, member: _Member) -> None:
        member.waits = False
        self._dismissed.pop(member.trial_id, None)

    def _forget(self, trial: Trial) -> None:
        member = self._members.pop(trial.trial_id, None)
        if member is not None:
            self._dismissed.pop(trial.trial_id, None)
            member.bracket.members.pop(trial.trial_id, None)
            self._settle(member.bracket)

    def _settle(self, bracket: _Bracket) -> None:
        """Halve a bracket as often as it is time to."""
        while bracket.is_closed and bracket.has_remote:
            self._halve(bracket)
        if bracket.is_closed and not bracket.members:
            self._brackets.pop(bracket.number, None)

    def _halve(self, bracket: _Bracket, keep: _Member | None = None) -> None:
        for member in bracket.halve(self.reduction_factor, keep):
            if member.waits:
                self._dismissed[member.trial_id] = None


class HyperBandForBOHB(HyperBandScheduler):
    """HyperBand as BOHB needs it (Falkner, Klein, Hutter 2018).

    It is for use with :class:`~asynctune.suggest.BOHBSearch`, which suggests what it tries.

    It decides as :class:`HyperBandScheduler` does, which does what BOHB asks for: the largest bracket comes
    first, a trial pauses at its milestone although its bracket is not full, and who survived comes before
    new trials. The name tells that both belong together; the arguments are the same. The searcher
    takes the ``time_attr`` of each result for the budget, so nothing has to be handed over between the two:
    give both the same ``time_attr``.

    A limit to how many trials a searcher has at once counts those that are paused, too. It should let a
    whole bracket in, else brackets are halved with the few that they have.
    """


def _first(waiting: Iterable[_Member]) -> str:
    """Return who goes on first: of the oldest bracket the one that was best when it was last compared."""

    def place(member: _Member) -> tuple[int, float, int]:
        score, order = member.rank(min(member.bracket.stage, len(member.scores) - 1))
        return member.bracket.number, score, order

    return min(waiting, key=place).trial_id
