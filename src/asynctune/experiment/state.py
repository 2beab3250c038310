"""The state of an experiment: a fold over its events, the same live and from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from asynctune.experiment import events as ev
from asynctune.experiment.trial import Trial
from asynctune.result import Row

T = TypeVar("T", bound=Trial)


class ExperimentState(Generic[T]):
    """All trials of an experiment and how it stands.

    Args:
        make_trial: Makes the trial of a ``TrialAdded``.
    """

    def __init__(self, make_trial: Callable[[ev.TrialAdded], T]) -> None:
        self.trials: dict[str, T] = {}
        self.started: ev.RunStarted | None = None
        self.ended: ev.RunEnded | None = None
        self.num_final = 0
        self.num_drawn = 0
        self._make_trial = make_trial
        self._pinned: dict[str, tuple[T, str]] = {}

    def apply(self, event: ev.Event, place: int) -> None:
        """Take over an event.

        Args:
            event: What happened.
            place: Where the journal holds it.
        """
        match event:
            case ev.RunStarted():
                self.started, self.ended = event, None
            case ev.RunEnded():
                self.ended = event
            case ev.TrialAdded():
                assert event.trial_id not in self.trials, f"{event.trial_id} is added twice"
                self.trials[event.trial_id] = self._make_trial(event)
                self.num_drawn += event.drawn is not None
            case _:
                trial = self.trials[event.trial_id]
                self._move_pins(trial, event)
                self.num_final -= trial.status.is_final
                trial.apply(event, place)
                self.num_final += trial.status.is_final

    def _move_pins(self, trial: T, event: ev.Event) -> None:
        """Let a donor keep the checkpoint that another trial begins from, until that has one of its own.

        In memory only: what may be deleted is decided where trials run.
        """
        pinned: tuple[T, str] | None = None
        match event:
            case ev.Exploited():
                pinned = self.trials[event.donor], trial.path_of(event.checkpoint)
            case ev.Checkpointed() | ev.TrialEnded():
                pass
            case _:
                return
        before = self._pinned.pop(trial.trial_id, None)
        if before is not None:
            before[0].unpin(before[1])
        if pinned is not None:
            pinned[0].pin(pinned[1])
            self._pinned[trial.trial_id] = pinned


def state_from_disk(
    directory: str,
    read_rows: Callable[[Sequence[int]], list[Row]],
) -> ExperimentState[Trial]:
    """Return an empty state for the journal of a directory, to be replayed into."""
    return ExperimentState(lambda event: Trial(event, directory=directory, read_rows=read_rows))
