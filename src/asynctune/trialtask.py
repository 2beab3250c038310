"""One trial as a task: ``step = await actor.step()``, a decision, and so on until one of them ends it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import anyio.to_thread

from asynctune import events as ev
from asynctune.errors import NotSerializable, TrialError, TrialTimeout, WorkerDied
from asynctune.executors._shipping import Shipment
from asynctune.executors.base import Actor, ActorSpec, Executor, Farewell, Step
from asynctune.failures import Failures
from asynctune.function_runner import FunctionTrainable
from asynctune.journal import Journal
from asynctune.judge import Judge
from asynctune.live import LiveTrial
from asynctune.notices import warn
from asynctune.options import Plan
from asynctune.resources import Share
from asynctune.result import TRAINING_ITERATION
from asynctune.trial import CheckpointRef, Status, StopReason


class Run(Protocol):
    """What a trial's task needs of the run that it is part of."""

    plan: Plan
    shipment: Shipment
    executor: Executor
    journal: Journal
    judge: Judge
    running: anyio.CapacityLimiter

    def record(self, event: ev.Event, row: bytes | None = None) -> None:
        """Write an event down, and let the state follow it."""
        ...

    def stop(self) -> None:
        """End the whole run softly."""
        ...

    def trial_failed(self, error: TrialError) -> None:
        """A trial has failed for good."""
        ...


@dataclass(frozen=True, slots=True)
class _End:
    """How a trial ended."""

    reason: StopReason
    exported: dict[str, str] = field(default_factory=dict)


class _NotRestored(Exception):
    """A checkpoint of the trial could not be restored."""

    def __init__(self, checkpoint: CheckpointRef, error: TrialError) -> None:
        super().__init__(checkpoint.path)
        self.checkpoint = checkpoint
        self.error = error


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
        self._failures = Failures(trial, run)
        self._died_in_restore: str | None = None

    async def run(self, verdict: StopReason | None = None) -> None:
        """Run the trial. A failure of it is recorded; what else is raised ends the whole run.

        Args:
            verdict: Why it ends without being run, if that was decided before its driver died.
        """
        trial = self._trial
        end = _End(verdict or StopReason.CANCELLED)
        try:
            if verdict is None:
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
        trial, failures = self._trial, self._failures
        while True:
            delay: float | None = 0.0
            try:
                lent = self._run.executor.slots.lend(trial.resources, owner=self._run)
                async with self._run.running, lent as share:
                    trial.has_slot.set()
                    return await self._attempt(share)
            except _NotRestored as exc:
                if not await self._falls_back(exc):
                    await failures.is_final(exc.error)
                    delay = None
            except (TrialError, NotSerializable) as exc:
                delay = await failures.delay_of_retry(self._as_trial_error(exc))
            if delay is None:
                return _End(StopReason.FAILED)
            trial.has_slot = anyio.Event()
            await anyio.sleep(delay)

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
        with self._limit(self._plan.trial_timeout_s, "trial_timeout_s"):
            async with AsyncExitStack() as stack:
                with self._limit(self._plan.hook_timeout_s, "hook_timeout_s", "_setup"):
                    starting = self._run.executor.start(spec)
                    actor = await stack.enter_async_context(starting)
                try:
                    return await self._train(actor)
                finally:
                    await self._say_farewell(actor)
        raise AssertionError("the limit has raised")

    @contextmanager
    def _limit(self, seconds: float, argument: str, what: str = "") -> Iterator[None]:
        """Raise TrialTimeout when the block takes too long."""
        with anyio.move_on_after(seconds) as clock:
            yield
        if clock.cancelled_caught:
            where = f" in {what}" if what else ""
            trial_id = self._trial.trial_id
            raise TrialTimeout(
                f"trial {trial_id} took longer than {argument}={seconds:g}{where}",
                trial_id=trial_id,
            )

    async def _train(self, actor: Actor) -> _End:
        trial, run = self._trial, self._run
        begin = await self._restore(actor)
        run.record(ev.TrialStarted(trial.trial_id, trial.attempt, begin, time.time()))
        # A retry that begins behind the last row of all has nothing left to train.
        reason = trial.verdict
        while reason is None:
            with self._limit(self._plan.step_timeout_s, "step_timeout_s", "one train()"):
                step = await actor.step()
            if step.ended:
                reason = StopReason.DONE
                break
            self._take(step)
            if self._plan.options.durability == "power":
                await run.journal.synced()
            trial.judged(run.judge.result(trial))
            reason = trial.verdict or trial.order
            if run.judge.stops_all():
                run.stop()
            if self._checkpoint_is_due(step, reason):
                await self._save(actor)
        exported: dict[str, str] = {}
        if self._plan.export_formats:
            with self._limit(self._plan.hook_timeout_s, "hook_timeout_s", "_export_model"):
                exported = await actor.export_model(list(self._plan.export_formats))
        return _End(reason, exported)

    async def _restore(self, actor: Actor) -> str | None:
        """Restore the newest checkpoint, if there is one; return where the attempt begins from."""
        trial, checkpoint = self._trial, self._trial.checkpoint
        begin = checkpoint.path if checkpoint else self._plan.restore
        if begin is None:
            return None
        try:
            with self._limit(self._plan.hook_timeout_s, "hook_timeout_s", "_restore"):
                await actor.restore(begin)
        except TrialError as exc:
            if checkpoint is None:
                raise
            raise _NotRestored(checkpoint, exc) from exc
        return trial.stored_path(begin)

    async def _falls_back(self, failed: _NotRestored) -> bool:
        """Go back one checkpoint after a failed restore; tell whether there is one."""
        trial, checkpoint, error = self._trial, failed.checkpoint, failed.error
        if isinstance(error, WorkerDied) and self._died_in_restore != checkpoint.path:
            # What killed the worker may have nothing to do with the checkpoint: once more, then.
            self._died_in_restore = checkpoint.path
            await warn("%s; the same checkpoint is tried once more", error)
            return True
        before = trial.checkpoints[-2] if len(trial.checkpoints) > 1 else None
        self._run.record(
            ev.CheckpointRejected(
                trial_id=trial.trial_id,
                path=trial.stored_path(checkpoint.path),
                error=str(error),
                resume_sequence=before.sequence if before else trial.next_sequence - 1,
                wall_time=time.time(),
            )
        )
        if before is None:
            error.add_note(f"{checkpoint.path} was the last checkpoint of the trial")
            return False
        await warn(
            "the checkpoint %s cannot be restored (%s); trial %s goes on from the one before, %s",
            checkpoint.path, error, trial.trial_id, before.path,
        )  # fmt: skip
        return True

    def _take(self, step: Step) -> None:
        """Write a result down; from here on everybody may know of it."""
        trial = self._trial
        event = ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, step.row)
        self._run.record(event, step.data)

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
        """Save a checkpoint; then, when it is durably known, drop those that nothing needs."""
        trial, run, limit = self._trial, self._run, self._plan.hook_timeout_s
        with self._limit(limit, "hook_timeout_s", "_save"):
            path = await actor.save()
        self._note_checkpoint(path)
        await run.journal.synced()
        surplus = trial.kept.surplus()
        for old in surplus:
            run.record(ev.CheckpointDropped(trial.trial_id, trial.stored_path(old.path)))
        if surplus:
            await run.journal.synced()
            with self._limit(limit, "hook_timeout_s", "delete_checkpoint"):
                for old in surplus:
                    await self._delete(actor, old)

    def _note_checkpoint(self, path: str) -> None:
        """Write a complete checkpoint down, as that of the newest row."""
        trial = self._trial
        iteration = trial.last_result.get(TRAINING_ITERATION)
        last, stored = trial.next_sequence - 1, trial.stored_path(path)
        self._run.record(ev.Checkpointed(trial.trial_id, trial.attempt, last, stored, iteration))

    async def _delete(self, actor: Actor, old: CheckpointRef) -> None:
        try:
            await actor.delete_checkpoint(old.path)
        except WorkerDied:
            raise
        except TrialError as exc:  # room is wasted, and nothing else: a resume tries again
            await warn("a checkpoint that nothing needs stays: %s", exc)

    async def _say_farewell(self, actor: Actor) -> None:
        trial = self._trial
        with anyio.CancelScope(shield=True):
            farewell = await actor.farewell(self._plan.grace_s, trial.grace)
        trial.grace = anyio.CancelScope(shield=True)
        trial.left_behind = _note(farewell)
        if self._run.journal.is_broken:
            return
        if farewell.saved is not None:
            self._note_checkpoint(farewell.saved)
        if farewell.late is not None:
            self._take(farewell.late)

    async def _close(self, end: _End) -> None:
        trial, run = self._trial, self._run
        failed = end.reason is StopReason.FAILED
        note = None if failed else trial.left_behind
        try:
            if run.journal.is_broken:
                return  # what ended it is known to everybody, and nothing can be written down
            if note is not None:
                await self._failures.write_down(note)
            run.record(
                ev.TrialEnded(
                    trial_id=trial.trial_id,
                    status=Status.ERROR if failed else Status.TERMINATED,
                    reason=end.reason,
                    exported=end.exported,
                    note=note,
                    wall_time=time.time(),
                )
            )
            run.judge.ended(trial)  # at once: a replay tells of it in the order of the journal
            await run.journal.synced()
        except BaseException as exc:
            trial.ended_run = exc  # its end is not certain, so nobody may take it for one
            raise
        finally:
            trial.is_over.set()


def _note(farewell: Farewell) -> str | None:
    notes = [farewell.note] if farewell.note else []
    if farewell.error is not None:
        notes.append(f"{farewell.error}\n{farewell.error.traceback or ''}".rstrip())
    return "\n".join(notes) or None
