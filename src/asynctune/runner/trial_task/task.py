"""The task of one trial: ``step = await actor.step()``, then a decision, until the trial ends."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum

import anyio
import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.errors import MetricMissing, NotSerializable, StorageError, TrialError, TuneError
from asynctune.executors.actor import Actor, ActorSpec, ShutdownResult, Step
from asynctune.executors.pool import Share
from asynctune.executors.slots import Lease
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status, StopReason
from asynctune.runner.context import RunContext
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.trial_task.checkpoints import RestoreFailed, TrialCheckpoints, limit
from asynctune.runner.trial_task.exploit import exploit_event
from asynctune.runner.trial_task.failures import Failures
from asynctune.schedulers import Decision, Exploit
from asynctune.storage.checkpoints.commits import RemoteDir


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a trial."""

    reason: StopReason
    exported: dict[str, str] = field(default_factory=dict)


class _Left(Enum):
    """The reason why a trial has left its worker without an end."""

    PAUSED = "paused"
    CHANGED = "changed"
    """The trial gets another configuration, which its live object cannot take: build another object."""


class TrialTask:
    """Runs one trial from its first slot to its end, over all attempts.

    Args:
        trial: The trial.
        run: The run.
    """

    def __init__(self, trial: LiveTrial, run: RunContext) -> None:
        self._trial = trial
        self._run = run
        self._plan = run.plan
        self._failures = Failures(trial, run)
        self._checkpoints = TrialCheckpoints(trial, run)

    async def run(self, stop_reason: StopReason | None = None) -> None:
        """Run the trial. A failure of the trial is recorded; any other exception ends the whole run.

        Args:
            stop_reason: The stop reason of a trial that ends without being run, None for others.
        """
        trial = self._trial
        end = _End(stop_reason or StopReason.CANCELLED)
        self._run.slots.trial_started(trial)
        try:
            if stop_reason is None:
                with trial.scope:
                    end = await self._attempts()
                if trial.scope.cancelled_caught:
                    end = _End(trial.requested_stop or StopReason.CANCELLED)
        except Exception as exc:
            trial.run_error = exc  # awaiting this trial raises the exception, too
            raise
        finally:
            if trial.lease is not None:  # the slot came too late
                trial.lease.release()
            trial.has_slot.set()
            with anyio.CancelScope(shield=True):
                await self._close(end)

    async def _attempts(self) -> _End:
        """Attempt the trial until an attempt ends well, or too many have failed."""
        trial, failures = self._trial, self._failures
        while True:
            delay: float | None = 0.0
            try:
                if trial.status is Status.PAUSED:
                    await trial.has_slot.wait()
                with await self._slot() as lease:
                    trial.has_slot.set()
                    end: _End | _Left = _Left.CHANGED
                    while end is _Left.CHANGED:
                        end = await self._attempt(lease.share)
                if isinstance(end, _End):
                    return end
                continue
            except RestoreFailed as exc:
                if not await self._checkpoints.fall_back(exc):
                    await failures.record_final(exc.error)
                    delay = None
            except (TrialError, NotSerializable) as exc:
                if isinstance(exc.__cause__, StorageError) and exc.__cause__.errno is not None:
                    raise exc.__cause__ from exc  # a full or broken disk stops all trials
                delay = await failures.delay_of_retry(self._as_trial_error(exc))
            if delay is None:
                return _End(StopReason.FAILED)
            trial.has_slot = anyio.Event()
            if trial.requested_stop is not None:  # requested while the failure was recorded
                return _End(trial.requested_stop)
            await anyio.sleep(delay)

    async def _slot(self) -> Lease:
        """Return the slot that the dispatcher gave to the trial, or wait for a slot."""
        lease, self._trial.lease = self._trial.lease, None
        return lease or await self._run.slots.lease(self._trial.resources)

    def _as_trial_error(self, error: TrialError | NotSerializable) -> TrialError:
        if isinstance(error, TrialError):
            return error
        # A configuration that cannot be pickled fails its own trial and no other.
        trial_id = self._trial.trial_id
        wrapped = TrialError(f"trial {trial_id} cannot start: {error}", trial_id=trial_id)
        wrapped.__cause__ = error
        return wrapped

    async def _attempt(self, share: Share) -> _End | _Left:
        """Build the trial, train the trial until it leaves its worker, and let it clean up."""
        trial = self._trial
        spec = ActorSpec(
            serialized=self._run.serialized,
            config=trial.config,
            share=share,
            logdir=trial.logdir,
            trial_id=trial.trial_id,
            trial_name=trial.name,
            tag=trial.tag,
            log=os.path.join(trial.logdir, "output.log"),
            grace_s=self._plan.options.grace_s,
            remote=self._remote_dir(),
        )
        plan = self._plan
        with limit(trial.trial_id, plan.options.trial_timeout_s, "trial_timeout_s"):
            async with AsyncExitStack() as stack:
                with limit(trial.trial_id, plan.options.hook_timeout_s, "hook_timeout_s", "_setup"):
                    starting = self._run.executor.start(spec)
                    actor = await stack.enter_async_context(starting)
                try:
                    return await self._train(actor)
                finally:
                    await self._shut_down(actor)
        raise AssertionError("the limit has raised")

    def _remote_dir(self) -> RemoteDir | None:
        trial, replica = self._trial, self._run.replica
        if replica is None or not self._run.serialized.is_durable:
            return None
        return replica.remote_dir(trial.trial_id, trial.attempt)

    async def _train(self, actor: Actor) -> _End | _Left:
        trial, run, plan = self._trial, self._run, self._plan
        begin = await self._checkpoints.restore(actor)
        run.record(
            ev.TrialStarted(
                trial_id=trial.trial_id,
                attempt=trial.attempt,
                restored_from=begin,
                wall_time=time.time(),
                resume_sequence=self._checkpoints.restored_sequence(),
            )
        )
        # A retry whose checkpoint covers the last row may have nothing left to train.
        reason = trial.decided_stop
        while reason is None:
            with limit(
                trial.trial_id, plan.options.step_timeout_s, "step_timeout_s", "one train()"
            ):
                step = await actor.step()
            if step.ended:
                reason = StopReason.DONE
                break
            self._record_step(step)
            # Before any await: a replay decides in the order of the journal.
            trial.set_decision(run.decider.decide(trial))
            if plan.options.durability == "power":
                await run.journal.synced()
            run.slots.wake()
            reason = trial.decided_stop or trial.requested_stop
            if run.decider.stops_run():
                run.stop()
            if self._checkpoints.is_due(step, reason):
                await self._checkpoints.save(actor)
            if reason is None:
                left = await self._carry_out(actor)
                if left is not None:
                    return left
        exported: dict[str, str] = {}
        if plan.options.export_formats:
            with limit(
                trial.trial_id, plan.options.hook_timeout_s, "hook_timeout_s", "_export_model"
            ):
                exported = await actor.export_model(list(plan.options.export_formats))
        return _End(reason, exported)

    async def _carry_out(self, actor: Actor) -> _Left | None:
        """Carry out the decision of the scheduler, or the pause of the user."""
        trial, decision = self._trial, self._trial.decision
        name = type(self._plan.scheduler).__name__
        if trial.should_pause:
            is_users = trial.pauses_next
            await self._checkpoints.save_on_demand(actor, "pause()" if is_users else name)
            self._pause(is_users)
            return _Left.PAUSED
        if isinstance(decision, Exploit):
            return await self._exploit(actor, decision)
        if decision is Decision.SAVE:
            await self._checkpoints.save_on_demand(actor, name)
        return None

    def _pause(self, is_users: bool) -> None:
        trial, checkpoint = self._trial, self._trial.checkpoint
        assert checkpoint is not None
        self._run.record(
            ev.TrialPaused(trial.trial_id, checkpoint.sequence, time.time(), by_hand=is_users)
        )
        self._run.slots.trial_paused(trial)

    async def _exploit(self, actor: Actor, exploit: Exploit) -> _Left | None:
        """Continue from the state of another trial, in the live object if that accepts the config."""
        trial, run = self._trial, self._run
        name = type(self._plan.scheduler).__name__
        donor = run.state.trials.get(exploit.donor)
        if donor is trial:
            await self._checkpoints.save_on_demand(actor, name)
        if donor is None:
            raise TuneError(
                f"{name} must name a trial as the donor of {trial.name}, got {exploit.donor!r}"
            )
        if donor.checkpoint is None:  # none was saved, or all were rejected
            await log_warning(
                "%s has no checkpoint, so %s goes on as it is", donor.name, trial.name
            )
            return None
        run.executor.check_config(exploit.config)
        source = donor.checkpoint
        donor.pin(source.path)  # the donor trains on, and must not delete the checkpoint
        try:
            event = await anyio.to_thread.run_sync(exploit_event, trial, donor, source, exploit)
            trial.next_config = exploit.config
            run.record(event)
        finally:
            donor.unpin(source.path)
        await run.journal.synced()
        hook = self._plan.options.hook_timeout_s
        with limit(trial.trial_id, hook, "hook_timeout_s", "reset_config"):
            accepted = await actor.reset_config(trial.config)
        if not accepted:
            return _Left.CHANGED
        await self._checkpoints.restore(actor)
        return None

    def _record_step(self, step: Step) -> None:
        """Record a result, which makes the result public."""
        trial = self._trial
        event = ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, step.row)
        self._run.record(event, step.data)

    async def _shut_down(self, actor: Actor) -> None:
        trial = self._trial
        with anyio.CancelScope(shield=True):
            shut_down = await actor.shut_down(self._plan.options.grace_s, trial.grace)
        trial.grace = anyio.CancelScope(shield=True)
        trial.shutdown_note = _note(shut_down)
        if self._run.journal.is_broken:
            return
        if shut_down.saved is not None:
            self._checkpoints.record(shut_down.saved)
        if shut_down.late is not None:
            self._record_step(shut_down.late)
            with suppress(
                MetricMissing
            ):  # the trial has ended; only the scheduler learns of the row
                trial.set_decision(self._run.decider.decide(trial))

    async def _close(self, end: _End) -> None:
        trial, run = self._trial, self._run
        failed = end.reason is StopReason.FAILED
        note = None if failed else trial.shutdown_note
        try:
            if run.journal.is_broken:
                return  # the error of the journal ends the run, and nothing can be recorded
            if note is not None:
                await self._failures.append_error(note)
            run.record(
                ev.TrialEnded(
                    trial_id=trial.trial_id,
                    status=Status.ERROR if failed else Status.TERMINATED,
                    reason=end.reason,
                    exported=end.exported,
                    note=note,
                    wall_time=time.time(),
                    num_reported=trial.next_sequence,
                )
            )
            # Before any await: a replay notifies in the order of the journal.
            run.decider.trial_ended(trial)
            await run.journal.synced()
        except BaseException as exc:
            trial.run_error = (
                exc  # the end is not recorded, so awaiting the trial must not return it
            )
            raise
        finally:
            trial.is_over.set()
            run.slots.trial_ended(trial)


def _note(shut_down: ShutdownResult) -> str | None:
    notes = [shut_down.note] if shut_down.note else []
    if shut_down.error is not None:
        notes.append(f"{shut_down.error}\n{shut_down.error.traceback or ''}".rstrip())
    return "\n".join(notes) or None
