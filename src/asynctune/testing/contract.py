"""A scheduler that is told of trials as the runner tells it, and what it may answer then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from asynctune.experiment import events as ev
from asynctune.experiment.trial import Trial
from asynctune.result import Row
from asynctune.schedulers import Decision, Exploit, Free, TrialScheduler, Verdict


class ContractBroken(AssertionError):
    """A scheduler did what no scheduler may do."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a scheduler.

    Args:
        method: Its name.
        trial_id: The trial that it was about, "" for none.
        given: The row, or the :class:`~asynctune.schedulers.Free`, or None.
        answer: What it answered.
    """

    method: str
    trial_id: str = ""
    given: Any = None
    answer: Any = None

    @property
    def is_query(self) -> bool:
        """Whether it may change nothing; a resume does not repeat it."""
        return self.method in ("choose", "dismissed")


@dataclass(frozen=True, slots=True)
class Happened:
    """What became of a trial, between two calls.

    Args:
        event: As a journal has it.
        place: Which row it brought, if it did.
    """

    event: ev.Event
    place: int = -1


Step: TypeAlias = Call | Happened


@dataclass(frozen=True, slots=True)
class Played:
    """What was played.

    Args:
        steps: All that happened and was asked, in order.
        trials: The trials at the end, by id.
        objective: The metric and mode.
        seed: What the scheduler began with.
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
        """Return what was decided about a trial, result by result."""
        return [
            call.answer
            for call in self.calls
            if call.method == "on_trial_result" and call.trial_id == trial_id
        ]


class Told:
    """A scheduler, the trials that it is told of, and a record of both.

    Args:
        make: Makes the scheduler.
        objective: The metric and mode of the run.
        seed: What it begins with.
        most_calls: How many calls a run is expected to need at most.
    """

    def __init__(
        self,
        make: Callable[[], TrialScheduler],
        objective: tuple[str | None, str | None],
        seed: int,
        most_calls: int,
    ) -> None:
        self.scheduler = make()
        self.scheduler.bind(*objective)
        self.scheduler.begin(seed)
        self.name = type(self.scheduler).__name__
        self.steps: list[Step] = []
        self.trials: dict[str, Trial] = {}
        self._rows: list[Row] = []
        self._may_be_dismissed: dict[str, None] = {}
        self._most_calls = most_calls

    def happens(self, event: ev.Event) -> None:
        """Let something become of a trial."""
        place = -1
        if isinstance(event, ev.Reported):
            place = len(self._rows)
            self._rows.append(event.row)
        self._apply(Happened(event, place))

    def tell(self, method: str, trial: Trial, *given: Row) -> Any:
        """Tell the scheduler, and return its answer.

        Args:
            method: Which one is called.
            trial: The trial.
            given: The row, if there is one.
        """
        self._count()
        answer = getattr(self.scheduler, method)(trial, *(dict(row) for row in given))
        if method == "on_trial_result":
            answer = self._checked(answer)
        self._note(Call(method, trial.trial_id, dict(given[0]) if given else None, answer))
        return answer

    def choose(self, free: Free) -> str | None:
        """Ask who goes on; twice, for asking changes nothing."""
        self._count()
        chosen = self.scheduler.choose(free)
        if chosen is not None and chosen not in free.paused:
            raise ContractBroken(f"{self.name}.choose() answered {chosen!r} of {free.paused}")
        again = self.scheduler.choose(free)
        if again != chosen:
            raise ContractBroken(f"{self.name}.choose() answered {chosen!r}, and then {again!r}")
        self._note(Call("choose", given=free, answer=chosen))
        return chosen

    def dismissed(self) -> tuple[str, ...]:
        """Ask who is done with; twice, for asking changes nothing."""
        self._count()
        dismissed = tuple(self.scheduler.dismissed())
        strangers = [trial_id for trial_id in dismissed if trial_id not in self._may_be_dismissed]
        if strangers:
            raise ContractBroken(f"{self.name}.dismissed() names {strangers}, who are not paused")
        if tuple(self.scheduler.dismissed()) != dismissed:
            raise ContractBroken(f"{self.name}.dismissed() answers differently when asked again")
        self._note(Call("dismissed", answer=dismissed))
        return dismissed

    def again(self, steps: Sequence[Step], asked_from: int) -> None:
        """Tell the scheduler what another was told, and see that it answers the same.

        Args:
            steps: What the other was told.
            asked_from: The first step at which it is asked, too.
        """
        for number, step in enumerate(steps):
            if isinstance(step, Happened):
                if isinstance(step.event, ev.Reported):
                    self._rows.append(step.event.row)
                self._apply(step)
                continue
            if not step.is_query or number >= asked_from:
                answer = self._asked_again(step)
                if answer != step.answer:
                    raise ContractBroken(
                        f"told the same again, {self.name}.{step.method}({step.trial_id}) answers "
                        f"{answer!r} and not {step.answer!r} (step {number} of {len(steps)})"
                    )
            self._note(step)

    def _asked_again(self, call: Call) -> Any:
        method = getattr(self.scheduler, call.method)
        if call.method == "choose":
            return method(call.given)
        if call.method == "dismissed":
            return tuple(method())
        row = () if call.given is None else (dict(call.given),)
        answer = method(self.trials[call.trial_id], *row)
        return answer if call.method == "on_trial_result" else call.answer

    def _note(self, call: Call) -> None:
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
            self.trials[event.trial_id].apply(event, step.place)

    def _read(self, places: Sequence[int]) -> list[Row]:
        return [self._rows[place] for place in places]

    def _checked(self, answer: Any) -> Verdict:
        verdict: Verdict
        if isinstance(answer, Exploit) and isinstance(answer.config, dict):
            verdict = answer
        elif answer in tuple(Decision):
            verdict = Decision(answer)
        else:
            raise ContractBroken(f"{self.name}.on_trial_result() answered {answer!r}")
        if (
            verdict not in (Decision.CONTINUE, Decision.STOP)
            and not self.scheduler.needs_checkpoints
        ):
            raise ContractBroken(f"{self.name} says {verdict} but not that it needs checkpoints")
        return verdict

    def _count(self) -> None:
        if len(self.steps) > self._most_calls:
            waits = ", ".join(
                name for name, trial in self.trials.items() if not trial.status.is_final
            )
            raise ContractBroken(
                f"after {self._most_calls} steps with {self.name} there is no end; not ended: {waits}"
            )
