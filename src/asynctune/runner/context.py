"""The interface of a run towards its parts: plan, record, decisions, slots."""

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
from asynctune.runner.plan.plan import Plan


class SlotSource(Protocol):
    """The source of slots for the tasks of trials, which report their starts, pauses and ends."""

    async def lease(self, resources: Resources) -> Lease:
        """Wait for a slot of this run."""
        ...

    def wake(self) -> None:
        """Decide again which trial gets the next slot."""
        ...

    def trial_started(self, trial: LiveTrial) -> None:
        """Count a trial whose task has started."""
        ...

    def trial_paused(self, trial: LiveTrial) -> None:
        """Queue a trial that has released its slot and waits."""
        ...

    def trial_ended(self, trial: LiveTrial) -> None:
        """Forget a trial whose task has ended."""
        ...


class RunContext(Protocol):
    """The run, as the dispatcher, the tasks of the trials, a resume and the services see it.

    Attributes:
        plan: The plan of the run.
        serialized: The trainable.
        executor: The executor that trains the trials.
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
    def slots(self) -> SlotSource:
        """The source of slots, once the run has begun."""
        ...

    @property
    def ending(self) -> StopReason | None:
        """The reason why the run ends, None while it goes on."""
        ...

    def record(self, event: ev.Event, row: bytes | None = None) -> None:
        """Append an event to the journal and apply it to the state.

        Args:
            event: The event.
            row: The row of a result as the worker encoded it, if the event is a result.
        """
        ...

    def wire(self, trial: LiveTrial) -> None:
        """Create the events and scopes that the task of a trial needs, on the event loop."""
        ...

    def launch(self, trial: LiveTrial, reason: StopReason | None = None) -> None:
        """Start the task of a trial.

        Args:
            trial: The trial.
            reason: The stop reason of a trial that ends without being run, None for others.
        """
        ...

    def stop(self) -> None:
        """End the run: no new trials, and each one that runs stops at its next report."""
        ...

    def trial_failed(self, error: TrialError) -> None:
        """Record that a trial has failed for good; with ``fail_fast`` the run is cancelled."""
        ...
