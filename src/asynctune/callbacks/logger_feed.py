"""The feed of the loggers: passes the events of a run to the loggers of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.to_thread

from asynctune.callbacks.logger_writer import LoggerWriter
from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.journal import Follower
from asynctune.experiment.state import ExperimentState
from asynctune.experiment.trial import Trial
from asynctune.loggers import Logger
from asynctune.result import Row, shown


class LoggerFeed:
    """Passes the events of the journal to a :class:`LoggerWriter`.

    Args:
        loggers: The logger classes; each trial gets one instance of each.
        state: The state of the experiment before the first of the events.
        history: The record of the previous runs, None in a new experiment.
    """

    def __init__(
        self,
        loggers: Sequence[type[Logger]],
        state: ExperimentState[Any],
        history: History | None = None,
    ) -> None:
        self._writer = LoggerWriter(loggers)
        self._state = state
        self._open: set[str] = set()
        self._last: dict[str, int] = {}
        lost = history.stale_logs if history is not None else frozenset()
        # Logs lag behind the journal, so those of a driver that died may lack rows.
        self._incomplete = [
            (trial.trial_id, trial.next_sequence - 1, trial.status.is_final)
            for trial in state.trials.values()
            if trial.trial_id in lost or not trial.status.is_final
        ]

    async def run(self, events: Follower) -> None:
        """Pass events until they end and the loggers have written everything."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._writer.run)
            for trial_id, sequence, is_final in self._incomplete:
                await self._restart(trial_id, sequence)
                if is_final:
                    self._end(trial_id)
            async for event in events:
                match event:
                    case ev.TrialAdded():
                        self._begin(event.trial_id, event.config)
                    case ev.Reported():
                        self._last[event.trial_id] = event.sequence
                        self._writer.result(event.trial_id, event.row)
                    case ev.TrialPaused():
                        await self._rewind(event.trial_id, event.resume_sequence)
                    case ev.Exploited():
                        await self._rewind(event.trial_id, event.resume_sequence)
                        self._writer.update_config(event.trial_id, event.config)
                    case ev.TrialFailed() if event.again:
                        await self._restart(event.trial_id, event.resume_sequence)
                    case ev.TrialReopened():
                        await self._restart(event.trial_id, event.resume_sequence)
                    case ev.TrialStarted() if event.resume_sequence is not None:
                        await self._restart(event.trial_id, event.resume_sequence)
                    case ev.TrialEnded():
                        await self._finish(event)
            self._writer.close()

    def _begin(self, trial_id: str, config: dict[str, Any]) -> None:
        trial = self._state.trials[trial_id]
        self._open.add(trial_id)
        self._writer.open(trial_id, config, trial.logdir, trial)

    async def _finish(self, event: ev.TrialEnded) -> None:
        trial = self._state.trials[event.trial_id]
        if trial.has_tail and trial.status.is_final:
            # The last attempt ended before it had repeated all earlier rows: the rest of them count again.
            self._writer.restart(event.trial_id, await anyio.to_thread.run_sync(_rows, trial))
        self._end(event.trial_id)

    async def _rewind(self, trial_id: str, sequence: int) -> None:
        """Cut the logs of a trial back to a row, if they are beyond it."""
        if self._last.get(trial_id, sequence) > sequence:
            await self._restart(trial_id, sequence)

    def _end(self, trial_id: str) -> None:
        self._last.pop(trial_id, None)
        self._open.discard(trial_id)
        self._writer.end(trial_id)

    async def _restart(self, trial_id: str, sequence: int) -> None:
        """Rewrite the logs of a trial with the surviving rows up to a sequence number."""
        trial = self._state.trials[trial_id]
        if trial_id not in self._open:
            self._begin(trial_id, shown(trial.config))  # the form in which events hold a config
        rows = await anyio.to_thread.run_sync(trial.results_to, sequence)
        self._writer.restart(trial_id, rows)


def _rows(trial: Trial) -> list[Row]:
    return trial.results
