"""What runs beside the trials of a run: progress, callbacks, loggers, policy files and uploads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.callbacks.base import Callback, follow
from asynctune.callbacks.logger_feed import LoggerFeed
from asynctune.callbacks.pbt_policies import PbtPolicyLog
from asynctune.callbacks.progress import LineProgress, OutputEcho, ignore_line, print_line
from asynctune.experiment.opening import OpenExperiment
from asynctune.experiment.remote.uploader import Uploader
from asynctune.runner.context import RunContext

_DRAIN_S = 30.0


class Services:
    """Starts the followers of the journal of a run, and lets them finish after the last trial.

    Args:
        run: The run.
        opened: The experiment that the run works on.
        total: How many trials the run has, None if it has no end.
    """

    def __init__(self, run: RunContext, opened: OpenExperiment, total: int | None) -> None:
        self._run = run
        self._history = opened.history
        self._total = total
        self._drain_s = _DRAIN_S
        self._is_hurried = False
        self._draining: anyio.CancelScope | None = None
        self.uploads = _uploads(run, opened)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the journal while the block runs, and then until its last event.

        The journal is closed at the end. A follower that does not finish within a limit is cancelled.
        """
        run = self._run
        try:
            consumers = await self._consumers()
            async with anyio.create_task_group() as services:
                services.start_soon(run.journal.sync_in_groups)
                for consumer in consumers:
                    services.start_soon(follow, consumer, run.journal.follow_new(), run.state)
                if run.plan.options.loggers:
                    feeder = LoggerFeed(run.plan.options.loggers, run.state, self._history)
                    services.start_soon(feeder.run, run.journal.follow_new())
                try:
                    yield
                finally:
                    run.journal.end()
                    # Shielded: even a cancelled run writes its last lines, within the limit.
                    self._draining = services.cancel_scope
                    self._draining.shield = True
                    self._draining.deadline = anyio.current_time() + self._drain_s
                    if self._is_hurried and self.uploads is not None:
                        self.uploads.limit_drain(self._drain_s)
            if services.cancel_scope.cancelled_caught:
                await log_warning(
                    "loggers or callbacks did not end within %g s and were cut", self._drain_s
                )
        finally:
            run.journal.close()

    def limit_drain(self, seconds: float) -> None:
        """Shorten the time that loggers, callbacks and uploads will get after the last trial."""
        if self._draining is None:  # else their time has begun, and only kill() shortens it
            self._drain_s = min(self._drain_s, seconds)
            self._is_hurried = True

    def kill(self) -> None:
        """Leave loggers, callbacks and uploads one more second."""
        self._drain_s = 1.0
        if self.uploads is not None:
            self.uploads.limit_drain(self._drain_s)
        if self._draining is not None:
            self._draining.deadline = anyio.current_time() + self._drain_s

    async def _consumers(self) -> list[Callback]:
        """Return the callbacks of the run: ours, each caught up with the previous runs, then the user's."""
        plan, state = self._run.plan, self._run.state
        options = plan.options
        consumers: list[Callback] = []
        if options.verbose:
            progress = LineProgress(state, self._total, options.metric, options.mode)
            if self._history is not None:
                ended, known = state.num_final, len(state.trials)
                summary = f"resumed {plan.name}: {ended} of {known} trials so far have ended"
                await anyio.to_thread.run_sync(progress.resume, summary)
            consumers.append(progress)
        if options.log_to_driver:
            echo = OutputEcho(state)
            await anyio.to_thread.run_sync(echo.resume)
            consumers.append(echo)
        if plan.scheduler.log_config:
            policies = PbtPolicyLog(plan.directory, self._history)
            await anyio.to_thread.run_sync(policies.catch_up)
            consumers.append(policies)
        return consumers + list(options.callbacks)


def _uploads(run: RunContext, opened: OpenExperiment) -> Uploader | None:
    if opened.replica is None:
        return None
    plan = run.plan
    return Uploader(
        opened.replica,
        opened.journal,
        run.state,
        directory=plan.directory,
        interval_s=plan.options.upload_interval_s,
        keeps_few=plan.options.keep_checkpoints_num is not None,
        self_uploading=run.serialized.is_durable,
        say=print_line if plan.options.verbose else ignore_line,
        logs_may_lag=opened.is_behind,
    )
