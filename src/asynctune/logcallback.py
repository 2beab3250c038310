"""Carries the events of a run to the loggers of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from asynctune import events as ev
from asynctune.journal import Follower
from asynctune.loggers import Logger
from asynctune.logwriter import LogWriter
from asynctune.state import ExperimentState


class LogFeeder:
    """Feeds a :class:`LogWriter` from the journal.

    Args:
        loggers: The classes; one of each is made for each trial.
        state: The experiment.
    """

    def __init__(self, loggers: Sequence[type[Logger]], state: ExperimentState[Any]) -> None:
        self._writer = LogWriter(loggers)
        self._state = state

    async def run(self, events: Follower) -> None:
        """Carry until the events end and all is written."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._writer.run)
            async for event in events:
                match event:
                    case ev.TrialAdded():
                        trial = self._state.trials[event.trial_id]
                        self._writer.open(event.trial_id, event.config, trial.logdir, trial)
                    case ev.Reported():
                        self._writer.result(event.trial_id, event.row)
                    case ev.TrialEnded():
                        self._writer.end(event.trial_id)
            self._writer.close()
