"""The runner: draws the trials, and owns their tasks and all that lives beside them.

It is the only module that knows everybody. All that happens goes into the journal first; the state, the
readers, the loggers and the callbacks have it from there.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from asynctune import events as ev
from asynctune.callback import Callback, feed
from asynctune.checkpoints import CheckpointManager
from asynctune.directory import remove_leftovers
from asynctune.errors import ConfigError, StorageError, TrialError, TuneError
from asynctune.executors._shipping import Shipment
from asynctune.executors.base import Executor
from asynctune.failures import summed_up
from asynctune.files import current
from asynctune.judge import Judge
from asynctune.live import LiveTrial
from asynctune.logcallback import LogFeeder
from asynctune.notices import warn
from asynctune.opening import Opened, started
from asynctune.options import Resume
from asynctune.preflight import Preflight
from asynctune.progress.terminal import LineProgress, OutputEcho
from asynctune.resolve import is_json
from asynctune.resources import Resources
from asynctune.result import shown
from asynctune.resume import Past, Replay, TakenUp
from asynctune.space import Space, Variant
from asynctune.state import ExperimentState
from asynctune.suggest import BasicVariantGenerator
from asynctune.trial import Status, StopReason
from asynctune.trialtask import TrialTask

_DRAIN_S = 30.0


class Runner:
    """Runs the trials of one experiment.

    Args:
        opened: The experiment: what to do, and where it is written down.
        shipment: The trainable.
        executor: Where; it is open while :meth:`run` runs.
    """

    def __init__(self, opened: Opened, shipment: Shipment, executor: Executor) -> None:
        self.plan = plan = opened.plan
        self.shipment = shipment
        self.journal = opened.journal
        self.state: ExperimentState[LiveTrial] = ExperimentState(self._make_trial)
        self.executor = executor
        self.judge = Judge(plan.stopper, plan.scheduler, plan.options.metric)
        self._opened = opened
        self._preflight = Preflight(plan, shipment, executor)
        self._replay: Replay | None = None
        self._variants = BasicVariantGenerator(plan.space, plan.options.num_samples, plan.seed)
        self._prefix = secrets.token_hex(3)[:5]
        self._began = time.monotonic()
        self._trials: anyio.abc.TaskGroup | None = None
        self._configs: dict[str, dict[str, Any]] = {}
        self.running = anyio.CapacityLimiter(plan.options.max_concurrent_trials or math.inf)
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
        return self._variants.total

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
        if self._draining is not None:
            self._draining.deadline = anyio.current_time() + self._drain_s

    def add_trial(self, config: dict[str, Any]) -> LiveTrial:
        """Add a trial by hand; it waits for the next slot that is free.

        Raises:
            TuneError: The run is over, or ending.
        """
        if self._trials is None or self._ending is not None:
            raise TuneError("add_trial() was called on an experiment that has ended or is ending")
        if not isinstance(config, Mapping):
            raise ConfigError(f"add_trial() was given {config!r}; a dict is wanted")
        drawn = Space(config).variant(len(self.state.trials), self.plan.seed)
        self.executor.check_config(drawn.config)
        by_hand = replace(drawn, tag=drawn.tag or "by hand")
        trial = self._add(*self._looked_at(by_hand), by_hand=True)
        self._trials.start_soon(TrialTask(trial, self).run)
        return trial

    # -- the whole run ----------------------------------------------------------------------------

    def replay(self, past: Past) -> None:
        """Take over what earlier drivers left. Takes a while; called in a thread, before the run."""
        errored = self.plan.resume is Resume.ERRORED
        exports = bool(self.plan.export_formats)
        self._replay = Replay(past, self.state, self.judge, errored=errored, exports=exports)
        self._replay.run()
        for trial_id in self.state.trials:
            self._prefix = trial_id.rpartition("_")[0]
            break
        options = self.plan.options
        self._variants = BasicVariantGenerator(
            self.plan.space, options.num_samples, self.plan.seed, self.state.num_drawn
        )

    async def run(self) -> None:
        """Run all trials to their ends.

        Raises:
            TrialError: A trial failed, and ``raise_on_failed_trial`` or ``fail_fast`` is set.
            TuneError: What else ended the run, such as a metric that is missing; an exception of a
                scheduler or stopper comes as it is.
        """
        try:
            await self._run()
        except BaseExceptionGroup as group:
            raise _only(group) from None

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
                        async with anyio.create_task_group() as self._trials:
                            if self._replay is not None:
                                await self._take_up(self._replay)
                            self._trials.start_soon(self._draw_all)
                            self.is_ready.set()
                        clock.cancel_scope.cancel()
            except BaseException as exc:
                error = _only(exc)
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
                    self._draining.shield = True
                    self._draining.deadline = anyio.current_time() + self._drain_s
            if services.cancel_scope.cancelled_caught:
                await warn(
                    "loggers or callbacks did not end within %g s and were cut", self._drain_s
                )
        finally:
            self.journal.close()

    async def _draw_all(self) -> None:
        """Draw trials one after another, each when the one before has got its slot."""
        with self._drawing:
            while self._ending is None:
                # In a thread: sample_from is the user's code, and a configuration may be large.
                drawn = await anyio.to_thread.run_sync(self._draw)
                if drawn is None or self._ending is not None:  # ordered while it was drawn
                    return
                trial = self._add(*drawn)
                assert self._trials is not None
                self._trials.start_soon(TrialTask(trial, self).run)
                await trial.has_slot.wait()

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
            trial.wire()
        if self._opened.torn:
            await warn(
                "%s: the driver before was cut short while it wrote; %d unfinished bytes are gone",
                self.journal.path, self._opened.torn,
            )  # fmt: skip
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

    async def _go_on(self, item: TakenUp) -> None:
        trial = item.trial
        if trial.status.is_final and (item.reopened is None or self._budget_left_s <= 0):
            return
        if item.verdict is StopReason.FAILED and trial.error is not None:
            self.trial_failed(trial.error)
        if item.reopened is not None:
            self.record(item.reopened)
            trial.wire()
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
            kept = [checkpoint.path for checkpoint in trial.checkpoints]
            remove_leftovers(trial.logdir, kept, replay.dropped.get(trial_id, ()), files)

    def _summary(self) -> str:
        ended = self.state.num_final
        there = len(self.state.trials)
        return f"resumed {self.plan.name}: {ended} of {there} trials so far have ended"

    def _draw(self) -> tuple[Variant, Resources, dict[str, Any]] | None:
        variant = self._variants.next()
        return None if variant is None else self._looked_at(variant)

    def _looked_at(self, variant: Variant) -> tuple[Variant, Resources, dict[str, Any]]:
        """Find out what a variant asks for, and how it is shown."""
        return variant, self._preflight.resources_of(variant.config), shown(variant.config)

    # -- small things -----------------------------------------------------------------------------

    def _add(
        self,
        variant: Variant,
        resources: Resources,
        brief: dict[str, Any],
        *,
        by_hand: bool = False,
    ) -> LiveTrial:
        index = len(self.state.trials)
        trial_id = f"{self._prefix}_{index:05d}"
        self._configs[trial_id] = variant.config
        event = ev.TrialAdded(
            trial_id=trial_id,
            index=index,
            name=f"{self.shipment.name}_{trial_id}",
            tag=variant.tag,
            config=brief,
            drawn=None if by_hand else variant.drawn,
            resources=resources.to_dict(),
            wall_time=time.time(),
            given=variant.config if by_hand and is_json(variant.config) else None,
        )
        creator = self.plan.options.trial_name_creator
        if creator is not None:
            event = replace(event, name=str(creator(self._make_trial(event))))
        self.record(event)
        del self._configs[trial_id]
        trial = self.state.trials[trial_id]
        trial.wire()
        self.judge.added(trial)
        return trial

    def _make_trial(self, event: ev.TrialAdded) -> LiveTrial:
        config = self._configs.get(event.trial_id)
        if config is None:  # of an earlier driver
            drawn = event.drawn
            config = self.plan.space.rebuild(drawn) if drawn is not None else event.given
        options = self.plan.options
        return LiveTrial(
            event,
            directory=self.plan.directory,
            read_rows=self.journal.read_rows,
            config=config,
            kept=CheckpointManager(options.keep_checkpoints_num, options.checkpoint_score_attr),
        )

    def _ended(self, error: BaseException | None) -> ev.RunEnded:
        text = None
        if isinstance(error, Exception):
            reason, text = "failed", f"{type(error).__name__}: {error}"
        elif error is not None or self._ending is StopReason.CANCELLED:
            reason = "cancelled"
        else:
            reason = "stopped" if self._ending else "done"
        return ev.RunEnded(reason, text, time.time(), time.monotonic() - self._began)


def _only(error: BaseException) -> BaseException:
    """Take the one exception out of the groups that task groups put around it."""
    while isinstance(error, BaseExceptionGroup):
        first, *others = error.exceptions
        for other in others:
            first.add_note(f"At the same time: {other!r}")
        error = first
    return error
