"""Saves, restores, rejects and deletes the checkpoints of one trial, and records each of these."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.errors import (
    CheckpointCorrupt,
    ConfigError,
    StorageError,
    TrialError,
    TrialTimeout,
    WorkerDied,
)
from asynctune.executors.actor import Actor, Step
from asynctune.experiment import events as ev
from asynctune.experiment.remote.replica import Replica
from asynctune.experiment.status import StopReason
from asynctune.experiment.trial import CheckpointRef
from asynctune.result import TRAINING_ITERATION, flatten
from asynctune.runner.context import RunContext
from asynctune.runner.live_trial import LiveTrial
from asynctune.trainable.function import FunctionTrainable


class RestoreFailed(Exception):
    """A checkpoint of the trial could not be restored."""

    def __init__(self, checkpoint: CheckpointRef, error: TrialError) -> None:
        super().__init__(checkpoint.path)
        self.checkpoint = checkpoint
        self.error = error


@contextmanager
def limit(trial_id: str, seconds: float, argument: str, what: str = "") -> Iterator[None]:
    """Raise TrialTimeout when the block takes too long.

    Args:
        trial_id: The trial that the block works for.
        seconds: The limit.
        argument: The argument of ``run`` that sets the limit.
        what: The call in the block, or "".
    """
    with anyio.move_on_after(seconds) as clock:
        yield
    if clock.cancelled_caught:
        where = f" in {what}" if what else ""
        raise TrialTimeout(
            f"trial {trial_id} took longer than {argument}={seconds:g}{where}", trial_id=trial_id
        )


class TrialCheckpoints:
    """Saves and restores one trial.

    Args:
        trial: The trial.
        run: The run.
    """

    def __init__(self, trial: LiveTrial, run: RunContext) -> None:
        self._trial = trial
        self._run = run
        self._died_in_restore: str | None = None

    async def restore(self, actor: Actor) -> str | None:
        """Restore the newest checkpoint. Return its path, None if the trial begins without one.

        Raises:
            RestoreFailed: The checkpoint cannot be restored.
        """
        trial, checkpoint = self._trial, self._trial.checkpoint
        begin = checkpoint.path if checkpoint else self._run.plan.options.restore
        if begin is None:
            return None
        if checkpoint is not None and self._run.replica is not None:
            await self._download(checkpoint, self._run.replica)
        try:
            with self._limit("_restore"):
                await actor.restore(begin)
        except TrialError as exc:
            if checkpoint is None:
                raise
            raise RestoreFailed(checkpoint, exc) from exc
        return trial.stored_path(begin)

    async def _download(self, checkpoint: CheckpointRef, replica: Replica) -> None:
        """Download a checkpoint that exists only in remote storage."""
        trial_id = self._trial.trial_id
        try:
            with self._limit("_restore"):
                await anyio.to_thread.run_sync(
                    replica.download,
                    checkpoint.path,
                    abandon_on_cancel=True,
                    limiter=replica.download_limiter,
                )
        except (CheckpointCorrupt, FileNotFoundError, StorageError) as exc:
            error = TrialError(f"trial {trial_id} cannot go on: {exc}", trial_id=trial_id)
            if isinstance(exc, StorageError):  # the next attempt may reach the storage
                raise error from exc
            error.__cause__ = exc
            raise RestoreFailed(checkpoint, error) from exc

    async def fall_back(self, failed: RestoreFailed) -> bool:
        """Reject the newest checkpoint after a failed restore. Return whether there is an older one."""
        trial, checkpoint, error = self._trial, failed.checkpoint, failed.error
        if isinstance(error, WorkerDied) and self._died_in_restore != checkpoint.path:
            # The death of the worker may have another cause than the checkpoint, so try it once more.
            self._died_in_restore = checkpoint.path
            await log_warning("%s; the trial retries the same checkpoint once", error)
            return True
        before = trial.checkpoints[-2] if len(trial.checkpoints) > 1 else None
        self._run.record(
            ev.CheckpointRejected(
                trial_id=trial.trial_id,
                path=trial.stored_path(checkpoint.path),
                error=str(error),
                wall_time=time.time(),
            )
        )
        if before is None:
            error.add_note(f"{checkpoint.path} was the last checkpoint of the trial")
            return False
        await log_warning(
            "the checkpoint %s cannot be restored (%s); trial %s goes on from the one before, %s",
            checkpoint.path, error, trial.trial_id, before.path,
        )  # fmt: skip
        return True

    def restored_sequence(self) -> int | None:
        """Return the last row that the checkpoint covers, None if no row comes after that."""
        trial = self._trial
        sequence = trial.checkpoint.sequence if trial.checkpoint is not None else -1
        return sequence if sequence < trial.last_sequence else None

    def is_due(self, step: Step, reason: StopReason | None) -> bool:
        """Return whether the options ask for a checkpoint at this result.

        Args:
            step: The result.
            reason: The reason why the trial ends with this result, None if it goes on.
        """
        if step.checkpoint:
            return True
        if self._is_function:
            return False  # a function is saved only with a report that carries a checkpoint
        options = self._run.plan.options
        if reason is not None and options.checkpoint_at_end:
            return True
        iteration = self._trial.last_result.get(TRAINING_ITERATION)
        return bool(
            options.checkpoint_freq and iteration and iteration % options.checkpoint_freq == 0
        )

    async def save_on_demand(self, actor: Actor, needed_by: str) -> None:
        """Make sure that the trial can go on from a checkpoint: save it, unless its last row is saved.

        A function reports checkpoints when it likes, so its newest one may be some results old.

        Raises:
            ConfigError: The trainable is a function that has reported no checkpoint.
        """
        trial = self._trial
        if trial.checkpoint is not None and trial.checkpoint.sequence == trial.last_sequence:
            return
        if not self._is_function:
            await self.save(actor)
        elif trial.checkpoint is None:
            raise ConfigError(
                f"{needed_by} needs a checkpoint of {trial.name}, but the function "
                f"{self._run.serialized.name} has reported none; pass one with its results: "
                "tune.report(..., checkpoint=...), and begin from tune.get_checkpoint()"
            )

    async def save(self, actor: Actor) -> None:
        """Save a checkpoint; once the journal has recorded it, delete those that the retention drops."""
        trial, run = self._trial, self._run
        with self._limit("_save"):
            path = await actor.save()
        self.record(path)
        await run.journal.synced()
        surplus = trial.kept.surplus()
        for old in surplus:
            run.record(ev.CheckpointDropped(trial.trial_id, trial.stored_path(old.path)))
        if surplus:
            await run.journal.synced()
        if not self._is_kept_remotely:
            with self._limit("delete_checkpoint"):
                for old in surplus:
                    await self._delete(actor, old)
        await self._warn_of_missing_attr()

    async def _warn_of_missing_attr(self) -> None:
        """Warn at the first checkpoint of the run if the metric that ranks checkpoints is missing."""
        trial, attr = self._trial, self._trial.kept.missing_attr
        if attr is None:
            return
        saved = sum(len(each.checkpoints) for each in self._run.state.trials.values())
        if saved == 1:
            await log_warning(
                "checkpoint_score_attr asks for %r, which this result of %s lacks; the result has %s. "
                "All checkpoints are kept until a result has the metric",
                attr, trial.name, ", ".join(sorted(flatten(trial.last_result))),
            )  # fmt: skip

    def record(self, path: str) -> None:
        """Record a complete checkpoint, as that of the newest row."""
        trial = self._trial
        iteration = trial.last_result.get(TRAINING_ITERATION)
        last, stored = trial.next_sequence - 1, trial.stored_path(path)
        self._run.record(ev.Checkpointed(trial.trial_id, trial.attempt, last, stored, iteration))

    @property
    def _is_function(self) -> bool:
        return issubclass(self._run.serialized.cls, FunctionTrainable)

    @property
    def _is_kept_remotely(self) -> bool:
        """Whether the uploader deletes checkpoints, once the remote journal has recorded their drop."""
        return self._run.serialized.is_durable and self._run.replica is not None

    @contextmanager
    def _limit(self, hook: str) -> Iterator[None]:
        with limit(
            self._trial.trial_id, self._run.plan.options.hook_timeout_s, "hook_timeout_s", hook
        ):
            yield

    async def _delete(self, actor: Actor, old: CheckpointRef) -> None:
        try:
            await actor.delete_checkpoint(old.path)
        except WorkerDied:
            raise
        except TrialError as exc:  # the checkpoint wastes disk space until a resume removes it
            await log_warning("a dropped checkpoint could not be deleted: %s", exc)
