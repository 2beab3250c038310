"""The runner: draws the trials, and owns their tasks and all that lives beside them.

It is the only module that knows everybody. All that happens goes into the journal first; the state, the
readers, the loggers and the callbacks have it from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from asynctune import events as ev
from asynctune.admission import Admission
from asynctune.callback import Callback, feed
from asynctune.directory import remove_leftovers
from asynctune.errors import ConfigError, StorageError, TrialError, TuneError
from asynctune.executors._shipping import Shipment
from asynctune.executors._slots import Lease
from asynctune.executors.base import Executor
from asynctune.failures import only, summed_up
from asynctune.files import current
from asynctune.judge import Judge
from asynctune.live import LiveTrial
from asynctune.logcallback import LogFeeder
from asynctune.mirror import Mirror
from asynctune.notices import warn
from asynctune.opening import Opened, started
from asynctune.options import Resume
from asynctune.policylog import PolicyLog
from asynctune.preflight import Preflight
from asynctune.progress.terminal import LineProgress, OutputEcho
from asynctune.recovery import notice_of, recovered
from asynctune.resume import Past, Replay, TakenUp
from asynctune.state import ExperimentState
from asynctune.suggest.suggestions import Suggestions
from asynctune.trial import Status, StopReason
from asynctune.trialmaker import Candidate, TrialMaker
from asynctune.trialtask import TrialTask
from asynctune.uploads import Uploads

_DRAIN_S = 30.0


class Runner:
    """Runs the trials of one experiment.

    Args:
        opened: The experiment: what to do, and where it is written down.
        shipment: The trainable.
        executor: Where; it is open while :meth:`run` runs.
        preflight: What was found out about them.
    """

    def __init__(
        self, opened: Opened, shipment: Shipment, executor: Executor, preflight: Preflight
    ) -> None:
        self.plan = plan = opened.plan
        self.shipment = shipment
        self.journal = opened.journal
        self.mirror = opened.mirror
        self.executor = executor
        self.suggestions = Suggestions(
            plan.searcher,
            plan.space,
            plan.options.num_samples,
            plan.seed,
            lag=preflight.most_at_once if plan.options.deterministic else None,
        )
        self._maker = TrialMaker(
            plan, shipment, preflight, self.suggestions, opened.journal.read_rows
        )
        self.state: ExperimentState[LiveTrial] = ExperimentState(self._maker.make)
        self.judge = Judge(plan.stopper, plan.scheduler, plan.options.metric, self.suggestions)
        self._opened = opened
        self.uploads = Uploads.of(plan, shipment, opened, self.state)
        self._preflight = preflight
        self._replay: Replay | None = None
        self._began = time.monotonic()
        self._trials: anyio.abc.TaskGroup | None = None
        self._admission: Admission | None = None
        self._drawing = anyio.CancelScope()
        self._ending: StopReason | None = None
        self._scope = anyio.CancelScope()
        self._first_error: TrialError | None = None
        self._draining: anyio.CancelScope | None = None
        self._drain_s = _DRAIN_S
        self.is_ready = anyio.Event()

    # -- from outside -----------------------------------------------------------------------------

    def record(self, event: ev.Event, row: bytes | None = None) -> None:
        """Write an event down, and let the state follow it."""
        place = self.journal.append(event, row)
        self.state.apply(event, place)

    def trial_failed(self, error: TrialError) -> None:
        """A trial has failed for good."""
        if self._first_error is None:
            self._first_error = error
        if self.plan.options.fail_fast:
            self.cancel()

    @property
    def total(self) -> int | None:
        """How many trials the space gives, None for no end."""
        return self.suggestions.total

    @property
    def admission(self) -> Admission:
        """Where slots come from."""
        assert self._admission is not None, "the run has not begun"
        return self._admission

    def stop(self, reason: StopReason = StopReason.EXPERIMENT, *, now: bool = False) -> None:
        """Draw no more trials, and end those that run: at their next report, or now."""
        if self._ending is None:
            self._ending = reason
        self._drawing.cancel()
        for trial in self.state.trials.values():
            trial.end(reason, now=now)

    def cancel(self) -> None:
        """End everything now; what runs may clean up for ``grace_s``."""
        if self._ending is None:
            self._ending = StopReason.CANCELLED
        self._scope.cancel()

    def kill(self) -> None:
        """End everything, and the grace of those that are cleaning up."""
        self.cancel()
        for trial in self.state.trials.values():
            trial.grace.cancel()
        self._drain_s = 1.0
        if self.uploads is not None:
            self.uploads.hurry(self._drain_s)
        if self._draining is not None:
            self._draining.deadline = anyio.current_time() + self._drain_s

    def add_trial(self, config: dict[str, Any]) -> LiveTrial:
        """Add a trial by hand; it waits for the next slot that is free.

        Raises:
            TuneError: The run is over, or ending.
        """
        if self._trials is None or self._ending is not None or self.admission.is_over:
            raise TuneError("add_trial() was called on an experiment that has ended or is ending")
        if not isinstance(config, Mapping):
            raise ConfigError(f"add_trial() was given {config!r}; a dict is wanted")
        candidate = self._maker.by_hand(config)
        self.executor.check_config(candidate.variant.config)
        trial = self._add(candidate)
        self._trials.start_soon(TrialTask(trial, self).run)
        return trial

    async def draw(self) -> Candidate | None:
        """Ask for the next trial; None: there is none now."""
        return await self._maker.draw()

    def begin(self, candidate: Candidate, lease: Lease) -> None:
        """Add a trial, and start it on the slot."""
        if self._ending is not None or self._trials is None:  # ordered while it was drawn
            lease.release()
            return
        trial = self._add(candidate)
        trial.lease = lease
        self._trials.start_soon(TrialTask(trial, self).run)

    def go_on(self, trial: LiveTrial, lease: Lease) -> None:
        """Let a paused trial go on, on the slot."""
        self.record(ev.TrialResumed(trial.trial_id, time.time()))
        self.judge.resumed(trial)
        trial.lease = lease
        trial.has_slot.set()

    # -- the whole run ----------------------------------------------------------------------------

    def replay(self, past: Past) -> None:
        """Take over what earlier drivers left. Takes a while; called in a thread, before the run."""
        errored = self.plan.resume is Resume.ERRORED
        exports = bool(self.plan.export_formats)
        self._replay = Replay(
            past, self.state, self.judge, self.suggestions, errored=errored, exports=exports
        )
        self._replay.run()
        self._maker.go_on_from(list(self.state.trials.values()))

    async def run(self) -> None:
        """Run all trials to their ends.

        Raises:
            TrialError: A trial failed, and ``raise_on_failed_trial`` or ``fail_fast`` is set.
            TuneError: What else ended the run, such as a metric that is missing; an exception of a
                scheduler or stopper comes as it is.
        """
        try:
            async with self.uploads.running() if self.uploads is not None else nullcontext():
                await self._run()
        except BaseExceptionGroup as group:
            raise only(group) from None
        finally:
            self.is_ready.set()  # also when it never came to begin

    async def _run(self) -> None:
        error: BaseException | None = None
        async with self._services():
            try:
                self.record(started(self.plan, self.shipment, self._opened.past))
                # Before anything else is written: a directory of trials without a journal is nobody's.
                await self.journal.synced()
                with self._scope:
                    async with anyio.create_task_group() as clock:
                        clock.start_soon(self._watch_budget)
                        self._admission = Admission(self, self._preflight.usual)
                        async with anyio.create_task_group() as self._trials:
                            if self._replay is not None:
                                await self._take_up(self._replay)
                            self._trials.start_soon(self._admit)
                            self.is_ready.set()
                        clock.cancel_scope.cancel()
            except BaseException as exc:
                error = only(exc)
            finally:
                self._trials = None
                self.is_ready.set()
                if error is None and self._first_error is not None and (
                    self.plan.options.raise_on_failed_trial or self.plan.options.fail_fast
                ):  # fmt: skip
                    error = summed_up(self._first_error, list(self.state.trials.values()))
                try:
                    if not self.journal.is_broken:
                        self.record(self._ended(error))
                except StorageError as exc:
                    error = error or exc
        if error is not None:
            raise error

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        """Run what lives beside the trials: it ends after them, when it has seen the last event."""
        consumers: list[Callback] = []
        options = self.plan.options
        if options.verbose:
            progress = LineProgress(self.state, self.total, options.metric, options.mode)
            if self._replay is not None:
                await anyio.to_thread.run_sync(progress.resume, self._summary())
            consumers.append(progress)
        if options.log_to_driver:
            echo = OutputEcho(self.state)
            await anyio.to_thread.run_sync(echo.resume)
            consumers.append(echo)
        if self.plan.scheduler.log_config:
            policies = PolicyLog(self.plan.directory, self._opened.past)
            await anyio.to_thread.run_sync(policies.catch_up)
            consumers.append(policies)
        consumers += options.callbacks or ()
        try:
            async with anyio.create_task_group() as services:
                services.start_soon(self.journal.sync_in_groups)
                for consumer in consumers:
                    services.start_soon(feed, consumer, self.journal.follow_on(), self.state)
                if self.plan.loggers:
                    past = self._opened.past
                    feeder = LogFeeder(self.plan.loggers, self.state, past)
                    services.start_soon(feeder.run, self.journal.follow_on())
                try:
                    yield
                finally:
                    self.journal.end()
                    # Whatever happens to us: the last lines are written, within a limit.
                    self._draining = services.cancel_scope
                    if self._ending is StopReason.CANCELLED:
                        self._drain_s = min(self._drain_s, max(1.0, self.plan.grace_s))
                        if self.uploads is not None:
                            self.uploads.hurry(self._drain_s)
                    self._draining.shield = True
                    self._draining.deadline = anyio.current_time() + self._drain_s
            if services.cancel_scope.cancelled_caught:
                await warn(
                    "loggers or callbacks did not end within %g s and were cut", self._drain_s
                )
        finally:
            self.journal.close()

    async def _admit(self) -> None:
        """Give slots away until the end, or until no more may be given."""
        with self._drawing:
            await self.admission.run()

    @property
    def _budget_left_s(self) -> float:
        """How long this driver may work: the budget is the experiment's, over all its drivers."""
        past = self._opened.past
        return self.plan.time_budget_s - (past.seconds if past is not None else 0.0)

    async def _watch_budget(self) -> None:
        if not math.isinf(self.plan.time_budget_s):
            await anyio.sleep(max(0.0, self._budget_left_s))
            self.stop(StopReason.TIME_BUDGET, now=True)

    async def _take_up(self, replay: Replay) -> None:
        """Go on with the trials that earlier drivers left."""
        assert self._trials is not None
        for trial in self.state.trials.values():
            self._wire(trial)
        if self._opened.torn:
            await warn(
                "%s: the driver before was cut short while it wrote; %d unfinished bytes are gone",
                self.journal.path, self._opened.torn,
            )  # fmt: skip
        if self.mirror is not None:
            await self._recover(replay, self.mirror)
        taken = list(replay.taken_up(time.time()))
        await anyio.to_thread.run_sync(self._clean, replay, taken)
        if self.judge.stops_all():
            self.stop()
        for item in taken:
            if item.notice:
                await warn("%s", item.notice)
            await self._go_on(item)
        for trial in self.state.trials.values():
            if trial.status is Status.ERROR and self._first_error is None:
                self._first_error = trial.error

    async def _recover(self, replay: Replay, mirror: Mirror) -> None:
        """Let trials go on from the checkpoints that there are."""
        past = self._opened.past
        assert past is not None
        events = await anyio.to_thread.run_sync(
            lambda: recovered(past, self.state.trials.values(), replay.unfinished(), mirror),
            abandon_on_cancel=True,
        )
        for event in events:
            if isinstance(event, ev.CheckpointDropped):
                assert self.uploads is not None
                self.uploads.removals.expect_gone(event.trial_id, event.path)
            self.record(event)
            await warn("%s", notice_of(event))

    async def _go_on(self, item: TakenUp) -> None:
        trial = item.trial
        ends_at_once = self._ending is not None or self._budget_left_s <= 0
        if trial.status.is_final and (item.reopened is None or ends_at_once):
            return
        if item.verdict is StopReason.FAILED and trial.error is not None:
            self.trial_failed(trial.error)
        if item.reopened is not None:
            self.record(item.reopened)
            self._wire(trial)
        if item.paused is not None:
            self.record(item.paused)
        assert self._trials is not None
        self._trials.start_soon(TrialTask(trial, self).run, item.verdict)
        if self._ending is not None:
            trial.end(self._ending)

    def _clean(self, replay: Replay, taken: list[TakenUp]) -> None:
        """Remove what earlier drivers and their workers left unfinished. In a thread."""
        files = current.get()
        trials = {item.trial.trial_id: item.trial for item in taken if not item.notice}
        trials |= {trial_id: self.state.trials[trial_id] for trial_id in replay.dropped}
        for trial_id, trial in trials.items():
            kept = [checkpoint.path for checkpoint in trial.known_checkpoints]
            remove_leftovers(trial.logdir, kept, replay.dropped.get(trial_id, ()), files)

    def _summary(self) -> str:
        ended = self.state.num_final
        there = len(self.state.trials)
        return f"resumed {self.plan.name}: {ended} of {there} trials so far have ended"

    # -- small things -----------------------------------------------------------------------------

    def _add(self, candidate: Candidate) -> LiveTrial:
        event = self._maker.event(candidate)
        self.record(event)
        trial = self.state.trials[event.trial_id]
        self._wire(trial)
        self.judge.added(trial)
        return trial

    def _wire(self, trial: LiveTrial) -> None:
        trial.wire(self.admission.news, self._preflight.cannot_pause)

    def _ended(self, error: BaseException | None) -> ev.RunEnded:
        text = None
        if isinstance(error, Exception):
            reason, text = "failed", f"{type(error).__name__}: {error}"
        elif error is not None or self._ending is StopReason.CANCELLED:
            reason = "cancelled"
        else:
            reason = "stopped" if self._ending else "done"
        return ev.RunEnded(reason, text, time.time(), time.monotonic() - self._began)
