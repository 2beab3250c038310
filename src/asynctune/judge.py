"""What is decided about a trial after each result: while it runs, and when its journal is replayed."""

from __future__ import annotations

from asynctune.errors import MetricMissing, TuneError
from asynctune.result import DONE, copy_row, flatten
from asynctune.schedulers import Decision, TrialScheduler
from asynctune.stopper import Stopper
from asynctune.trial import Status, StopReason, Trial


class Judge:
    """Asks the stopper and the scheduler, and tells the scheduler of trials that come and go.

    What it has been told is all in the journal and in the order of the journal, so a resume that tells it
    the same again finds it in the same state.

    Args:
        stopper: When trials stop.
        scheduler: How they go on.
        metric: What each result has to have, or None.
    """

    def __init__(self, stopper: Stopper, scheduler: TrialScheduler, metric: str | None) -> None:
        self._stopper = stopper
        self._scheduler = scheduler
        self._metric = metric

    def added(self, trial: Trial) -> None:
        """A trial was drawn."""
        self._scheduler.on_trial_add(trial)

    def result(self, trial: Trial) -> StopReason | None:
        """Decide about a trial's newest row: why it ends, or None.

        Raises:
            MetricMissing: The row lacks a metric that something waits for.
        """
        row = trial.last_result
        flat = flatten(row)
        if self._metric is not None and self._metric not in flat:
            raise MetricMissing(self._metric, flat)
        if self._stopper(trial.trial_id, copy_row(row)):
            return StopReason.CRITERION
        if row.get(DONE):
            return StopReason.DONE
        decision = self._scheduler.on_trial_result(trial, flat)
        if decision == Decision.STOP:
            return StopReason.SCHEDULER
        if decision != Decision.CONTINUE:
            raise TuneError(
                f"{type(self._scheduler).__name__}.on_trial_result() answered {decision!r}; CONTINUE "
                "or STOP is wanted"
            )
        return None

    def stops_all(self) -> bool:
        """Tell whether the whole run is to stop."""
        return self._stopper.stop_all()

    def ended(self, trial: Trial) -> None:
        """A trial is over."""
        if trial.status is Status.ERROR:
            self._scheduler.on_trial_error(trial)
        elif trial.started_at is None:
            self._scheduler.on_trial_remove(trial)
        else:
            self._scheduler.on_trial_complete(trial, flatten(trial.last_result))
