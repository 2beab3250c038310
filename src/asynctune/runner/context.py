"""What the parts of one run share: its plan, its record, its decisions and its slots."""

from __future__ import annotations

from typing import Protocol

from asynctune.errors import TrialError
from asynctune.executors.base import Executor
from asynctune.executors.serialization import SerializedTrainable
from asynctune.executors.slots import Lease
from asynctune.experiment import events as ev
from asynctune.experiment.journal import Journal
from asynctune.experiment.remote.replica import Replica
from asynctune.experiment.state import ExperimentState
from asynctune.experiment.status import StopReason
from asynctune.resources import Resources
from asynctune.runner.decisions import Decider
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.plan.options import Plan


class Slots(Protocol):
    """Where the task of a trial gets its slot, and what it reports about its need of one."""

    async def lease(self, resources: Resources) -> Lease:
        """Wait for a slot of this run."""
        ...

    def wake(self) -> None:
        """Look again: something changed that may let a trial go on."""
        ...

    def add_trial_task(self, trial: LiveTrial) -> None:
        """Count a trial that has a task from now on."""
        ...

    def paused(self, trial: LiveTrial) -> None:
        """Queue a trial that has given its slot back and waits."""
        ...

    def left(self, trial: LiveTrial) -> None:
        """Forget a trial whose task has ended."""
        ...


class RunContext(Protocol):
    """A run as its parts see it: the dispatcher, the tasks of the trials, a resume, the services.

    Attributes:
        plan: What the run does.
        serialized: The trainable.
        executor: Where trials train.
        journal: The record of the experiment.
        replica: The remote side of the experiment, None if there is none.
        decider: The stopper, the scheduler and the searcher of the run.
        state: All trials, as the journal has them.
    """

    plan: Plan
    serialized: SerializedTrainable
    executor: Executor
    journal: Journal
    replica: Replica | None
    decider: Decider
    state: ExperimentState[LiveTrial]

    @property
    def slots(self) -> Slots:
        """Where slots come from, once the run has begun."""
        ...

    @property
    def ending(self) -> StopReason | None:
        """Why the run ends, None while it goes on."""
        ...

    def record(self, event: ev.Event, row: bytes | None = None) -> None:
        """Append an event to the journal and apply it to the state.

        Args:
            event: The event.
            row: The row of a result as the worker encoded it, if the event is a result.
        """
        ...

    def wire(self, trial: LiveTrial) -> None:
        """Give a trial what its task needs on the event loop."""
        ...

    def launch(self, trial: LiveTrial, reason: StopReason | None = None) -> None:
        """Start the task of a trial.

        Args:
            trial: The trial.
            reason: Why the trial ends without being run, if that was decided already.
        """
        ...

    def stop(self) -> None:
        """End the run: no new trials, and each one that runs stops at its next report."""
        ...

    def trial_failed(self, error: TrialError) -> None:
        """Note that a trial has failed for good; with ``fail_fast`` the run is cancelled."""
        ...
