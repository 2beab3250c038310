"""The interface of a callback, and the task that passes events to one, beside the trials."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import anyio.to_thread

from asynctune._threads import log_warning, thread_limiter
from asynctune.experiment import events as ev
from asynctune.experiment.journal import Follower
from asynctune.experiment.state import ExperimentState
from asynctune.experiment.trial import CheckpointRef, Trial
from asynctune.result import Row, copy_row


class Callback:
    """Base class of all callbacks: follows the events of a run. Each method may be ``async def``.

    The run calls synchronous methods in a thread, one at a time. The run drops a callback that
    raises, with
    one message in the log, and continues. A callback may lag behind the run, so that ``trial`` may show a
    later state than the event. In a resumed experiment, a callback gets the events from the resume on;
    events that a driver recorded, but did not pass to its callbacks before it died, are in
    :meth:`Experiment.events`.
    """

    def on_event(self, event: ev.Event) -> Any:
        """Handle any event; called before the method for events of its kind."""

    def on_trial_start(self, trial: Trial) -> Any:
        """Handle the start of a trial, or of a new attempt of one."""

    def on_trial_result(self, trial: Trial, result: Row) -> Any:
        """Handle a result of a trial; ``result`` is a copy of the row, which the callback may change."""

    def on_checkpoint(self, trial: Trial, checkpoint: CheckpointRef) -> Any:
        """Handle a checkpoint of a trial, which is complete."""

    def on_trial_pause(self, trial: Trial) -> Any:
        """Handle a pause: the trial was saved and has released its slot."""

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> Any:
        """Handle an exploit: the trial continues from another's checkpoint with a new configuration."""

    def on_trial_error(self, trial: Trial, error: str) -> Any:
        """Handle the failure of an attempt of a trial; ``error`` is the message."""

    def on_trial_complete(self, trial: Trial) -> Any:
        """Handle the end of a trial, whether it failed or not."""

    def on_run_end(self, reason: str) -> Any:
        """Handle the end of the run; ``reason`` is ``done``, ``stopped``, ``cancelled`` or ``failed``."""


async def follow(callback: Callback, events: Follower, state: ExperimentState[Any]) -> None:
    """Pass events to a callback until the events end or the callback raises.

    Args:
        callback: The callback.
        events: The events, in the order of the journal.
        state: The state of the experiment, which may be ahead of ``events``.
    """
    try:
        async for event in events:
            await _call(callback.on_event, event)
            match event:
                case ev.TrialStarted():
                    await _call(callback.on_trial_start, state.trials[event.trial_id])
                case ev.Reported():
                    trial = state.trials[event.trial_id]
                    await _call(callback.on_trial_result, trial, copy_row(event.row))
                case ev.Checkpointed():
                    trial = state.trials[event.trial_id]
                    await _call(callback.on_checkpoint, trial, trial.checkpoint_of(event))
                case ev.TrialPaused():
                    await _call(callback.on_trial_pause, state.trials[event.trial_id])
                case ev.Exploited():
                    trial = state.trials[event.trial_id]
                    await _call(callback.on_trial_exploit, trial, event)
                case ev.TrialFailed():
                    trial = state.trials[event.trial_id]
                    await _call(callback.on_trial_error, trial, event.error)
                case ev.TrialEnded():
                    await _call(callback.on_trial_complete, state.trials[event.trial_id])
                case ev.RunEnded():
                    await _call(callback.on_run_end, event.reason)
    except BaseException as exc:  # includes a SystemExit or CancelledError that the callback raises
        task = asyncio.current_task()
        own = isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling()
        if own or isinstance(exc, KeyboardInterrupt):
            raise
        await log_warning(
            "callback %r raised and is dropped; the run continues", callback, error=exc
        )


async def _call(method: Any, *args: Any) -> None:
    if getattr(method, "__func__", None) is getattr(Callback, method.__name__, None):
        return  # a method that is not overridden does nothing, so save the thread
    if inspect.iscoroutinefunction(method):
        await method(*args)
        return
    value, error = await anyio.to_thread.run_sync(
        _capture, method, args, abandon_on_cancel=True, limiter=thread_limiter(1)
    )
    if error is not None:
        raise error
    if inspect.isawaitable(value):
        await value


def _capture(method: Any, args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Call a method, and return its value and the exception that it raised."""
    # Not raised here: a GeneratorExit that comes out of an await closes the coroutines around it.
    try:
        return method(*args), None
    except BaseException as exc:
        return None, exc
