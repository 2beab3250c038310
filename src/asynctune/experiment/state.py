"""The state of an experiment: one fold over its events, for a run and for the analysis from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, assert_never

from asynctune.experiment import events as ev
from asynctune.experiment.trial import Trial
from asynctune.result import Row

T = TypeVar("T", bound=Trial)


class ExperimentState(Generic[T]):
    """The trials of an experiment, and the start and end of its current run.

    Args:
        make_trial: A function that creates the trial of a ``TrialAdded``.

    Attributes:
        trials: The trials by id, in the order in which they were added.
        started: The ``RunStarted`` of the current run, None before.
        ended: The ``RunEnded`` of the current run, None before.
        num_final: The number of trials whose status is final.
        num_drawn: The number of trials with drawn or suggested values, that is, not added by hand.
    """

    def __init__(self, make_trial: Callable[[ev.TrialAdded], T]) -> None:
        self.trials: dict[str, T] = {}
        self.started: ev.RunStarted | None = None
        self.ended: ev.RunEnded | None = None
        self.num_final = 0
        self.num_drawn = 0
        self._make_trial = make_trial
        self._pinned: dict[str, tuple[T, str]] = {}

    def apply(self, event: ev.Event, offset: int) -> None:
        """Apply an event to the state.

        Args:
            event: The event.
            offset: The offset of its record in the journal.
        """
        match event:
            case ev.RunStarted():
                self.started, self.ended = event, None
            case ev.RunEnded():
                self.ended = event
            case ev.TrialAdded():
                if event.trial_id in self.trials:
                    raise ValueError(f"{event.trial_id} is added twice")
                self.trials[event.trial_id] = self._make_trial(event)
                self.num_drawn += event.drawn is not None
            case (
                ev.Reported()
                | ev.TrialStarted()
                | ev.Checkpointed()
                | ev.CheckpointDropped()
                | ev.CheckpointRejected()
                | ev.TrialPaused()
                | ev.TrialResumed()
                | ev.Exploited()
                | ev.TrialFailed()
                | ev.TrialReopened()
                | ev.TrialEnded()
            ):
                trial = self.trials[event.trial_id]
                self._move_pins(trial, event)
                self.num_final -= trial.status.is_final
                trial.apply(event, offset)
                self.num_final += trial.status.is_final
            case _:
                assert_never(event)

    def _move_pins(self, trial: T, event: ev.Event) -> None:
        """Pin a donor's checkpoint until the trial that exploits it has a checkpoint of its own.

        Pins exist in memory only; the driver alone decides which checkpoints are deleted.
        """
        pinned: tuple[T, str] | None = None
        match event:
            case ev.Exploited():
                pinned = self.trials[event.donor], trial.path_of(event.checkpoint)
            case ev.Checkpointed() | ev.TrialEnded():
                pass
            case _:
                return
        previous = self._pinned.pop(trial.trial_id, None)
        if previous is not None:
            previous[0].unpin(previous[1])
        if pinned is not None:
            pinned[0].pin(pinned[1])
            self._pinned[trial.trial_id] = pinned


def state_from_disk(
    directory: str,
    read_rows: Callable[[Sequence[int]], list[Row]],
) -> ExperimentState[Trial]:
    """Return an empty state, into which the journal of a directory can be replayed.

    Args:
        directory: The directory of the experiment.
        read_rows: A function that reads the rows at the given offsets of the journal.
    """
    return ExperimentState(lambda event: Trial(event, directory=directory, read_rows=read_rows))
