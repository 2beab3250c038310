"""The live handle on a run, and the owner of the task that the run lives in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

import anyio

from asynctune.experiment import events as ev
from asynctune.experiment.analysis import ExperimentAnalysis
from asynctune.experiment.journal import Follower
from asynctune.experiment.remote.queue import UploadStats
from asynctune.result import Row, copy_row
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.runner import Runner


class Experiment:
    """A run that is going on, or has ended; returned by :func:`asynctune.start`.

    Await the handle for the analysis. Iterate over the handle for all results, from the first, as often and
    as late as you like. Cancelling a task that does either leaves the run as it is; :meth:`aclose` cancels
    the run, and so does an exception that leaves the block of ``async with tune.start(...)``.
    """

    def __init__(self, runner: Runner, owned: AsyncExitStack) -> None:
        self._runner = runner
        self._is_outcome_known = False
        # A task and not a task group: the handle of a notebook or service outlives the scope, and the
        # task, in which the handle was made. This object owns the task; `aclose` ends it.
        self._task = asyncio.get_running_loop().create_task(
            self._live(owned), name=f"asynctune experiment {runner.plan.name}"
        )

    async def _live(self, owned: AsyncExitStack) -> None:
        async with owned:  # the executor, if the run owns one, and the experiment
            await self._runner.run()

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self._runner.plan.name

    @property
    def path(self) -> str:
        """The directory of the experiment."""
        return self._runner.plan.directory

    @property
    def uploads(self) -> UploadStats | None:
        """The progress of the uploads to ``upload_dir``; None without one."""
        uploads = self._runner.uploads
        return uploads.stats if uploads is not None else None

    @property
    def trials(self) -> list[LiveTrial]:
        """The trials so far, in the order in which they were drawn."""
        return list(self._runner.state.trials.values())

    @property
    def status(self) -> str:
        """``running``, or the end of the run: ``done``, ``stopped``, ``cancelled`` or ``failed``."""
        if not self._task.done():
            return "running"
        ended = self._runner.state.ended
        return ended.reason if ended is not None else "cancelled"

    def __repr__(self) -> str:
        state = self._runner.state
        return (
            f"<Experiment {self.name} {self.status}, {state.num_final}/{len(state.trials)} trials>"
        )

    @property
    def is_over(self) -> bool:
        """Whether the run has ended and has cleaned up."""
        return self._task.done()

    def events(self) -> Follower:
        """Return an async iterator over all events, from the first."""
        return self._runner.journal.follow()

    def analysis(self) -> ExperimentAnalysis:
        """Return an analysis of the experiment as it is now."""
        options = self._runner.plan.options
        shown = self._runner.journal.visible_end
        trials = [trial.snapshot(shown) for trial in self._runner.state.trials.values()]
        return ExperimentAnalysis(trials, self.path, metric=options.metric, mode=options.mode)

    def add_trial(self, config: dict[str, Any]) -> LiveTrial:
        """Add a trial with this configuration; the trial waits for the next free slot.

        Raises:
            TuneError: The run has ended or is ending.
            ConfigError: The executor can never provide the resources of the trial.
        """
        return self._runner.add_trial(config)

    def stop(self) -> None:
        """Stop the run: no new trials, and each running trial stops at its next report."""
        self._runner.stop()

    def cancel(self) -> None:
        """Cancel the run: trials may clean up for ``grace_s``, then the run kills their workers."""
        self._runner.cancel()

    async def aclose(self) -> None:
        """Cancel the run if it is going on, and wait until the run has cleaned up."""
        self._is_outcome_known = True
        await self._end()

    def __aiter__(self) -> Results:
        return Results(self.events())

    def __await__(self) -> Generator[Any, Any, ExperimentAnalysis]:
        return self._outcome().__await__()

    async def _outcome(self) -> ExperimentAnalysis:
        await self._wait(insist=False)
        self._is_outcome_known = True
        if self._task.cancelled():
            raise RuntimeError("the event loop was closed while this experiment was running")
        error = self._task.exception()
        if error is None:
            return self.analysis()
        if isinstance(error, Exception) and getattr(error, "analysis", None) is None:
            with suppress(Exception):  # an exception of the user may refuse attributes
                error.analysis = self.analysis()  # type: ignore[attr-defined]
                error.add_note(
                    f"The results so far are in `analysis` of this exception, and in {self.path}."
                )
        raise error

    async def _wait(self, *, insist: bool) -> None:
        """Wait for the end of the run.

        Args:
            insist: Whether to go on waiting when this wait is cancelled: each cancellation then ends
                the grace of the trials, and is raised afterwards.
        """
        if not insist:
            await asyncio.wait([self._task])
            return
        cancelled: asyncio.CancelledError | None = None
        # A cancelled anyio scope around this task would cancel each of these waits at once. The shield lets
        # only a cancellation of the task itself through: the second one of the user.
        with anyio.CancelScope(shield=True):
            while not self._task.done():
                try:
                    await asyncio.wait([self._task])
                except asyncio.CancelledError as exc:
                    cancelled = exc
                    self._runner.kill()
        if cancelled is not None:
            raise cancelled

    async def _leave(self, error: BaseException | None) -> None:
        """Leave the block: wait for the run, or cancel the run after an exception."""
        if error is None:
            try:
                if self._is_outcome_known:
                    await self._wait(insist=False)
                else:
                    await self._outcome()
            except BaseException:
                await self._end()
                raise
        else:
            await self._end()

    async def _end(self) -> None:
        if not self._task.done():
            self._runner.cancel()
            await self._wait(insist=True)
        if not self._task.cancelled():
            self._task.exception()  # retrieved: the block raises it, or another error


class Results:
    """An async iterator over the results of a run, each as the row that the loggers get."""

    def __init__(self, events: Follower) -> None:
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Row:
        while True:
            event = await self._events.__anext__()
            if isinstance(event, ev.Reported):
                return copy_row(event.row)


class Starting:
    """The return value of ``tune.start(...)``: enter it as a block, or await it for the handle."""

    def __init__(self, launch: Callable[[], Coroutine[Any, Any, Experiment]]) -> None:
        self._launch = launch
        self._experiment: Experiment | None = None

    def __await__(self) -> Generator[Any, Any, Experiment]:
        return self._launch().__await__()

    async def __aenter__(self) -> Experiment:
        self._experiment = await self._launch()
        return self._experiment

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._experiment is not None
        await self._experiment._leave(error)
