"""One trial as a task: ``step = await actor.step()``, a decision, and so on until one of them ends it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import anyio.to_thread

from asynctune import events as ev
from asynctune.checkpoints import CheckpointManager
from asynctune.errors import (
    MetricMissing,
    NotSerializable,
    TrialError,
    TrialTimeout,
    TuneError,
)
from asynctune.executors._shipping import Shipment
from asynctune.executors.base import Actor, ActorSpec, Executor, Farewell, Step
from asynctune.function_runner import FunctionTrainable
from asynctune.journal import Journal
from asynctune.live import LiveTrial
from asynctune.notices import warn
from asynctune.options import Plan
from asynctune.resources import Share
from asynctune.result import DONE, TRAINING_ITERATION, copy_row, flatten
from asynctune.schedulers import Decision
from asynctune.trial import Status, StopReason


class Run(Protocol):
    """What a trial's task needs of the run that it is part of."""

    plan: Plan
    shipment: Shipment
    executor: Executor
    journal: Journal
    running: anyio.CapacityLimiter

    def record(self, event: ev.Event, row: bytes | None = None) -> None:
        """Write an event down, and let the state follow it."""
        ...

    def stop(self) -> None:
        """End the whole run softly."""
        ...

    def on_failure(self, error: TrialError) -> None:
        """A trial has failed for good."""
        ...


@dataclass(frozen=True, slots=True)
class _End:
    """How a trial ended."""

    reason: StopReason
    exported: dict[str, str] = field(default_factory=dict)


class TrialTask:
    """Takes one trial from its slot to its end, over all its attempts.

    Args:
        trial: The trial.
        run: The run.
    """

    def __init__(self, trial: LiveTrial, run: Run) -> None:
        self._trial = trial
        self._run = run
        self._plan = run.plan
        options = run.plan.options
        self._kept = CheckpointManager(options.keep_checkpoints_num, options.checkpoint_score_attr)

    async def run(self) -> None:
        """Run the trial. A failure of it is recorded; what else is raised ends the whole run."""
        trial = self._trial
        end = _End(StopReason.CANCELLED)
        try:
            with trial.scope:
                end = await self._attempts()
            if trial.scope.cancelled_caught:
                end = _End(trial.order or StopReason.CANCELLED)
        except Exception as exc:
            trial.ended_run = exc  # who awaits this trial is to hear of it, too
            raise
        finally:
            trial.has_slot.set()
            with anyio.CancelScope(shield=True):
                await self._close(end)

    async def _attempts(self) -> _End:
        """Try until it ends well, or has failed too often."""
        while True:
            try:
                lent = self._run.executor.slots.lend(self._trial.resources, owner=self._run)
                async with self._run.running, lent as share:
                    self._trial.has_slot.set()
                    return await self._attempt(share)
            except (TrialError, NotSerializable) as exc:
                if not await self._is_tried_again(self._as_trial_error(exc)):
                    return _End(StopReason.FAILED)
                self._trial.has_slot = anyio.Event()

    def _as_trial_error(self, error: TrialError | NotSerializable) -> TrialError:
        if isinstance(error, TrialError):
            return error
        # A configuration that cannot travel is the matter of its own trial.
        trial_id = self._trial.trial_id
        wrapped = TrialError(f"trial {trial_id} cannot start: {error}", trial_id=trial_id)
        wrapped.__cause__ = error
        return wrapped

    async def _attempt(self, share: Share) -> _End:
        """Build the trial, train it to its end, and let it clean up."""
        trial = self._trial
        spec = ActorSpec(
            shipment=self._run.shipment,
            config=trial.config,
            share=share,
            logdir=trial.logdir,
            trial_id=trial.trial_id,
            trial_name=trial.name,
            tag=trial.tag,
            log=os.path.join(trial.logdir, "output.log"),
            grace_s=self._plan.grace_s,
        )
        limit = self._plan.trial_timeout_s
        with anyio.move_on_after(limit) as clock:
            async with self._run.executor.start(spec) as actor:
                try:
                    return await self._train(actor)
                finally:
                    await self._say_farewell(actor)
        assert clock.cancelled_caught
        raise TrialTimeout(
            f"trial {trial.trial_id} took longer than trial_timeout_s={limit:g}",
            trial_id=trial.trial_id,
        )

    async def _train(self, actor: Actor) -> _End:
        trial = self._trial
        begin = trial.checkpoint.path if trial.checkpoint else self._plan.restore
        if begin is not None:
            await actor.restore(begin)
        self._run.record(ev.TrialStarted(trial.trial_id, trial.attempt, begin, time.time()))
        reason: StopReason | None = None
        while reason is None:
            step = await self._step(actor)
            if step.ended:
                reason = StopReason.DONE
                break
            self._take(step)
            if self._plan.options.durability == "power":
                await self._run.journal.synced()
            reason = self._judge()
            if self._checkpoint_is_due(step, reason):
                await self._save(actor)
        exported: dict[str, str] = {}
        if self._plan.export_formats:
            exported = await actor.export_model(list(self._plan.export_formats))
        return _End(reason, exported)

    async def _step(self, actor: Actor) -> Step:
        limit = self._plan.step_timeout_s
        with anyio.move_on_after(limit) as clock:
            return await actor.step()
        assert clock.cancelled_caught
        trial_id = self._trial.trial_id
        raise TrialTimeout(
            f"trial {trial_id} took longer than step_timeout_s={limit:g} for one train()",
            trial_id=trial_id,
        )

    def _take(self, step: Step) -> None:
        """Write a result down; from here on everybody may know of it."""
        trial = self._trial
        event = ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, step.row)
        self._run.record(event, step.data)

    def _judge(self) -> StopReason | None:
        """Decide about the newest row: why the trial ends, or None."""
        trial, row = self._trial, self._trial.last_result
        flat = flatten(row)
        metric = self._plan.options.metric
        if metric is not None and metric not in flat:
            raise MetricMissing(metric, flat)
        if self._plan.stopper(trial.trial_id, copy_row(row)):
            return StopReason.CRITERION
        if self._plan.stopper.stop_all():
            self._run.stop()
        if row.get(DONE):
            return StopReason.DONE
        if trial.order is not None:
            return trial.order
        scheduler = self._plan.scheduler
        decision = scheduler.on_trial_result(trial, flat)
        if decision == Decision.STOP:
            return StopReason.SCHEDULER
        if decision != Decision.CONTINUE:
            raise TuneError(
                f"{type(scheduler).__name__}.on_trial_result() answered {decision!r}; CONTINUE or "
                "STOP is wanted"
            )
        return None

    def _checkpoint_is_due(self, step: Step, reason: StopReason | None) -> bool:
        if step.checkpoint:
            return True
        if issubclass(self._run.shipment.cls, FunctionTrainable):
            return False  # it has offered none with this report, so there is nothing new to keep
        options = self._plan.options
        if reason is not None and options.checkpoint_at_end:
            return True
        iteration = self._trial.last_result.get(TRAINING_ITERATION)
        return bool(
            options.checkpoint_freq and iteration and iteration % options.checkpoint_freq == 0
        )

    async def _save(self, actor: Actor) -> None:
        trial, run = self._trial, self._run
        path = await actor.save()
        iteration = trial.last_result.get(TRAINING_ITERATION)
        run.record(
            ev.Checkpointed(trial.trial_id, trial.attempt, trial.next_sequence - 1, path, iteration)
        )
        await run.journal.synced()
        assert trial.checkpoint is not None
        surplus = self._kept.add(trial.checkpoint, flatten(trial.last_result))
        for old in surplus:
            run.record(ev.CheckpointDropped(trial.trial_id, old.path))
        if surplus:
            # Deleted only after it is durably known that nothing needs them.
            await run.journal.synced()
            for old in surplus:
                await actor.delete_checkpoint(old.path)

    async def _say_farewell(self, actor: Actor) -> None:
        trial = self._trial
        with anyio.CancelScope(shield=True):
            farewell = await actor.farewell(self._plan.grace_s, trial.grace)
        trial.grace = anyio.CancelScope(shield=True)
        trial.left_behind = _note(farewell)
        if farewell.late is not None:
            self._take(farewell.late)

    async def _is_tried_again(self, error: TrialError) -> bool:
        """Record a failure; tell whether another attempt follows."""
        trial = self._trial
        limit = self._plan.options.max_failures
        again = (limit == -1 or trial.num_failures < limit) and trial.order is None
        last = trial.next_sequence - 1
        resume = (trial.checkpoint.sequence if trial.checkpoint else -1) if again else last
        cause = error.__cause__
        self._run.record(
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
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        head = f"Failure # {trial.num_failures} (occurred at {moment})"
        if not again:
            self._run.on_failure(error)  # before anything that a cancellation could interrupt
        with anyio.CancelScope(shield=True):
            await self._write_error(f"{head}\n{error}\n{error.traceback or ''}")
        return again

    async def _close(self, end: _End) -> None:
        trial, scheduler = self._trial, self._plan.scheduler
        failed = end.reason is StopReason.FAILED
        note = None if failed else trial.left_behind
        if note is not None:
            await self._write_error(note)
        self._run.record(
            ev.TrialEnded(
                trial_id=trial.trial_id,
                status=Status.ERROR if failed else Status.TERMINATED,
                reason=end.reason,
                exported=end.exported,
                note=note,
                wall_time=time.time(),
            )
        )
        await self._run.journal.synced()
        trial.is_over.set()
        if failed:
            scheduler.on_trial_error(trial)
        elif trial.started_at is None:
            scheduler.on_trial_remove(trial)
        else:
            scheduler.on_trial_complete(trial, flatten(trial.last_result))

    async def _write_error(self, text: str) -> None:
        trial = self._trial

        def write() -> None:
            os.makedirs(trial.logdir, mode=0o700, exist_ok=True)
            with open(os.path.join(trial.logdir, "error.txt"), "a", encoding="utf-8") as file:
                file.write(text.rstrip() + "\n\n")

        try:
            await anyio.to_thread.run_sync(write)
        except OSError as exc:  # the journal has it too
            await warn("error.txt of trial %s could not be written: %s", trial.trial_id, exc)


def _note(farewell: Farewell) -> str | None:
    notes = [farewell.note] if farewell.note else []
    if farewell.error is not None:
        notes.append(f"{farewell.error}\n{farewell.error.traceback or ''}".rstrip())
    return "\n".join(notes) or None
