"""The runner: one task a trial, and the only module that knows everybody.

A trial is a task that alternates ``step = await actor.step()`` with a decision until one of them ends
it. All that happens goes into the journal first; the state, the readers, the loggers and the callbacks
have it from there.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from asynctune import __version__, journal
from asynctune import events as ev
from asynctune.callback import Callback, feed
from asynctune.checkpoints import CheckpointManager
from asynctune.errors import (
    ConfigError,
    MetricMissing,
    TrialError,
    TrialTimeout,
    TuneError,
)
from asynctune.executors._shipping import Shipment
from asynctune.executors.base import Actor, ActorSpec, Executor, Farewell, Step
from asynctune.function_runner import FunctionTrainable
from asynctune.journal import Journal
from asynctune.live import LiveTrial
from asynctune.logcallback import LogFeeder
from asynctune.notices import warn
from asynctune.options import Plan
from asynctune.progress.terminal import LineProgress, OutputEcho
from asynctune.resources import Resources, Share
from asynctune.result import DONE, TRAINING_ITERATION, flatten
from asynctune.schedulers import Decision
from asynctune.space import Variant
from asynctune.state import ExperimentState
from asynctune.suggest import BasicVariantGenerator
from asynctune.trainable import defines_hook
from asynctune.trial import Status, StopReason

_DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class _End:
    """How a trial ended."""

    reason: StopReason
    exported: dict[str, str] = field(default_factory=dict)


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
        self._executor = executor
        self._variants = BasicVariantGenerator(plan.space, plan.options.num_samples, plan.seed)
        self._prefix = secrets.token_hex(3)[:5]
        self._trials: anyio.abc.TaskGroup | None = None
        self._configs: dict[str, dict[str, Any]] = {}
        self._running = anyio.CapacityLimiter(plan.options.max_concurrent_trials or math.inf)
        self._drawing = anyio.CancelScope()
        self._ending: StopReason | None = None
        self._scope = anyio.CancelScope()
        self._first_error: TrialError | None = None
        self.is_ready = anyio.Event()

    # -- from outside -----------------------------------------------------------------------------

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

    def add_trial(self, config: dict[str, Any]) -> LiveTrial:
        """Add a trial by hand, to the end of the queue.

        Raises:
            TuneError: The run is over, or ending.
        """
        if self._trials is None or self._ending is not None:
            raise TuneError("add_trial() was called on an experiment that has ended or is ending")
        trial = self._add(Variant(config, {}, "by hand"), by_hand=True)
        self._trials.start_soon(self._run_trial, trial)
        return trial

    # -- the whole run ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Run all trials to their ends.

        Raises:
            TrialError: A trial failed, and ``raise_on_failed_trial`` or ``fail_fast`` is set.
            TuneError: What else ended the run, such as a metric that is missing; an exception of a
                scheduler or stopper comes as it is.
        """
        error: BaseException | None = None
        async with self._services():
            self._record(self._started())
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
                self._record(self._ended(error))
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
            async with AsyncExitStack() as stack:
                services = await stack.enter_async_context(anyio.create_task_group())
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
                    services.cancel_scope.shield = True
                    services.cancel_scope.deadline = anyio.current_time() + _DRAIN_S
            if services.cancel_scope.cancelled_caught:
                await warn("loggers or callbacks did not end within %g s and were cut", _DRAIN_S)
        finally:
            self.journal.close()

    async def _draw_all(self) -> None:
        """Draw trials one after another, each when the one before has got its slot."""
        with self._drawing:
            while self._ending is None:
                variant = self._variants.next()
                if variant is None:
                    return
                trial = self._add(variant)
                assert self._trials is not None
                self._trials.start_soon(self._run_trial, trial)
                await trial.has_slot.wait()

    async def _watch_budget(self) -> None:
        if not math.isinf(self.plan.time_budget_s):
            await anyio.sleep(self.plan.time_budget_s)
            self.stop(StopReason.TIME_BUDGET, now=True)

    # -- one trial --------------------------------------------------------------------------------

    async def _run_trial(self, trial: LiveTrial) -> None:
        end = _End(self._ending or StopReason.CANCELLED)
        try:
            with trial.scope:
                end = await self._attempts(trial)
            if trial.scope.cancelled_caught:
                end = _End(trial.order or StopReason.CANCELLED)
        finally:
            trial.has_slot.set()
            with anyio.CancelScope(shield=True):
                await self._close_trial(trial, end)

    async def _attempts(self, trial: LiveTrial) -> _End:
        """Try until it ends well, or has failed too often."""
        while True:
            try:
                async with (
                    self._running,
                    self._executor.slots.lend(trial.resources, owner=self) as share,
                ):
                    trial.has_slot.set()
                    return await self._attempt(trial, share)
            except TrialError as exc:
                if not await self._retries(trial, exc):
                    return _End(StopReason.FAILED)

    async def _attempt(self, trial: LiveTrial, share: Share) -> _End:
        """Build the trial, train it to its end, and let it clean up."""
        spec = ActorSpec(
            shipment=self.shipment,
            config=self._configs[trial.trial_id],
            share=share,
            logdir=trial.logdir,
            trial_id=trial.trial_id,
            trial_name=trial.name,
            tag=trial.tag,
            log=os.path.join(trial.logdir, "output.log"),
            grace_s=self.plan.grace_s,
        )
        limit = self.plan.trial_timeout_s
        with anyio.move_on_after(limit) as clock:
            async with self._executor.start(spec) as actor:
                try:
                    return await self._train(trial, actor)
                finally:
                    await self._say_farewell(trial, actor)
        assert clock.cancelled_caught
        raise TrialTimeout(
            f"trial {trial.trial_id} took longer than trial_timeout_s={limit:g}",
            trial_id=trial.trial_id,
        )

    async def _train(self, trial: LiveTrial, actor: Actor) -> _End:
        begin = trial.checkpoint.path if trial.checkpoint else self.plan.restore
        if begin is not None:
            await actor.restore(begin)
        self._record(ev.TrialStarted(trial.trial_id, trial.attempt, begin, time.time()))
        manager = CheckpointManager(
            self.plan.options.keep_checkpoints_num, self.plan.options.checkpoint_score_attr
        )
        reason: StopReason | None = None
        while reason is None:
            step = await self._step(trial, actor)
            if step.ended:
                reason = StopReason.DONE
                break
            self._take(trial, step)
            if self.plan.options.durability == "power":
                await self.journal.synced()
            reason = self._judge(trial)
            if self._checkpoint_is_due(trial, step, reason):
                await self._save(trial, actor, manager)
        exported: dict[str, str] = {}
        if self.plan.export_formats:
            exported = await actor.export_model(list(self.plan.export_formats))
        return _End(reason, exported)

    async def _step(self, trial: LiveTrial, actor: Actor) -> Step:
        limit = self.plan.step_timeout_s
        with anyio.move_on_after(limit) as clock:
            return await actor.step()
        assert clock.cancelled_caught
        raise TrialTimeout(
            f"trial {trial.trial_id} took longer than step_timeout_s={limit:g} for one train()",
            trial_id=trial.trial_id,
        )

    def _take(self, trial: LiveTrial, step: Step) -> None:
        """Write a result down; from here on everybody may know of it."""
        event = ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, step.row)
        self._record(event, step.data)

    def _judge(self, trial: LiveTrial) -> StopReason | None:
        """Decide about the newest row: why the trial ends, or None."""
        row = trial.last_result
        flat = flatten(row)
        metric = self.plan.options.metric
        if metric is not None and metric not in flat:
            raise MetricMissing(metric, flat)
        if self.plan.stopper(trial.trial_id, row):
            return StopReason.CRITERION
        if self.plan.stopper.stop_all():
            self.stop()
        if row.get(DONE):
            return StopReason.DONE
        if trial.order is not None:
            return trial.order
        decision = self.plan.scheduler.on_trial_result(trial, flat)
        if decision == Decision.STOP:
            return StopReason.SCHEDULER
        if decision != Decision.CONTINUE:
            raise TuneError(
                f"{type(self.plan.scheduler).__name__}.on_trial_result() answered {decision!r}; "
                "CONTINUE or STOP is wanted"
            )
        return None

    def _checkpoint_is_due(self, trial: LiveTrial, step: Step, reason: StopReason | None) -> bool:
        if step.checkpoint:
            return True
        if issubclass(self.shipment.cls, FunctionTrainable):
            return False  # it has offered none with this report, so there is nothing new to keep
        options = self.plan.options
        if reason is not None and options.checkpoint_at_end:
            return True
        iteration = trial.last_result.get(TRAINING_ITERATION)
        return bool(
            options.checkpoint_freq and iteration and iteration % options.checkpoint_freq == 0
        )

    async def _save(self, trial: LiveTrial, actor: Actor, manager: CheckpointManager) -> None:
        path = await actor.save()
        sequence = trial.next_sequence - 1
        iteration = trial.last_result.get(TRAINING_ITERATION)
        event = ev.Checkpointed(trial.trial_id, trial.attempt, sequence, path, iteration)
        self._record(event)
        await self.journal.synced()
        assert trial.checkpoint is not None
        surplus = manager.add(trial.checkpoint, flatten(trial.last_result))
        for old in surplus:
            self._record(ev.CheckpointDropped(trial.trial_id, old.path))
        if surplus:
            # Deleted only after it is durably known that nothing needs them.
            await self.journal.synced()
            for old in surplus:
                await actor.delete_checkpoint(old.path)

    async def _say_farewell(self, trial: LiveTrial, actor: Actor) -> None:
        with anyio.CancelScope(shield=True):
            farewell = await actor.farewell(self.plan.grace_s, trial.grace)
        trial.grace = anyio.CancelScope(shield=True)
        trial.left_behind = _note(farewell)
        if farewell.late is not None:
            self._take(trial, farewell.late)

    async def _retries(self, trial: LiveTrial, error: TrialError) -> bool:
        """Record a failure; tell whether the trial is tried again."""
        limit = self.plan.options.max_failures
        again = (limit == -1 or trial.num_failures < limit) and trial.order is None
        last = trial.next_sequence - 1
        resume = (trial.checkpoint.sequence if trial.checkpoint else -1) if again else last
        number = trial.num_failures + 1
        cause = error.__cause__
        self._record(
            ev.TrialFailed(
                trial_id=trial.trial_id,
                attempt=trial.attempt,
                error=str(error),
                error_type=type(error).__name__ if cause is None else type(cause).__name__,
                traceback=error.traceback,
                resume_sequence=resume,
                wall_time=time.time(),
            )
        )
        trial.error = error
        text = f"Failure # {number} (occurred at {time.strftime('%Y-%m-%d %H:%M:%S')})\n"
        await self._write_error(trial, f"{text}{error}\n{error.traceback or ''}\n")
        if again:
            return True
        if self._first_error is None:
            self._first_error = error
        if self.plan.options.fail_fast:
            self.cancel()
        return False

    async def _close_trial(self, trial: LiveTrial, end: _End) -> None:
        failed = end.reason is StopReason.FAILED
        note = None if failed else trial.left_behind
        if note is not None:
            await self._write_error(trial, note)
        self._configs.pop(trial.trial_id, None)
        self._record(
            ev.TrialEnded(
                trial_id=trial.trial_id,
                status=Status.ERROR if failed else Status.TERMINATED,
                reason=end.reason,
                exported=end.exported,
                note=note,
                wall_time=time.time(),
            )
        )
        await self.journal.synced()
        trial.is_over.set()
        if failed:
            self.plan.scheduler.on_trial_error(trial)
        elif trial.started_at is None:
            self.plan.scheduler.on_trial_remove(trial)
        else:
            self.plan.scheduler.on_trial_complete(trial, flatten(trial.last_result))

    # -- small things -----------------------------------------------------------------------------

    def _add(self, variant: Variant, *, by_hand: bool = False) -> LiveTrial:
        index = len(self.state.trials)
        resources = self.resources_of(variant.config)
        trial_id = f"{self._prefix}_{index:05d}"
        self._configs[trial_id] = variant.config
        event = ev.TrialAdded(
            trial_id=trial_id,
            index=index,
            name=f"{self.shipment.name}_{trial_id}",
            tag=variant.tag,
            config=variant.config,
            drawn=None if by_hand else variant.drawn,
            resources=resources.to_dict(),
            wall_time=time.time(),
        )
        self._record(event)
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
        resources = self.plan.resources or Resources()
        if requested is not None:
            what = f"{cls.__name__}.default_resource_request()"
            resources = Resources.from_mapping(requested, what)
        what = "resources_per_trial" if requested is None else what
        self._executor.pool.check(resources, what=what, advice=cls.resource_help(config))
        return resources

    def check(self) -> None:
        """Refuse what can be known to fail before anything starts. Takes a while: user code runs.

        Raises:
            ConfigError: As the message says.
        """
        cls, options = self.shipment.cls, self.plan.options
        config = self.plan.space.variant(0, self.plan.seed).config
        self.resources_of(config)
        self._executor.check_config(config)
        if (options.checkpoint_freq or options.checkpoint_at_end) and not defines_hook(
            cls, "_save"
        ):
            raise ConfigError(
                f"checkpoints are asked for (checkpoint_freq, checkpoint_at_end), but {cls.__name__} "
                "defines neither _save nor save_checkpoint"
            )

    def _make_trial(self, event: ev.TrialAdded) -> LiveTrial:
        trial = LiveTrial(
            event,
            directory=self.plan.directory,
            read_rows=self.journal.read_rows,
            config=self._configs[event.trial_id],
        )
        creator = self.plan.options.trial_name_creator
        if creator is not None:
            trial.name = str(creator(trial))
        return trial

    def _record(self, event: ev.Event, row: bytes | None = None) -> None:
        place = self.journal.append(event, row)
        self.state.apply(event, place)

    async def _write_error(self, trial: LiveTrial, text: str) -> None:
        def write() -> None:
            os.makedirs(trial.logdir, mode=0o700, exist_ok=True)
            with open(os.path.join(trial.logdir, "error.txt"), "a", encoding="utf-8") as file:
                file.write(text.rstrip() + "\n\n")

        try:
            await anyio.to_thread.run_sync(write)
        except OSError as exc:  # the journal has it too
            await warn("error.txt of trial %s could not be written: %s", trial.trial_id, exc)

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


def _note(farewell: Farewell) -> str | None:
    notes = [farewell.note] if farewell.note else []
    if farewell.error is not None:
        notes.append(f"{farewell.error}\n{farewell.error.traceback or ''}".rstrip())
    return "\n".join(notes) or None


def _only(error: BaseException) -> BaseException:
    """Take the one exception out of the groups that task groups put around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
