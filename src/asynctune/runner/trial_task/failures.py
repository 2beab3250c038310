"""Records the failures of a trial, and decides whether another attempt follows."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Sequence

import anyio
import anyio.to_thread

from asynctune._checks import safe_repr
from asynctune._threads import log_warning, thread_limiter
from asynctune.errors import TrialError, TuneError
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status
from asynctune.experiment.trial import Trial
from asynctune.resources import Resources
from asynctune.runner.context import RunContext
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.plan.retry import Retry


class Failures:
    """Records the failures of one trial, and decides whether another attempt follows.

    Args:
        trial: The trial.
        run: The run.
    """

    def __init__(self, trial: LiveTrial, run: RunContext) -> None:
        self._trial = trial
        self._run = run

    async def delay_of_retry(self, error: TrialError) -> float | None:
        """Record a failure. Return the seconds until the next attempt, None if none follows."""
        trial, options = self._trial, self._run.plan.options
        answer: Retry | None = None
        if options.on_failure is not None and trial.requested_stop is None:
            try:
                answer = await self._call_on_failure(error)
            except BaseException:  # on_failure raised or was cancelled, which undoes no failure
                await self._record(error, again=True, answer=None)
                raise
        limit = options.max_failures
        failures = trial.num_failures - trial.num_forgiven
        again = (
            answer is not None or limit == -1 or failures < limit
        ) and trial.requested_stop is None
        await self._record(error, again, answer)
        if not again:
            return None
        return answer.seconds if answer is not None else 0.0

    async def record_final(self, error: TrialError) -> None:
        """Record a failure that no attempt follows."""
        await self._record(error, again=False, answer=None)

    async def append_error(self, text: str) -> None:
        """Append to ``error.txt`` of the trial."""
        trial = self._trial

        def write() -> None:
            os.makedirs(trial.logdir, mode=0o700, exist_ok=True)
            with open(os.path.join(trial.logdir, "error.txt"), "a", encoding="utf-8") as file:
                file.write(text.rstrip() + "\n\n")

        try:
            await anyio.to_thread.run_sync(write)
        except OSError as exc:  # the journal holds the error as well
            await log_warning("error.txt of trial %s could not be written: %s", trial.trial_id, exc)

    async def _call_on_failure(self, error: TrialError) -> Retry | None:
        on_failure = self._run.plan.options.on_failure
        assert on_failure is not None
        seen = self._trial.snapshot(self._run.journal.visible_end)
        answer = await anyio.to_thread.run_sync(
            lambda: on_failure(seen, error),
            abandon_on_cancel=True,
            limiter=thread_limiter(1),
        )
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not None and not isinstance(answer, Retry):
            raise TuneError(
                f"on_failure() must return a tune.Retry or None, got {safe_repr(answer)}"
            )
        if answer is not None and answer.resources is not None:
            resources = Resources.from_mapping(answer.resources, "resources of Retry")
            self._run.executor.pool.check(resources, what="resources of Retry", advice="")
        return answer

    async def _record(self, error: TrialError, again: bool, answer: Retry | None) -> None:
        trial, cause = self._trial, error.__cause__
        last = trial.next_sequence - 1
        given = answer.resources if answer is not None else None
        if given is not None:
            given = Resources.from_mapping(given, "resources of Retry")
        self._run.record(
            ev.TrialFailed(
                trial_id=trial.trial_id,
                attempt=trial.attempt,
                error=str(error),
                error_type=type(error).__name__ if cause is None else type(cause).__name__,
                traceback=error.traceback,
                resume_sequence=(trial.checkpoint.sequence if trial.checkpoint else -1)
                if again
                else last,
                wall_time=time.time(),
                again=again,
                resources=given.to_dict() if given is not None else None,
            )
        )
        trial.error = error
        if not again:
            self._run.trial_failed(error)  # before the first await, where a cancellation could come
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        head = f"Failure # {trial.num_failures} (occurred at {moment})"
        with anyio.CancelScope(shield=True):
            await self.append_error(f"{head}\n{error}\n{error.traceback or ''}")


def summarize_failures(error: TrialError, trials: Sequence[Trial]) -> TrialError:
    """Return the error that a run raises: that of the first failed trial, with the failures of the others.

    Args:
        error: The error of the first failed trial.
        trials: All trials of the run.
    """
    error.failures = {
        trial.trial_id: trial.error
        for trial in trials
        if trial.status is Status.ERROR and trial.error is not None
    }
    others = [failure for failure in error.failures.values() if failure is not error]
    if others:
        error.add_note(f"{len(others) + 1} of {len(trials)} trials failed. The others:")
        for other in others[:10]:
            error.add_note(f"  {other}")
        if len(others) > 10:
            error.add_note(f"  ... and {len(others) - 10} more; see error.failures")
    return error


def unwrap_group(error: BaseException) -> BaseException:
    """Return the first exception of nested groups, with a note for each of the others."""
    while isinstance(error, BaseExceptionGroup):
        first, *others = error.exceptions
        for other in others:
            first.add_note(f"At the same time: {other!r}")
        error = first
    return error
