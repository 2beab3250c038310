"""Runs an experiment: owns the tasks of its trials and the services beside them.

Every change of state is recorded in the journal first; state, readers, loggers and callbacks follow it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from asynctune._checks import argument_error
from asynctune.errors import StorageError, TrialError, TuneError
from asynctune.executors.base import Executor
from asynctune.executors.serialization import SerializedTrainable
from asynctune.executors.slots import Lease
from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.opening import OpenExperiment
from asynctune.experiment.remote.uploader import Uploader
from asynctune.experiment.state import ExperimentState
from asynctune.experiment.status import Resume, StopReason
from asynctune.runner.context import RunContext
from asynctune.runner.decisions import Decider
from asynctune.runner.dispatcher import Dispatcher
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.plan.plan import Plan
from asynctune.runner.plan.preflight import Preflight
from asynctune.runner.plan.run_started import start_record
from asynctune.runner.replay import Replay
from asynctune.runner.resume import first_failure, resume_trials
from asynctune.runner.services import Services
from asynctune.runner.trial_factory import Candidate, TrialFactory
from asynctune.runner.trial_task.failures import summarize_failures, unwrap_group
from asynctune.runner.trial_task.task import TrialTask
from asynctune.suggest.ask_tell import AskTell


class Runner(RunContext):
    """Runs the trials of one experiment.

    Args:
        plan: The plan of the run.
        opened: The experiment.
        serialized: The trainable.
        executor: The executor that trains the trials; open while :meth:`run` runs.
        preflight: The checks of the plan with the trainable.
    """

    def __init__(
        self,
        plan: Plan,
        opened: OpenExperiment,
        serialized: SerializedTrainable,
        executor: Executor,
        preflight: Preflight,
    ) -> None:
        self.plan = plan
        self.serialized = serialized
        self.journal = opened.journal
        self.replica = opened.replica
        self.executor = executor
        self._ask_tell = AskTell(
            plan.searcher,
            plan.space,
            plan.options.num_samples,
            plan.seed,
            lag=preflight.most_at_once if plan.options.deterministic else None,
        )
        self._factory = TrialFactory(
            plan, serialized, preflight, self._ask_tell, opened.journal.read_rows
        )
        self.state: ExperimentState[LiveTrial] = ExperimentState(self._factory.make)
        self.decider = Decider(
            plan.options.stop, plan.scheduler, plan.options.metric, self._ask_tell
        )
        self._opened = opened
        self._services = Services(self, opened, self._ask_tell.total)
        self._preflight = preflight
        self._replay: Replay | None = None
        self._began = time.monotonic()
        self._trials: anyio.abc.TaskGroup | None = None
        self._dispatcher: Dispatcher | None = None
        self._drawing = anyio.CancelScope()
        self._ending: StopReason | None = None
        self._scope = anyio.CancelScope()
        self._first_error: TrialError | None = None
        self.is_ready = anyio.Event()

    # -- for the parts of the run -------------------------------------------------------------------

    @property
    def slots(self) -> Dispatcher:
        assert self._dispatcher is not None, "the run has not begun"
        return self._dispatcher

    @property
    def ending(self) -> StopReason | None:
        return self._ending

    def record(self, event: ev.Event, row: bytes | None = None) -> None:
        offset = self.journal.append(event, row)
        self.state.apply(event, offset)

    def wire(self, trial: LiveTrial) -> None:
        trial.wire(self.slots.wake, self._preflight.why_not_pausable)

    def launch(self, trial: LiveTrial, reason: StopReason | None = None) -> None:
        assert self._trials is not None, "the run has no task group for trials"
        self._trials.start_soon(TrialTask(trial, self).run, reason)

    def trial_failed(self, error: TrialError) -> None:
        if self._first_error is None:
            self._first_error = error
        if self.plan.options.fail_fast:
            self.cancel()

    # -- for the handle on the run ------------------------------------------------------------------

    @property
    def uploads(self) -> Uploader | None:
        """The uploads to the remote storage, None if there is none."""
        return self._services.uploads

    def stop(self, reason: StopReason = StopReason.EXPERIMENT, *, now: bool = False) -> None:
        """Draw no more trials, and stop the running ones: at their next report, or now."""
        if self._ending is None:
            self._ending = reason
        self._drawing.cancel()
        for trial in self.state.trials.values():
            trial.request_stop(reason, now=now)

    def cancel(self) -> None:
        """Cancel all trials; each may clean up for ``grace_s``."""
        if self._ending is None:
            self._ending = StopReason.CANCELLED
            self._services.limit_drain(max(1.0, self.plan.options.grace_s))
        self._scope.cancel()

    def kill(self) -> None:
        """Cancel all trials and the grace of those that clean up."""
        self.cancel()
        for trial in self.state.trials.values():
            trial.grace.cancel()
        self._services.kill()

    def add_trial(self, config: dict[str, Any]) -> LiveTrial:
        """Add a trial of the user; the trial waits for the next free slot.

        Raises:
            TuneError: The run has ended or is ending.
        """
        if self._trials is None or self._ending is not None or self.slots.is_over:
            raise TuneError("add_trial() was called on an experiment that has ended or is ending")
        if not isinstance(config, Mapping):
            raise argument_error("add_trial()", "config", "a dict", config)
        candidate = self._factory.from_user(config)
        self.executor.check_config(candidate.variant.config)
        trial = self._add(candidate)
        self.launch(trial)
        return trial

    # -- the whole run ----------------------------------------------------------------------------

    def replay(self, history: History) -> None:
        """Replay the journal of the previous runs. Blocks; called in a thread, before :meth:`run`."""
        errored = self.plan.options.resume is Resume.ERRORED
        exports = bool(self.plan.options.export_formats)
        self._replay = Replay(
            history, self.state, self.decider, self._ask_tell, errored=errored, exports=exports
        )
        self._replay.run()
        self._factory.continue_ids(list(self.state.trials.values()))

    async def run(self) -> None:
        """Run all trials to their ends.

        Raises:
            TrialError: A trial failed, and ``raise_on_failed_trial`` is set.
            TuneError: Another error ended the run, such as a missing metric. An exception of a scheduler or
                stopper is raised unchanged.
        """
        try:
            async with self.uploads.running() if self.uploads is not None else nullcontext():
                await self._run()
        except BaseExceptionGroup as group:
            raise unwrap_group(group) from None
        finally:
            self.is_ready.set()  # also when the run failed before its start

    async def _run(self) -> None:
        error: BaseException | None = None
        async with self._services.running():
            # Not within the block: a run that is interrupted here must not record its end.
            self.record(start_record(self.plan, self.serialized, self._opened.history))
            try:
                # Before any other file: a directory of trials without a journal belongs to no experiment.
                await self.journal.synced()
                with self._scope:
                    async with anyio.create_task_group() as clock:
                        clock.start_soon(self._watch_budget)
                        self._dispatcher = Dispatcher(
                            self, self._factory, self._ask_tell, self._preflight.usual, self._begin
                        )
                        async with anyio.create_task_group() as self._trials:
                            if self._replay is not None:
                                await self._resume(self._replay)
                            self._trials.start_soon(self._dispatch)
                            self.is_ready.set()
                        clock.cancel_scope.cancel()
            except BaseException as exc:
                error = unwrap_group(exc)
            finally:
                self._trials = None
                self.is_ready.set()
                if (
                    error is None
                    and self._first_error is not None
                    and self.plan.options.raise_on_failed_trial
                ):
                    error = summarize_failures(self._first_error, list(self.state.trials.values()))
                try:
                    if not self.journal.is_broken:
                        self.record(self._ended(error))
                except StorageError as exc:
                    error = error or exc
        if error is not None:
            raise error

    async def _dispatch(self) -> None:
        """Dispatch slots until no trial is left, or until the run draws no more."""
        with self._drawing:
            await self.slots.run()

    @property
    def _budget_left_s(self) -> float:
        """The rest of the time budget, which counts the previous runs of the experiment."""
        history = self._opened.history
        return self.plan.options.time_budget_s - (history.seconds if history is not None else 0.0)

    async def _watch_budget(self) -> None:
        if not math.isinf(self.plan.options.time_budget_s):
            await anyio.sleep(max(0.0, self._budget_left_s))
            self.stop(StopReason.TIME_BUDGET, now=True)

    async def _resume(self, replay: Replay) -> None:
        """Continue the trials of the previous runs."""
        for trial in self.state.trials.values():
            self.wire(trial)
        no_time_left = self._budget_left_s <= 0
        await resume_trials(self, self._opened, replay, self.uploads, no_time_left=no_time_left)
        if self._first_error is None:
            self._first_error = first_failure(self)

    def _begin(self, candidate: Candidate, lease: Lease) -> None:
        """Add a trial and start its task with the slot."""
        if self._ending is not None or self._trials is None:  # the run was stopped meanwhile
            lease.release()
            return
        trial = self._add(candidate)
        trial.lease = lease
        self.launch(trial)

    def _add(self, candidate: Candidate) -> LiveTrial:
        event = self._factory.event(candidate)
        self.record(event)
        trial = self.state.trials[event.trial_id]
        self.wire(trial)
        self.decider.trial_added(trial)
        return trial

    def _ended(self, error: BaseException | None) -> ev.RunEnded:
        text = None
        if isinstance(error, Exception):
            reason, text = "failed", f"{type(error).__name__}: {error}"
        elif error is not None or self._ending is StopReason.CANCELLED:
            reason = "cancelled"
        else:
            reason = "stopped" if self._ending else "done"
        return ev.RunEnded(reason, text, time.time(), time.monotonic() - self._began)
