"""The counters of a trainable, and the result fields computed from them."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from asynctune import result as _result
from asynctune.result import Row

_NUMERIC_FIELDS = (
    _result.TIME_THIS_ITER_S,
    _result.TIMESTEPS_THIS_ITER,
    _result.EPISODES_THIS_ITER,
    _result.MEAN_LOSS,
)


class Counters:
    """Counts iterations, seconds, timesteps and episodes.

    After a restore, iterations, times and totals continue; the ``..._since_restore`` fields begin
    again at 0.
    """

    def __init__(self) -> None:
        self.experiment_id = uuid.uuid4().hex
        self.iteration = 0
        self.time_total = 0.0
        self.timesteps_total: int | None = None
        self.episodes_total: int | None = None
        self._time_since_restore = 0.0
        self._timesteps_since_restore = 0
        self._iterations_since_restore = 0
        self._hostname = socket.gethostname()

    def fill(self, row: Row, elapsed_s: float) -> None:
        """Count one iteration, and add the fields of its result to the row.

        Args:
            row: The reported metrics, changed in place.
            elapsed_s: The duration of the iteration in seconds, used unless the row contains one.

        Raises:
            TypeError: A field that must be a number is not one.
        """
        for name in _NUMERIC_FIELDS:
            value = row.get(name)
            # Refuse only text and containers: scalars of numpy and torch have no common base class.
            if value is not None and isinstance(value, str | bytes | list | tuple | dict | set):
                raise TypeError(f"result[{name!r}] must be a number, got {value!r}")
        self.iteration += 1
        self._iterations_since_restore += 1
        reported = row.get(_result.TIME_THIS_ITER_S)
        this_iter = elapsed_s if reported is None else reported
        self.time_total += this_iter
        self._time_since_restore += this_iter
        timesteps = row.get(_result.TIMESTEPS_THIS_ITER)
        if timesteps is not None:
            self.timesteps_total = (self.timesteps_total or 0) + timesteps
            self._timesteps_since_restore += timesteps
        episodes = row.get(_result.EPISODES_THIS_ITER)
        if episodes is not None:
            self.episodes_total = (self.episodes_total or 0) + episodes
        row.setdefault(_result.DONE, False)
        row.setdefault(_result.TIMESTEPS_TOTAL, self.timesteps_total)
        row.setdefault(_result.EPISODES_TOTAL, self.episodes_total)
        row.setdefault(_result.TRAINING_ITERATION, self.iteration)
        loss = row.get(_result.MEAN_LOSS)
        if loss is not None:
            row.setdefault(_result.NEG_MEAN_LOSS, -loss)
        now = datetime.now()
        row.update(
            {
                _result.TIME_THIS_ITER_S: this_iter,
                _result.TIME_TOTAL_S: self.time_total,
                _result.TIME_SINCE_RESTORE: self._time_since_restore,
                _result.TIMESTEPS_SINCE_RESTORE: self._timesteps_since_restore,
                _result.ITERATIONS_SINCE_RESTORE: self._iterations_since_restore,
                _result.EXPERIMENT_ID: self.experiment_id,
                _result.DATE: now.strftime("%Y-%m-%d_%H-%M-%S"),
                _result.TIMESTAMP: int(now.timestamp()),
                _result.PID: os.getpid(),
                _result.HOSTNAME: self._hostname,
                _result.NODE_IP: "127.0.0.1",
            }
        )

    def state(self) -> dict[str, Any]:
        """Return the counters that a checkpoint stores."""
        return {
            "experiment_id": self.experiment_id,
            "iteration": self.iteration,
            "timesteps_total": self.timesteps_total,
            "time_total": self.time_total,
            "episodes_total": self.episodes_total,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the counters of a checkpoint."""
        self.experiment_id = state["experiment_id"]
        self.iteration = state["iteration"]
        self.timesteps_total = state["timesteps_total"]
        self.time_total = state["time_total"]
        self.episodes_total = state["episodes_total"]
        self._time_since_restore = 0.0
        self._timesteps_since_restore = 0
        self._iterations_since_restore = 0
