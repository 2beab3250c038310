"""Resuming: what an earlier driver left, and what becomes of each of its trials.

The journal is replayed into the state of the new run, and the same judge is told the same in the same
order. A trial is final if it was done, failed for good, was stopped by hand or by the scheduler, or
reached a criterion that still holds. All others are taken up again from their last checkpoint.
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
    """What becomes of a trial that is not final.

    Args:
        trial: The trial.
        stop_reason: Why it ends at once: that was decided, or would have been, before its driver died.
        reopened: What has to be written down first, or None.
        paused: What has to be written down after that, or None.
        notice: What the user should know, or "".
    """

    trial: LiveTrial
    stop_reason: StopReason | None = None
    reopened: ev.TrialReopened | None = None
    paused: ev.TrialPaused | None = None
    notice: str = ""


class Replay:
    """Replays a journal into the state of a new run.

    Args:
        history: What is continued.
        state: The state of the new run, empty.
        decider: Its judge, who has heard of nothing yet.
        ask_tell: Its suggestions, of which there were none yet.
        errored: Whether failed trials are tried again.
        exports: Whether trials are exported at their end.
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
        self._unjudged: set[str] = set()  # their newest row lacks a metric
        self._final: set[str] = set()
        self._notices: dict[str, str] = {}
        self.dropped: dict[str, list[str]] = {}
        """Trial -> checkpoints that the last driver said nothing needs; it may not have removed them."""

    def run(self) -> None:
        """Replay everything. Takes a while, and runs the user's stopper and scheduler."""
        for place, event in self._history.stored.events():
            if isinstance(event, ev.Exploited):
                self._give_config(event)
            self._state.apply(event, place)
            if not isinstance(event, ev.RunStarted | ev.RunEnded):
                self._tell(event, place, self._state.trials[event.trial_id])
            elif isinstance(event, ev.RunStarted):
                self.dropped.clear()

    def unfinished(self) -> list[LiveTrial]:
        """Return the trials that may go on."""
        trials = self._state.trials.values()
        return [trial for trial in trials if trial.trial_id not in self._final]

    def taken_up(self, now: float) -> Iterator[ResumedTrial]:
        """Yield every trial that is not final, in the order in which they were drawn.

        Args:
            now: Seconds since 1970.
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
                trial.is_held = False  # whoever held it had a handle, and that is gone
                yield ResumedTrial(trial)
                continue
            because = self._because(trial)
            if because is None:
                yield ResumedTrial(trial)
                continue
            begin = trial.known_checkpoints[-1:]  # those that could not be restored are tried again
            sequence = begin[0].sequence if begin else -1
            notice = ""
            if not begin and trial.num_results:
                notice = f"{trial.name} has no checkpoint, and begins again"
            attempt = trial.attempt + (trial.started_at is not None)
            event = ev.TrialReopened(trial.trial_id, attempt, because, sequence, now)
            paused = ev.TrialPaused(trial.trial_id, sequence, now)
            waits = self._waits(trial)
            yield ResumedTrial(
                trial, reopened=event, paused=paused if waits else None, notice=notice
            )

    def _tell(self, event: ev.Event, place: int, trial: LiveTrial) -> None:
        match event:
            case ev.TrialAdded():
                if event.drawn is not None:
                    config = trial.config if trial.is_rebuildable else None
                    self._ask_tell.replay(event, config)
                self._decider.added(trial)
            case ev.TrialResumed():
                self._decider.resumed(trial)
            case ev.Reported():
                try:
                    trial.set_decision(self._decider.result(trial))
                    self._unjudged.discard(trial.trial_id)
                except MetricMissing:  # what ended the run then; the trainable may be mended since
                    trial.set_decision(NOTHING)
                    self._unjudged.add(trial.trial_id)
            case ev.TrialFailed() if not event.again:
                self._failed_for_good.add(trial.trial_id)
            case ev.TrialReopened():
                self._failed_for_good.discard(trial.trial_id)
            case ev.Checkpointed():
                path = trial.path_of(event.path)
                if path in self.dropped.get(trial.trial_id, ()):  # it was saved again
                    self.dropped[trial.trial_id].remove(path)
            case ev.CheckpointDropped():
                dropped = self.dropped.setdefault(trial.trial_id, [])
                dropped.append(trial.path_of(event.path))
            case ev.TrialEnded() if self._history.last_ends[trial.trial_id] == place:
                if self._is_final(trial):
                    self._final.add(trial.trial_id)
                    self._decider.ended(trial)
                else:
                    self._decider.notify_searcher(trial)
            case ev.TrialEnded():
                self._decider.notify_searcher(trial)  # it was told so, whatever came later

    def _give_config(self, event: ev.Exploited) -> None:
        """Let a trial have the objects of the configuration that the scheduler has given it again."""
        trial = self._state.trials[event.trial_id]
        decision = trial.decision
        if isinstance(decision, Exploit) and shown(decision.config) == event.config:
            trial.next_config = decision.config

    def _waits(self, trial: LiveTrial) -> bool:
        """Tell whether the scheduler told a trial to pause, and it can go on from there."""
        checkpoint = trial.checkpoint
        return (
            trial.decision == Decision.PAUSE
            and checkpoint is not None
            and checkpoint.sequence == trial.last_sequence
        )

    def _is_final(self, trial: LiveTrial) -> bool:
        """Tell whether a trial that has ended stays so; note why, where that may surprise."""
        stop_reason = trial.decided_stop
        if trial.status is Status.ERROR:
            final = not self._errored
        elif trial.stop_reason is not None and trial.stop_reason.is_interruption:
            final = stop_reason is not None  # at its last row it would have ended by itself
        elif trial.stop_reason is StopReason.CRITERION:
            final = stop_reason is not None or not trial.num_results
        else:
            final = True
        if final:
            return True
        if not trial.is_rebuildable:
            self._notices[trial.trial_id] = _not_rebuildable(trial)
            return True
        begins_again = trial.status is Status.ERROR or trial.trial_id in self._unjudged
        # Nobody wanted it to end: an error of the run, such as a full disk, cancelled it.
        begins_again |= self._history.failed and trial.stop_reason is StopReason.CANCELLED
        if trial.checkpoint is None and trial.num_results and not begins_again:
            self._notices[trial.trial_id] = (
                f"{trial.name} stays ended ({trial.stop_reason}): it has no checkpoint to go on from"
            )
            return True
        return False

    def _can_export(self, trial: LiveTrial) -> bool:
        """Tell whether a trial whose driver died before its export can be exported yet."""
        checkpoint = trial.checkpoint
        return (
            self._exports and checkpoint is not None and checkpoint.sequence == trial.last_sequence
        )

    def _because(self, trial: Trial) -> str | None:
        """Say what had become of a trial; None if it waits for a slot anyway."""
        if trial.has_failed:
            return "it had failed, and resume is 'errored'"
        if trial.status is Status.PENDING:
            return None
        if trial.status is Status.TERMINATED:
            return f"it had ended ({trial.stop_reason})"
        return "its driver died"


def _not_rebuildable(trial: Trial) -> str:
    return (
        f"{trial.name} is not taken up again: its configuration was given by hand and holds objects, "
        "which no journal can"
    )
