"""The runner: draws the trials, and owns their tasks and all that lives beside them.

It is the only module that knows everybody. All that happens goes into the journal first; the state, the
readers, the loggers and the callbacks have it from there.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from asynctune import __version__, journal
from asynctune import events as ev
from asynctune.callback import Callback, feed
from asynctune.errors import (
    ConfigError,
    TrialError,
    TuneError,
)
from asynctune.executors._shipping import Shipment
from asynctune.executors.base import Executor
from asynctune.journal import Journal
from asynctune.live import LiveTrial
from asynctune.logcallback import LogFeeder
from asynctune.notices import warn
from asynctune.options import Plan
from asynctune.progress.terminal import LineProgress, OutputEcho
from asynctune.resources import Resources
from asynctune.result import shown
from asynctune.space import Space, Variant
from asynctune.state import ExperimentState
from asynctune.suggest import BasicVariantGenerator
from asynctune.trainable import defines_hook
from asynctune.trial import Status, StopReason
from asynctune.trialtask import TrialTask

_DRAIN_S = 30.0


class Runner:
    """Runs the trials of one experiment.

    Args:
        plan: What to do.
        shipment: The trainable.
        executor: Where; it is open while :meth:`run` runs.
        journal: The new journal of the experiment.
    """

    def __init__(
        self, plan: Plan, shipment: Shipment, executor: Executor, journal: Journal
    ) -> None:
        self.plan = plan
        self.shipment = shipment
        self.journal = journal
        self.state: ExperimentState[LiveTrial] = ExperimentState(self._make_trial)
        self.executor = executor
        self._variants = BasicVariantGenerator(plan.space, plan.options.num_samples, plan.seed)
        self._prefix = secrets.token_hex(3)[:5]
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

    def on_failure(self, error: TrialError) -> None:
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
            self.record(self._started())
            try:
                with self._scope:
                    async with anyio.create_task_group() as clock:
                        clock.start_soon(self._watch_budget)
                        async with anyio.create_task_group() as self._trials:
                            self._trials.start_soon(self._draw_all)
                            self.is_ready.set()
                        clock.cancel_scope.cancel()
            except BaseException as exc:
                error = _only(exc)
            finally:
                self._trials = None
                self.is_ready.set()
                if error is None and self._first_error is not None:
                    error = self._failure()
                self.record(self._ended(error))
        if error is not None:
            raise error

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        """Run what lives beside the trials: it ends after them, when it has seen the last event."""
        consumers: list[Callback] = []
        options = self.plan.options
        if options.verbose:
            consumers.append(LineProgress(self.state, self.total, options.metric, options.mode))
        if options.log_to_driver:
            consumers.append(OutputEcho(self.state))
        consumers += options.callbacks or ()
        try:
            async with anyio.create_task_group() as services:
                services.start_soon(self.journal.sync_in_groups)
                for consumer in consumers:
                    services.start_soon(feed, consumer, self.journal.follow(), self.state)
                if self.plan.loggers:
                    feeder = LogFeeder(self.plan.loggers, self.state)
                    services.start_soon(feeder.run, self.journal.follow())
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

    async def _watch_budget(self) -> None:
        if not math.isinf(self.plan.time_budget_s):
            await anyio.sleep(self.plan.time_budget_s)
            self.stop(StopReason.TIME_BUDGET, now=True)

    def _draw(self) -> tuple[Variant, Resources, dict[str, Any]] | None:
        variant = self._variants.next()
        return None if variant is None else self._looked_at(variant)

    def _looked_at(self, variant: Variant) -> tuple[Variant, Resources, dict[str, Any]]:
        """Find out what a variant asks for, and how it is shown."""
        return variant, self.resources_of(variant.config), shown(variant.config)

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
        )
        creator = self.plan.options.trial_name_creator
        if creator is not None:
            event = replace(event, name=str(creator(self._make_trial(event))))
        self.record(event)
        del self._configs[trial_id]
        trial = self.state.trials[trial_id]
        self.plan.scheduler.on_trial_add(trial)
        return trial

    def resources_of(self, config: dict[str, Any]) -> Resources:
        """Find out what a trial with this configuration gets.

        Raises:
            ConfigError: It can never be had; the message has ``resource_help``.
        """
        cls = self.shipment.cls
        requested = cls.default_resource_request(config)
        if requested is not None and self.plan.resources is not None:
            raise ConfigError(
                f"resources_per_trial is given, and {cls.__name__}.default_resource_request() "
                "answers too; give one of them"
            )
        if requested is None:
            what, resources = "resources_per_trial", self.plan.resources or Resources()
        else:
            what = f"{cls.__name__}.default_resource_request()"
            resources = Resources.from_mapping(requested, what)
        self.executor.pool.check(resources, what=what, advice=cls.resource_help(config))
        return resources

    def check(self) -> None:
        """Refuse what can be known to fail before anything starts. Takes a while: user code runs.

        Raises:
            ConfigError: As the message says.
        """
        cls, options = self.shipment.cls, self.plan.options
        config = self.plan.space.variant(0, self.plan.seed).config
        self.resources_of(config)
        self.executor.check_config(config)
        if self.plan.export_formats and not defines_hook(cls, "_export_model"):
            raise ConfigError(
                f"export_formats asks for {', '.join(self.plan.export_formats)}, but {cls.__name__} "
                "defines no _export_model"
            )
        if (options.checkpoint_freq or options.checkpoint_at_end) and not defines_hook(
            cls, "_save"
        ):
            raise ConfigError(
                f"checkpoints are asked for (checkpoint_freq, checkpoint_at_end), but {cls.__name__} "
                "defines neither _save nor save_checkpoint"
            )

    def _make_trial(self, event: ev.TrialAdded) -> LiveTrial:
        return LiveTrial(
            event,
            directory=self.plan.directory,
            read_rows=self.journal.read_rows,
            config=self._configs[event.trial_id],
        )

    def _failure(self) -> TrialError | None:
        """Return the error that the run raises for its failed trials, if it raises one."""
        options = self.plan.options
        if not (options.raise_on_failed_trial or options.fail_fast):
            return None
        error = self._first_error
        assert error is not None
        trials = self.state.trials.values()
        error.failures = {
            trial.trial_id: trial.error
            for trial in trials
            if trial.status is Status.ERROR and trial.error is not None
        }
        others = [failure for failure in error.failures.values() if failure is not error]
        if others:
            error.add_note(
                f"{len(others) + 1} of {len(self.state.trials)} trials failed. The others:"
            )
            for other in others[:10]:
                error.add_note(f"  {other}")
            if len(others) > 10:
                error.add_note(f"  ... and {len(others) - 10} more; see error.failures")
        return error

    def _started(self) -> ev.RunStarted:
        options = self.plan.options
        return ev.RunStarted(
            format=journal.FORMAT,
            name=self.plan.name,
            trainable=self.shipment.name,
            metric=options.metric,
            mode=options.mode,
            seed=self.plan.seed,
            num_samples=options.num_samples,
            started_at=time.time(),
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
        )

    def _ended(self, error: BaseException | None) -> ev.RunEnded:
        if isinstance(error, Exception):
            return ev.RunEnded("failed", f"{type(error).__name__}: {error}", time.time())
        if error is not None or self._ending is StopReason.CANCELLED:
            return ev.RunEnded("cancelled", None, time.time())
        return ev.RunEnded("stopped" if self._ending else "done", None, time.time())


def _only(error: BaseException) -> BaseException:
    """Take the one exception out of the groups that task groups put around it."""
    while isinstance(error, BaseExceptionGroup):
        first, *others = error.exceptions
        for other in others:
            first.add_note(f"At the same time: {other!r}")
        error = first
    return error
