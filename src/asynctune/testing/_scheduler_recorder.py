"""A scheduler in a scripted run: it is called as the runner calls it, and all calls are recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from asynctune.experiment import events as ev
from asynctune.experiment.trial import Trial
from asynctune.result import Row
from asynctune.schedulers import Decision, Exploit, Free, TrialScheduler, Verdict


class ContractBroken(AssertionError):
    """A scheduler did something that the contract of schedulers forbids."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a scheduler.

    Args:
        method: The name of the method.
        trial_id: The id of the trial; ``""`` for a call without a trial.
        given: The row, or the :class:`~asynctune.schedulers.Free`, or None.
        answer: The return value.
    """

    method: str
    trial_id: str = ""
    given: Any = None
    answer: Any = None

    @property
    def is_query(self) -> bool:
        """Whether the call must not change the scheduler. A resume does not repeat such calls."""
        return self.method in ("choose", "dismissed")


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of a trial, between two calls.

    Args:
        event: The event, as in a journal.
        row: The number of the row that the event reports; -1 if it reports none.
    """

    event: ev.Event
    row: int = -1


Step: TypeAlias = Call | Happened


@dataclass(frozen=True, slots=True)
class Played:
    """The record of a scripted run.

    Args:
        steps: All events and calls, in order.
        trials: The trials at the end of the run, by id.
        objective: The metric and the mode.
        seed: The seed of the scheduler.
    """

    steps: tuple[Step, ...]
    trials: dict[str, Trial]
    objective: tuple[str | None, str | None]
    seed: int

    @property
    def calls(self) -> list[Call]:
        """All calls, in order."""
        return [step for step in self.steps if isinstance(step, Call)]

    def verdicts(self, trial_id: str) -> list[Verdict]:
        """Return the decisions about a trial, result by result."""
        return [
            call.answer
            for call in self.calls
            if call.method == "on_trial_result" and call.trial_id == trial_id
        ]


class SchedulerRecorder:
    """Calls a scheduler, checks its answers, and records the calls and the events of the trials.

    Args:
        make: A function that returns the scheduler.
        objective: The metric and the mode of the run.
        seed: The seed of the scheduler.
        most_steps: The number of steps after which the run counts as endless.
    """

    def __init__(
        self,
        make: Callable[[], TrialScheduler],
        objective: tuple[str | None, str | None],
        seed: int,
        most_steps: int,
    ) -> None:
        self.scheduler = make()
        self.scheduler.bind(*objective)
        self.scheduler.begin(seed)
        self.name = type(self.scheduler).__name__
        self.steps: list[Step] = []
        self.trials: dict[str, Trial] = {}
        self._rows: list[Row] = []
        self._may_be_dismissed: dict[str, None] = {}
        self._most_steps = most_steps

    def record(self, event: ev.Event) -> None:
        """Apply an event to its trial."""
        row = -1
        if isinstance(event, ev.Reported):
            row = len(self._rows)
            self._rows.append(event.row)
        self._apply(Happened(event, row))

    def notify(self, method: str, trial: Trial, *given: Row) -> Any:
        """Call a method of the scheduler with a trial, and return the answer.

        Args:
            method: The name of the method.
            trial: The trial.
            *given: The row, if the method takes one.
        """
        self._check_length()
        answer = getattr(self.scheduler, method)(trial, *(dict(row) for row in given))
        if method == "on_trial_result":
            answer = self._checked(answer)
        self._add_call(Call(method, trial.trial_id, dict(given[0]) if given else None, answer))
        return answer

    def choose(self, free: Free) -> str | None:
        """Call ``choose`` twice, since the call must not change the scheduler, and return the answer."""
        self._check_length()
        chosen = self.scheduler.choose(free)
        if chosen is not None and chosen not in free.paused:
            raise ContractBroken(f"{self.name}.choose() returned {chosen!r} of {free.paused}")
        again = self.scheduler.choose(free)
        if again != chosen:
            raise ContractBroken(f"{self.name}.choose() returned {chosen!r}, and then {again!r}")
        self._add_call(Call("choose", given=free, answer=chosen))
        return chosen

    def dismissed(self) -> tuple[str, ...]:
        """Call ``dismissed`` twice, since the call must not change the scheduler, and return the answer."""
        self._check_length()
        dismissed = tuple(self.scheduler.dismissed())
        others = [trial_id for trial_id in dismissed if trial_id not in self._may_be_dismissed]
        if others:
            raise ContractBroken(
                f"{self.name}.dismissed() returned {others}, which are not paused by it"
            )
        if tuple(self.scheduler.dismissed()) != dismissed:
            raise ContractBroken(f"{self.name}.dismissed() returned another answer the second time")
        self._add_call(Call("dismissed", answer=dismissed))
        return dismissed

    def repeat(self, steps: Sequence[Step], asked_from: int) -> None:
        """Repeat the steps of another scheduler, and compare the answers.

        Args:
            steps: The events and calls of the other scheduler.
            asked_from: The first step from which on queries are repeated, too.
        """
        for number, step in enumerate(steps):
            if isinstance(step, Happened):
                if isinstance(step.event, ev.Reported):
                    self._rows.append(step.event.row)
                self._apply(step)
                continue
            if not step.is_query or number >= asked_from:
                answer = self._repeated(step)
                if answer != step.answer:
                    raise ContractBroken(
                        f"after the same calls {self.name}.{step.method}({step.trial_id}) returned "
                        f"{answer!r} and not {step.answer!r} (step {number} of {len(steps)})"
                    )
            self._add_call(step)

    def _repeated(self, call: Call) -> Any:
        method = getattr(self.scheduler, call.method)
        if call.method == "choose":
            return method(call.given)
        if call.method == "dismissed":
            return tuple(method())
        row = () if call.given is None else (dict(call.given),)
        answer = method(self.trials[call.trial_id], *row)
        return answer if call.method == "on_trial_result" else call.answer

    def _add_call(self, call: Call) -> None:
        self.steps.append(call)
        if call.trial_id:
            self._may_be_dismissed.pop(call.trial_id, None)
        if call.answer is Decision.PAUSE:
            self._may_be_dismissed[call.trial_id] = None

    def _apply(self, step: Happened) -> None:
        self.steps.append(step)
        event = step.event
        assert not isinstance(event, ev.RunStarted | ev.RunEnded)
        if isinstance(event, ev.TrialAdded):
            self.trials[event.trial_id] = Trial(event, directory="/played", read_rows=self._read)
        else:
            self.trials[event.trial_id].apply(event, step.row)

    def _read(self, numbers: Sequence[int]) -> list[Row]:
        return [self._rows[number] for number in numbers]

    def _checked(self, answer: Any) -> Verdict:
        decision: Verdict
        if isinstance(answer, Exploit) and isinstance(answer.config, dict):
            decision = answer
        elif answer in tuple(Decision):
            decision = Decision(answer)
        else:
            raise ContractBroken(f"{self.name}.on_trial_result() returned {answer!r}")
        if (
            decision not in (Decision.CONTINUE, Decision.STOP)
            and not self.scheduler.needs_checkpoints
        ):
            raise ContractBroken(
                f"{self.name}.on_trial_result() returned {decision}, but needs_checkpoints is False"
            )
        return decision

    def _check_length(self) -> None:
        if len(self.steps) > self._most_steps:
            waiting = ", ".join(
                name for name, trial in self.trials.items() if not trial.status.is_final
            )
            raise ContractBroken(
                f"the run with {self.name} has not ended after {self._most_steps} steps; unfinished "
                f"trials: {waiting}"
            )
