"""Continues the trials that the previous runs of an experiment left unfinished."""

from __future__ import annotations

import time

import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.errors import TrialError
from asynctune.experiment import events as ev
from asynctune.experiment.layout import remove_leftovers
from asynctune.experiment.opening import OpenExperiment
from asynctune.experiment.remote.recovery import notice, recovery_events
from asynctune.experiment.remote.uploader import Uploader
from asynctune.experiment.status import Status, StopReason
from asynctune.runner.context import RunContext
from asynctune.runner.replay import Replay, ResumedTrial
from asynctune.storage.filesystem import current


async def resume_trials(
    run: RunContext,
    opened: OpenExperiment,
    replay: Replay,
    uploads: Uploader | None,
    *,
    no_time_left: bool,
) -> None:
    """Repair what a driver that died left, and start the task of each trial that goes on.

    Args:
        run: The run, with the state that the replay made.
        opened: The experiment.
        replay: The replay of its journal.
        uploads: The uploads of the run, None if it has none.
        no_time_left: Whether the time budget is used up.
    """
    if opened.torn_bytes:
        await log_warning(
            "%s: the previous run was cut short while it wrote; %d unfinished bytes were removed",
            run.journal.path, opened.torn_bytes,
        )  # fmt: skip
    if uploads is not None:
        await _recover(run, opened, replay, uploads)
    resumed = list(replay.resumed_trials(time.time()))
    await anyio.to_thread.run_sync(_remove_leftovers, run, replay, resumed)
    if run.decider.stops_run():
        run.stop()
    for item in resumed:
        if item.notice:
            await log_warning("%s", item.notice)
        await _continue(run, item, ends_at_once=run.ending is not None or no_time_left)


async def _recover(
    run: RunContext, opened: OpenExperiment, replay: Replay, uploads: Uploader
) -> None:
    """Let each trial go on from the newest checkpoint that exists locally or in the storage."""
    history, replica = opened.history, opened.replica
    assert history is not None
    assert replica is not None
    events = await anyio.to_thread.run_sync(
        lambda: recovery_events(history, run.state.trials.values(), replay.unfinished(), replica),
        abandon_on_cancel=True,
    )
    for event in events:
        if isinstance(event, ev.CheckpointDropped):
            uploads.retention.add_missing(event.trial_id, event.path)
        run.record(event)
        await log_warning("%s", notice(event))


def _remove_leftovers(run: RunContext, replay: Replay, resumed: list[ResumedTrial]) -> None:
    """Remove unfinished saves and dropped checkpoints of the previous runs. Blocks."""
    files = current.get()
    trials = {item.trial.trial_id: item.trial for item in resumed if not item.notice}
    trials |= {trial_id: run.state.trials[trial_id] for trial_id in replay.dropped}
    for trial_id, trial in trials.items():
        kept = [checkpoint.path for checkpoint in trial.known_checkpoints]
        remove_leftovers(trial.logdir, kept, replay.dropped.get(trial_id, ()), files)


async def _continue(run: RunContext, item: ResumedTrial, *, ends_at_once: bool) -> None:
    """Record how a trial of a previous run goes on, and start its task."""
    trial = item.trial
    if trial.status.is_final and (item.reopened is None or ends_at_once):
        return
    if item.stop_reason is StopReason.FAILED and trial.error is not None:
        run.trial_failed(trial.error)
    if item.reopened is not None:
        run.record(item.reopened)
        run.wire(trial)
    if item.paused is not None:
        run.record(item.paused)
    run.launch(trial, item.stop_reason)
    if run.ending is not None:
        trial.request_stop(run.ending)


def first_failure(run: RunContext) -> TrialError | None:
    """Return the error of the first trial that a previous run left failed, None if there is none."""
    failed = (trial.error for trial in run.state.trials.values() if trial.status is Status.ERROR)
    return next((error for error in failed if error is not None), None)
