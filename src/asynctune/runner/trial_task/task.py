"""One trial as a task: ``step = await actor.step()``, a decision, and so on until one of them ends it."""

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
    """How a trial ended."""

    reason: StopReason
    exported: dict[str, str] = field(default_factory=dict)


class _Left(Enum):
    """A trial left its worker, and has not ended."""

    PAUSED = "paused"
    CHANGED = "changed"
    """It has to be built anew, with another configuration."""


class TrialTask:
    """Takes one trial from its slot to its end, over all its attempts.

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
        """Run the trial. A failure of it is recorded; what else is raised ends the whole run.

        Args:
            stop_reason: Why it ends without being run, if that was decided before its driver died.
        """
        trial = self._trial
        end = _End(stop_reason or StopReason.CANCELLED)
        self._run.slots.add_trial_task(trial)
        try:
            if stop_reason is None:
                with trial.scope:
                    end = await self._attempts()
                if trial.scope.cancelled_caught:
                    end = _End(trial.requested_stop or StopReason.CANCELLED)
        except Exception as exc:
            trial.run_error = exc  # who awaits this trial is to hear of it, too
            raise
        finally:
            if trial.lease is not None:  # it came too late
                trial.lease.release()
            trial.has_slot.set()
            with anyio.CancelScope(shield=True):
                await self._close(end)

    async def _attempts(self) -> _End:
        """Try until it ends well, or has failed too often."""
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
                    await failures.is_final(exc.error)
                    delay = None
            except (TrialError, NotSerializable) as exc:
                if isinstance(exc.__cause__, StorageError) and exc.__cause__.errno is not None:
                    raise exc.__cause__ from exc  # a disk is the matter of the run: nobody can save
                delay = await failures.delay_of_retry(self._as_trial_error(exc))
            if delay is None:
                return _End(StopReason.FAILED)
            trial.has_slot = anyio.Event()
            if trial.requested_stop is not None:  # it came while the failure was written down
                return _End(trial.requested_stop)
            await anyio.sleep(delay)

    async def _slot(self) -> Lease:
        """Take the slot that the trial was given, or wait for one."""
        lease, self._trial.lease = self._trial.lease, None
        return lease or await self._run.slots.lease(self._trial.resources)

    def _as_trial_error(self, error: TrialError | NotSerializable) -> TrialError:
        if isinstance(error, TrialError):
            return error
        # A configuration that cannot travel is the matter of its own trial.
        trial_id = self._trial.trial_id
        wrapped = TrialError(f"trial {trial_id} cannot start: {error}", trial_id=trial_id)
        wrapped.__cause__ = error
        return wrapped

    async def _attempt(self, share: Share) -> _End | _Left:
        """Build the trial, train it until it leaves its worker, and let it clean up."""
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
            grace_s=self._plan.grace_s,
            remote=self._remote_dir(),
        )
        plan = self._plan
        with limit(trial.trial_id, plan.trial_timeout_s, "trial_timeout_s"):
            async with AsyncExitStack() as stack:
                with limit(trial.trial_id, plan.hook_timeout_s, "hook_timeout_s", "_setup"):
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
        # A retry that begins behind the last row of all has nothing left to train.
        reason = trial.decided_stop
        while reason is None:
            with limit(trial.trial_id, plan.step_timeout_s, "step_timeout_s", "one train()"):
                step = await actor.step()
            if step.ended:
                reason = StopReason.DONE
                break
            self._take(step)
            trial.set_decision(
                run.decider.result(trial)
            )  # at once: a replay judges in the order of the journal
            if plan.options.durability == "power":
                await run.journal.synced()
            run.slots.wake()
            reason = trial.decided_stop or trial.requested_stop
            if run.decider.stops_run():
                run.stop()
            if self._checkpoints.is_due(step, reason):
                await self._checkpoints.save(actor)
            if reason is None:
                left = await self._obey(actor)
                if left is not None:
                    return left
        exported: dict[str, str] = {}
        if plan.export_formats:
            with limit(trial.trial_id, plan.hook_timeout_s, "hook_timeout_s", "_export_model"):
                exported = await actor.export_model(list(plan.export_formats))
        return _End(reason, exported)

    async def _obey(self, actor: Actor) -> _Left | None:
        """Do what the scheduler, or the trial's user, wants of a trial that has not ended."""
        trial, decision = self._trial, self._trial.decision
        name = type(self._plan.scheduler).__name__
        if trial.should_pause:
            by_hand = trial.pauses_next
            await self._checkpoints.save_on_demand(actor, "pause()" if by_hand else name)
            self._pause(by_hand)
            return _Left.PAUSED
        if isinstance(decision, Exploit):
            return await self._exploit(actor, decision)
        if decision is Decision.SAVE:
            await self._checkpoints.save_on_demand(actor, name)
        return None

    def _pause(self, by_hand: bool) -> None:
        trial, checkpoint = self._trial, self._trial.checkpoint
        assert checkpoint is not None
        self._run.record(
            ev.TrialPaused(trial.trial_id, checkpoint.sequence, time.time(), by_hand=by_hand)
        )
        self._run.slots.paused(trial)

    async def _exploit(self, actor: Actor, exploit: Exploit) -> _Left | None:
        """Go on from the state of another trial: in the live object if it can, else in a new one."""
        trial, run = self._trial, self._run
        name = type(self._plan.scheduler).__name__
        donor = run.state.trials.get(exploit.donor)
        if donor is trial:
            await self._checkpoints.save_on_demand(actor, name)
        if donor is None:
            raise TuneError(
                f"{name} lets {trial.name} begin from {exploit.donor!r}, which is no trial"
            )
        if donor.checkpoint is None:  # the last one has been rejected since, or there never was one
            await log_warning(
                "%s has no checkpoint, so %s goes on as it is", donor.name, trial.name
            )
            return None
        run.executor.check_config(exploit.config)
        source = donor.checkpoint
        donor.pin(source.path)  # the donor trains on, and may have done with it
        try:
            event = await anyio.to_thread.run_sync(exploit_event, trial, donor, source, exploit)
            trial.next_config = exploit.config
            run.record(event)
        finally:
            donor.unpin(source.path)
        await run.journal.synced()
        hook = self._plan.hook_timeout_s
        with limit(trial.trial_id, hook, "hook_timeout_s", "reset_config"):
            accepted = await actor.reset_config(trial.config)
        if not accepted:
            return _Left.CHANGED
        await self._checkpoints.restore(actor)
        return None

    def _take(self, step: Step) -> None:
        """Write a result down; from here on everybody may know of it."""
        trial = self._trial
        event = ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, step.row)
        self._run.record(event, step.data)

    async def _shut_down(self, actor: Actor) -> None:
        trial = self._trial
        with anyio.CancelScope(shield=True):
            shut_down = await actor.shut_down(self._plan.grace_s, trial.grace)
        trial.grace = anyio.CancelScope(shield=True)
        trial.shutdown_note = _note(shut_down)
        if self._run.journal.is_broken:
            return
        if shut_down.saved is not None:
            self._checkpoints.note(shut_down.saved)
        if shut_down.late is not None:
            self._take(shut_down.late)
            with suppress(MetricMissing):  # it has ended; its scheduler is told all the same
                trial.set_decision(self._run.decider.result(trial))

    async def _close(self, end: _End) -> None:
        trial, run = self._trial, self._run
        failed = end.reason is StopReason.FAILED
        note = None if failed else trial.shutdown_note
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
            run.decider.ended(trial)  # at once: a replay tells of it in the order of the journal
            await run.journal.synced()
        except BaseException as exc:
            trial.run_error = exc  # its end is not certain, so nobody may take it for one
            raise
        finally:
            trial.is_over.set()
            run.slots.left(trial)


def _note(shut_down: ShutdownResult) -> str | None:
    notes = [shut_down.note] if shut_down.note else []
    if shut_down.error is not None:
        notes.append(f"{shut_down.error}\n{shut_down.error.traceback or ''}".rstrip())
    return "\n".join(notes) or None
