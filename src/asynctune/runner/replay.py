"""Replays the journal of the previous runs, and decides how each of their trials goes on.

The replay applies all events to the state of the new run, and makes the same decisions in the same order. A
trial is final if it was done, failed for good, was stopped by the user or the scheduler, or reached a
criterion that still holds. All other trials go on from their last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from asynctune.errors import MetricMissing
from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.state import ExperimentState
from asynctune.experiment.status import Status, StopReason
from asynctune.experiment.trial import Trial
from asynctune.result import shown
from asynctune.runner.decisions import NOTHING, Decider
from asynctune.runner.live_trial import LiveTrial
from asynctune.schedulers import Decision, Exploit
from asynctune.suggest.ask_tell import AskTell


@dataclass(frozen=True, slots=True)
class ResumedTrial:
    """How a trial of a previous run goes on.

    Args:
        trial: The trial.
        stop_reason: The stop reason of a trial whose last row ends the trial, whether its driver still
            recorded the end or died before; None for others.
        reopened: The event to record first, or None.
        paused: The event to record after that, or None.
        notice: The warning for the user, or "".
    """

    trial: LiveTrial
    stop_reason: StopReason | None = None
    reopened: ev.TrialReopened | None = None
    paused: ev.TrialPaused | None = None
    notice: str = ""


class Replay:
    """Replays a journal into the state of a new run.

    Args:
        history: The previous runs of the experiment.
        state: The state of the new run, empty.
        decider: The decider of the new run, before its first notification.
        ask_tell: The queue in front of the searcher, before its first suggestion.
        errored: Whether failed trials are retried.
        exports: Whether the run exports each trial at its end.
    """

    def __init__(
        self,
        history: History,
        state: ExperimentState[LiveTrial],
        decider: Decider,
        ask_tell: AskTell,
        *,
        errored: bool,
        exports: bool,
    ) -> None:
        self._history = history
        self._state = state
        self._decider = decider
        self._ask_tell = ask_tell
        self._errored = errored
        self._exports = exports
        self._failed_for_good: set[str] = set()
        self._final: set[str] = set()
        self._notices: dict[str, str] = {}
        self.dropped: dict[str, list[str]] = {}
        """Checkpoints by trial that the last run recorded as dropped, and may not have removed."""

    def run(self) -> None:
        """Replay all events. Blocks, and calls the user's stopper, scheduler and searcher."""
        for offset, event in self._history.reader.events():
            if isinstance(event, ev.Exploited):
                self._give_config(event)
            self._state.apply(event, offset)
            if not isinstance(event, ev.RunStarted | ev.RunEnded):
                self._apply(event, offset, self._state.trials[event.trial_id])
            elif isinstance(event, ev.RunStarted):
                self.dropped.clear()

    def unfinished(self) -> list[LiveTrial]:
        """Return the trials that are not final."""
        trials = self._state.trials.values()
        return [trial for trial in trials if trial.trial_id not in self._final]

    def resumed_trials(self, now: float) -> Iterator[ResumedTrial]:
        """Yield every trial that is not final, in the order in which the trials were drawn.

        Args:
            now: The wall time of the events, in seconds since 1970.
        """
        for trial in list(self._state.trials.values()):
            if trial.trial_id in self._final:
                if trial.trial_id in self._notices:
                    yield ResumedTrial(trial, notice=self._notices[trial.trial_id])
                continue
            failed = trial.trial_id in self._failed_for_good and not self._errored
            stop_reason = StopReason.FAILED if failed else trial.decided_stop
            at_once = failed or not (trial.status.is_final or self._can_export(trial))
            if stop_reason is not None and at_once:
                yield ResumedTrial(trial, stop_reason=stop_reason)
                continue
            if not trial.is_rebuildable:
                yield ResumedTrial(
                    trial, stop_reason=StopReason.CANCELLED, notice=_not_rebuildable(trial)
                )
                continue
            if trial.status is Status.PAUSED:
                trial.is_held = False  # the handle that held the trial is gone
                yield ResumedTrial(trial)
                continue
            because = self._because(trial)
            if because is None:
                yield ResumedTrial(trial)
                continue
            begin = trial.known_checkpoints[
                -1:
            ]  # checkpoints that could not be restored get another try
            sequence = begin[0].sequence if begin else -1
            notice = ""
            if not begin and trial.num_results:
                notice = f"{trial.name} has no checkpoint and begins again"
            attempt = trial.attempt + (trial.started_at is not None)
            event = ev.TrialReopened(trial.trial_id, attempt, because, sequence, now)
            paused = ev.TrialPaused(trial.trial_id, sequence, now)
            waits = self._waits(trial)
            yield ResumedTrial(
                trial, reopened=event, paused=paused if waits else None, notice=notice
            )

    def _apply(self, event: ev.Event, offset: int, trial: LiveTrial) -> None:
        """Repeat the notifications and decisions that followed an event of a trial."""
        match event:
            case ev.TrialAdded():
                if event.drawn is not None:
                    config = trial.config if trial.is_rebuildable else None
                    self._ask_tell.replay(event, config)
                self._decider.trial_added(trial)
            case ev.TrialResumed():
                self._decider.trial_resumed(trial)
            case ev.Reported():
                try:
                    trial.set_decision(self._decider.decide(trial))
                except MetricMissing:  # ended that run; the trainable may report the metric now
                    trial.set_decision(NOTHING)
            case ev.TrialFailed() if not event.again:
                self._failed_for_good.add(trial.trial_id)
            case ev.TrialReopened():
                self._failed_for_good.discard(trial.trial_id)
            case ev.Checkpointed():
                path = trial.path_of(event.path)
                # The trial has saved the checkpoint again.
                if path in self.dropped.get(trial.trial_id, ()):
                    self.dropped[trial.trial_id].remove(path)
            case ev.CheckpointDropped():
                dropped = self.dropped.setdefault(trial.trial_id, [])
                dropped.append(trial.path_of(event.path))
            case ev.TrialEnded() if self._history.end_offsets[trial.trial_id] == offset:
                if self._is_final(trial):
                    self._final.add(trial.trial_id)
                    self._decider.trial_ended(trial)
                else:
                    self._decider.notify_searcher(trial)
            case ev.TrialEnded():
                self._decider.notify_searcher(trial)  # as it was then, whatever followed

    def _give_config(self, event: ev.Exploited) -> None:
        """Give a trial the configuration of the repeated exploit, which holds objects unlike the event."""
        trial = self._state.trials[event.trial_id]
        decision = trial.decision
        if isinstance(decision, Exploit) and shown(decision.config) == event.config:
            trial.next_config = decision.config

    def _waits(self, trial: LiveTrial) -> bool:
        """Return whether the scheduler paused a trial at its last row, and that row has a checkpoint."""
        checkpoint = trial.checkpoint
        return (
            trial.decision == Decision.PAUSE
            and checkpoint is not None
            and checkpoint.sequence == trial.last_sequence
        )

    def _is_final(self, trial: LiveTrial) -> bool:
        """Return whether a trial that has ended stays ended; keep a notice if users may not expect so."""
        stop_reason = trial.decided_stop
        if trial.status is Status.ERROR:
            final = not self._errored
        elif trial.stop_reason is not None and trial.stop_reason.is_interruption:
            final = stop_reason is not None  # the trial would have ended at its last row anyway
        elif trial.stop_reason is StopReason.CRITERION:
            final = stop_reason is not None or not trial.num_results
        else:
            final = True
        if final:
            return True
        if not trial.is_rebuildable:
            self._notices[trial.trial_id] = _not_rebuildable(trial)
            return True
        # A trial that was cut short begins again without a checkpoint. One that reached its criterion has
        # done what was asked of it then, so a raised criterion alone does not repeat its training.
        reached_criterion = trial.stop_reason is StopReason.CRITERION
        if reached_criterion and trial.checkpoint is None:
            self._notices[trial.trial_id] = (
                f"{trial.name} stays ended ({trial.stop_reason}): the trial has no checkpoint to go on from"
            )
            return True
        return False

    def _can_export(self, trial: LiveTrial) -> bool:
        """Return whether a trial whose driver died before the export can still be exported."""
        checkpoint = trial.checkpoint
        return (
            self._exports and checkpoint is not None and checkpoint.sequence == trial.last_sequence
        )

    def _because(self, trial: Trial) -> str | None:
        """Return the reason for reopening a trial, None if the trial waits for a slot anyway."""
        if trial.has_failed:
            return "the trial had failed, and resume is 'errored'"
        if trial.status is Status.PENDING:
            return None
        if trial.status is Status.TERMINATED:
            return f"the trial had ended ({trial.stop_reason})"
        return "its driver died"


def _not_rebuildable(trial: Trial) -> str:
    return (
        f"{trial.name} cannot go on: its configuration was passed to add_trial() and holds objects, which "
        "the journal cannot store"
    )
