"""Callbacks: the user's code that is told what happens, off the path of the trials."""

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
    """Is told what happens in a run. Override what you need; each method may be ``async def``.

    Synchronous methods are called in a thread, one after another. A callback that raises is dropped
    with one message; the run goes on. It may lag behind the run, and ``trial`` may be ahead of it. When
    an experiment is resumed it is told what happens from then on; what a driver that died had written
    down but not yet told is in :meth:`Experiment.events`.
    """

    def on_event(self, event: ev.Event) -> Any:
        """Anything happened; called before the method that is special to it."""

    def on_trial_start(self, trial: Trial) -> Any:
        """A trial, or a new attempt of it, was started."""

    def on_trial_result(self, trial: Trial, result: Row) -> Any:
        """A trial reported a result."""

    def on_checkpoint(self, trial: Trial, checkpoint: CheckpointRef) -> Any:
        """A checkpoint of a trial is complete."""

    def on_trial_pause(self, trial: Trial) -> Any:
        """A trial was saved and gave its slot back."""

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> Any:
        """A trial goes on from the checkpoint of another, with another configuration."""

    def on_trial_error(self, trial: Trial, error: str) -> Any:
        """An attempt of a trial failed; ``error`` is the message."""

    def on_trial_complete(self, trial: Trial) -> Any:
        """A trial has ended, well or not."""

    def on_run_end(self, reason: str) -> Any:
        """The run is over: ``done``, ``stopped``, ``cancelled`` or ``failed``."""


async def follow(callback: Callback, events: Follower, state: ExperimentState[Any]) -> None:
    """Tell a callback of all events, until they end or it raises."""
    try:
        async for event in events:
            await _tell(callback.on_event, event)
            match event:
                case ev.TrialStarted():
                    await _tell(callback.on_trial_start, state.trials[event.trial_id])
                case ev.Reported():
                    trial = state.trials[event.trial_id]
                    await _tell(callback.on_trial_result, trial, copy_row(event.row))
                case ev.Checkpointed():
                    trial = state.trials[event.trial_id]
                    await _tell(callback.on_checkpoint, trial, trial.checkpoint_of(event))
                case ev.TrialPaused():
                    await _tell(callback.on_trial_pause, state.trials[event.trial_id])
                case ev.Exploited():
                    trial = state.trials[event.trial_id]
                    await _tell(callback.on_trial_exploit, trial, event)
                case ev.TrialFailed():
                    trial = state.trials[event.trial_id]
                    await _tell(callback.on_trial_error, trial, event.error)
                case ev.TrialEnded():
                    await _tell(callback.on_trial_complete, state.trials[event.trial_id])
                case ev.RunEnded():
                    await _tell(callback.on_run_end, event.reason)
    except BaseException as exc:  # also the user's SystemExit, or a cancellation of their own
        task = asyncio.current_task()
        own = isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling()
        if own or isinstance(exc, KeyboardInterrupt):
            raise
        await log_warning(
            "the callback %r raised and is dropped; the run goes on", callback, error=exc
        )


async def _tell(method: Any, *args: Any) -> None:
    if getattr(method, "__func__", None) is getattr(Callback, method.__name__, None):
        return  # not overridden: not worth a thread
    if inspect.iscoroutinefunction(method):
        await method(*args)
        return
    value, error = await anyio.to_thread.run_sync(
        _called, method, args, abandon_on_cancel=True, limiter=thread_limiter(1)
    )
    if error is not None:
        raise error
    if inspect.isawaitable(value):
        await value


def _called(method: Any, args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    # As a value: a GeneratorExit that came out of an await would close the coroutines around it.
    try:
        return method(*args), None
    except BaseException as exc:
        return None, exc
