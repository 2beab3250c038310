"""What is decided about a trial after each result: while it runs, and when its journal is replayed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from asynctune._checks import safe_repr
from asynctune.errors import MetricMissing, TuneError
from asynctune.experiment.status import Status, StopReason
from asynctune.experiment.trial import Trial
from asynctune.result import DONE, Row, copy_row, flatten
from asynctune.schedulers import Decision, Exploit, Free, TrialScheduler, Verdict
from asynctune.schedulers.stoppers.base import Stopper
from asynctune.suggest.ask_tell import AskTell


@dataclass(frozen=True, slots=True)
class RowDecision:
    """What was decided about a trial at a row.

    Args:
        stop_reason: Why it ends, None if it does not.
        decision: What the scheduler said.
    """

    stop_reason: StopReason | None = None
    decision: Verdict = Decision.CONTINUE


NOTHING = RowDecision()


class Decider:
    """Asks the stopper and the scheduler, and tells the scheduler of trials that come and go.

    What it has been told is all in the journal and in the order of the journal, so a resume that tells it
    the same again finds it in the same state.

    Args:
        stopper: When trials stop.
        scheduler: How they go on.
        metric: What each result has to have, or None.
        ask_tell: Who else is told what became of the trials.
    """

    def __init__(
        self,
        stopper: Stopper,
        scheduler: TrialScheduler,
        metric: str | None,
        ask_tell: AskTell,
    ) -> None:
        self._stopper = stopper
        self._scheduler = scheduler
        self._metric = metric
        self._ask_tell = ask_tell

    def added(self, trial: Trial) -> None:
        """A trial was drawn."""
        self._scheduler.on_trial_add(trial)

    def result(self, trial: Trial) -> RowDecision:
        """Decide about a trial's newest row.

        Raises:
            MetricMissing: The row lacks a metric that something waits for.
        """
        row = trial.last_result
        flat = flatten(row)
        if self._metric is not None and self._metric not in flat:
            raise MetricMissing(self._metric, flat)
        decision = self._decide(trial, row, flat)
        self._ask_tell.note_result(trial.trial_id, flat)
        return decision

    def _decide(self, trial: Trial, row: Row, flat: Row) -> RowDecision:
        if self._stopper(trial.trial_id, copy_row(row)):
            return RowDecision(StopReason.CRITERION)
        if row.get(DONE):
            return RowDecision(StopReason.DONE)
        decision = self._scheduler.on_trial_result(trial, flat)
        if isinstance(decision, Exploit):
            return RowDecision(decision=decision)
        if decision not in tuple(Decision):
            raise TuneError(
                f"{type(self._scheduler).__name__}.on_trial_result() answered {safe_repr(decision)}; "
                f"{', '.join(Decision)} or an Exploit is wanted"
            )
        decision = Decision(decision)
        return RowDecision(StopReason.SCHEDULER if decision is Decision.STOP else None, decision)

    def resumed(self, trial: Trial) -> None:
        """A paused trial goes on."""
        self._scheduler.on_trial_resume(trial)

    def choose(self, free: Free) -> str | None:
        """Say which paused trial goes on; None: a new one, or nobody.

        Raises:
            TuneError: The scheduler named one that is not paused.
        """
        chosen = self._scheduler.choose(free)
        if chosen is not None and chosen not in free.paused:
            raise TuneError(
                f"{type(self._scheduler).__name__}.choose() answered "
                f"{safe_repr(chosen)}; one of the paused "
                f"trials ({', '.join(free.paused) or 'there are none'}) or None is wanted"
            )
        return chosen

    def dismissed(self) -> Collection[str]:
        """Return the paused trials that the scheduler has done with."""
        return self._scheduler.dismissed()

    def stops_run(self) -> bool:
        """Tell whether the whole run is to stop."""
        return self._stopper.stop_all()

    def ended(self, trial: Trial) -> None:
        """A trial is over."""
        self.notify_searcher(trial)
        if trial.status is Status.ERROR:
            self._scheduler.on_trial_error(trial)
        elif trial.started_at is None:
            self._scheduler.on_trial_remove(trial)
        else:
            self._scheduler.on_trial_complete(trial, flatten(trial.last_result))

    def notify_searcher(self, trial: Trial) -> None:
        """Let the searcher know that a trial is over, unless it was only cut short."""
        if trial.stop_reason is None or not trial.stop_reason.is_interruption:
            failed = trial.status is Status.ERROR
            self._ask_tell.note_end(trial.trial_id, flatten(trial.last_result), error=failed)
