"""Decides after each row how its trial goes on, in a run and in the replay of a journal."""

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
    """The decision about a trial at one of its rows.

    Args:
        stop_reason: The reason why the trial ends at this row, None if it goes on.
        decision: The decision of the scheduler.
    """

    stop_reason: StopReason | None = None
    decision: Verdict = Decision.CONTINUE


NOTHING = RowDecision()


class Decider:
    """Asks stopper and scheduler for decisions, and notifies scheduler and searcher of the trials.

    All notifications follow events of the journal, in the order of the journal. A resume that replays the
    journal therefore brings stopper, scheduler and searcher into the same state.

    Args:
        stopper: The stopper of the run.
        scheduler: The scheduler of the run.
        metric: The metric that each row must have, or None.
        ask_tell: The queue in front of the searcher.
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

    def trial_added(self, trial: Trial) -> None:
        """Notify the scheduler of a new trial."""
        self._scheduler.on_trial_add(trial)

    def decide(self, trial: Trial) -> RowDecision:
        """Decide how a trial goes on after its newest row, and queue the row for the searcher.

        Raises:
            MetricMissing: The row lacks the metric of the run, of the stopper or of the scheduler.
        """
        row = trial.last_result
        flat = flatten(row)
        if self._metric is not None and self._metric not in flat:
            raise MetricMissing(self._metric, flat)
        decision = self._decide(trial, row, flat)
        self._ask_tell.queue_result(trial.trial_id, flat)
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
                f"{type(self._scheduler).__name__}.on_trial_result() must return {', '.join(Decision)} or "
                f"an Exploit, got {safe_repr(decision)}"
            )
        decision = Decision(decision)
        return RowDecision(StopReason.SCHEDULER if decision is Decision.STOP else None, decision)

    def trial_resumed(self, trial: Trial) -> None:
        """Notify the scheduler that a paused trial goes on."""
        self._scheduler.on_trial_resume(trial)

    def choose(self, free: Free) -> str | None:
        """Return the id of the paused trial that goes on, None for a new trial or none at all.

        Raises:
            TuneError: The scheduler chose a trial that is not paused.
        """
        chosen = self._scheduler.choose(free)
        if chosen is not None and chosen not in free.paused:
            raise TuneError(
                f"{type(self._scheduler).__name__}.choose() must return None or the id of a paused trial "
                f"({', '.join(free.paused) or 'none is paused'}), got {safe_repr(chosen)}"
            )
        return chosen

    def dismissed(self) -> Collection[str]:
        """Return the ids of the paused trials that the scheduler will never resume."""
        return self._scheduler.dismissed()

    def stops_run(self) -> bool:
        """Return whether the stopper ends the whole run."""
        return self._stopper.stop_all()

    def trial_ended(self, trial: Trial) -> None:
        """Notify searcher and scheduler that a trial has ended."""
        self.notify_searcher(trial)
        if trial.status is Status.ERROR:
            self._scheduler.on_trial_error(trial)
        elif trial.started_at is None:
            self._scheduler.on_trial_remove(trial)
        else:
            self._scheduler.on_trial_complete(trial, flatten(trial.last_result))

    def notify_searcher(self, trial: Trial) -> None:
        """Notify the searcher that a trial has ended, unless only the end of the run ended it."""
        if trial.stop_reason is None or not trial.stop_reason.is_interruption:
            failed = trial.status is Status.ERROR
            self._ask_tell.queue_end(trial.trial_id, flatten(trial.last_result), error=failed)
