"""The analysis of an experiment that runs, has ended, or lies on disk."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from asynctune._checks import check_choice, check_mode
from asynctune.errors import ConfigError, MetricMissing, TrialError, TuneError
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.experiment.state import state_from_disk
from asynctune.experiment.status import Status
from asynctune.experiment.trial import CheckpointRef, Trial
from asynctune.result import Row, flatten, is_better
from asynctune.storage.base import redact_url
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.urls import is_url

if TYPE_CHECKING:
    import pandas as pd

_SCOPES: Mapping[str, Callable[[list[float]], list[float]]] = {
    "all": lambda values: values,
    "last": lambda values: values[-1:],
    "avg": lambda values: values,
    "last-5-avg": lambda values: values[-5:],
    "last-10-avg": lambda values: values[-10:],
}


class ExperimentAnalysis:
    """The trials of an experiment, and the best of them. NaN is never best.

    Args:
        trials: The trials.
        path: The directory of the experiment.
        metric: The default objective of the methods.
        mode: The default mode of the methods: ``"min"`` or ``"max"``.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        path: str,
        *,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        self.trials: list[Trial] = list(trials)
        self.path = path
        self._metric = metric
        self._mode = mode

    @classmethod
    def from_disk(cls, path: str | os.PathLike[str]) -> Self:
        """Read an experiment from its directory, without the trial code. The run may still be going.

        Raises:
            TuneError: The directory holds no experiment.
            ExperimentCorrupt: The journal is damaged.
        """
        if is_url(path) and not os.fspath(path).startswith("file://"):
            url = redact_url(os.fspath(path))
            raise TuneError(
                f"path must be a local directory, got {url}; download it with: asynctune fetch {url} here"
            )
        directory = os.path.abspath(os.path.expanduser(path))
        file = Path(directory, FILE_NAME)
        if not file.is_file():
            raise TuneError(f"{directory} is no experiment: it has no file called {FILE_NAME!r}")
        journal = JournalReader(file)
        state = state_from_disk(directory, journal.read_rows)
        journal.replay(state.apply)
        if state.started is None:
            raise TuneError(f"{directory} is no experiment: its journal is empty")
        return cls(
            list(state.trials.values()),
            directory,
            metric=state.started.metric,
            mode=state.started.mode,
        )

    # -- the best ---------------------------------------------------------------------------------

    @property
    def best_trial(self) -> Trial | None:
        """The trial with the best value of the run's metric at any time; None without results."""
        return self.get_best_trial()

    @property
    def best_config(self) -> dict[str, Any] | None:
        """The configuration of the best trial."""
        return self.get_best_config()

    @property
    def best_result(self) -> Row | None:
        """The row of the best trial with the best value of the run's metric."""
        metric, mode = self._objective(None, None)
        trial = self.get_best_trial()
        return None if trial is None else _best_row(trial, metric, mode)

    @property
    def best_checkpoint(self) -> CheckpointRef | None:
        """The best trial's checkpoint of its best row, or else the newest checkpoint of that trial."""
        trial, row = self.get_best_trial(), self.best_result
        if trial is None or row is None:
            return None
        for checkpoint in reversed(trial.checkpoints):
            if checkpoint.iteration == row.get("training_iteration"):
                return checkpoint
        return trial.checkpoint

    def get_best_trial(
        self, metric: str | None = None, mode: str | None = None, scope: str = "all"
    ) -> Trial | None:
        """Return the best trial.

        Args:
            metric: The metric; by default the run's.
            mode: ``"min"`` or ``"max"``; by default the run's.
            scope: The score of a trial: its best value (``"all"``), its last value (``"last"``), or the
                average of all values (``"avg"``) or of the last 5 or 10 (``"last-5-avg"``,
                ``"last-10-avg"``).

        Returns:
            The trial with the best score, the first among equals. None if no trial has a score.

        Raises:
            ConfigError: The metric or mode is neither passed nor the run's, or the scope is unknown.
            MetricMissing: No trial has reported the metric.
        """
        metric, mode = self._objective(metric, mode)
        check_choice("", "scope", scope, *_SCOPES)
        best: Trial | None = None
        best_score = math.nan
        seen: set[str] = set()
        for trial in self.trials:
            rows = [trial.last_result] if scope == "last" else trial.results
            values = []
            for row in rows:
                flat = flatten(row)
                seen.update(flat)
                value = flat.get(metric)
                if isinstance(value, int | float) and not math.isnan(value):
                    values.append(float(value))
            values = _SCOPES[scope](values)
            if not values:
                continue
            if scope in ("all", "last"):
                score = min(values) if mode == "min" else max(values)
            else:
                score = sum(values) / len(values)
            if is_better(score, best_score, mode):
                best, best_score = trial, score
        if best is None and seen and metric not in seen:
            raise MetricMissing(metric, seen, wanted_by="get_best_trial")
        return best

    def get_best_config(
        self, metric: str | None = None, mode: str | None = None, scope: str = "all"
    ) -> dict[str, Any] | None:
        """Return the configuration of :meth:`get_best_trial`."""
        trial = self.get_best_trial(metric, mode, scope)
        return None if trial is None else trial.config

    def get_best_logdir(
        self, metric: str | None = None, mode: str | None = None, scope: str = "all"
    ) -> str | None:
        """Return the directory of :meth:`get_best_trial`."""
        trial = self.get_best_trial(metric, mode, scope)
        return None if trial is None else trial.logdir

    # -- all of them ------------------------------------------------------------------------------

    @property
    def errors(self) -> dict[str, TrialError]:
        """The errors of the trials whose status is ``ERROR``, by trial id."""
        return {
            trial.trial_id: trial.error
            for trial in self.trials
            if trial.status is Status.ERROR and trial.error is not None
        }

    def rows(self, metric: str | None = None, mode: str | None = None) -> list[Row]:
        """Return one flat row per trial, like :meth:`dataframe` but without pandas.

        Args:
            metric: The metric whose best row is returned; by default the last row of each trial.
            mode: ``"min"`` or ``"max"``; required with ``metric`` unless the run had one.

        Raises:
            MetricMissing: No trial has reported the metric.
        """
        table = []
        if metric is not None:
            rows = (row for trial in self.trials for row in trial.results)
            _check_reported(metric, rows, "dataframe")
        for trial in self.trials:
            row: Row | None = trial.last_result
            if metric is not None:
                row = _best_row(trial, *self._objective(metric, mode))
            flat = flatten({k: v for k, v in (row or {}).items() if k != "config"})
            flat["trial_id"] = trial.trial_id
            flat["status"] = str(trial.status)
            flat |= {f"config/{key}": value for key, value in flatten(trial.config).items()}
            flat["logdir"] = trial.logdir
            table.append(flat)
        return table

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Return one row per trial as a DataFrame, columns ``config/...`` and ``logdir`` included.

        Args:
            metric: The metric whose best row is returned; by default the last row of each trial.
            mode: ``"min"`` or ``"max"``; required with ``metric`` unless the run had one.

        Raises:
            ImportError: pandas is not installed (``asynctune[pandas]``).
            MetricMissing: No trial has reported the metric.
        """
        return _pandas().DataFrame(self.rows(metric, mode))

    @property
    def trial_dataframes(self) -> dict[str, pd.DataFrame]:
        """All rows of each trial as DataFrames, by logdir."""
        pandas = _pandas()
        return {
            trial.logdir: pandas.DataFrame([flatten(row) for row in trial.results])
            for trial in self.trials
        }

    def fetch_trial_dataframes(self) -> dict[str, pd.DataFrame]:
        """Return :attr:`trial_dataframes`."""
        return self.trial_dataframes

    def get_all_configs(self, prefix: bool = False) -> dict[str, dict[str, Any]]:
        """Return the configurations by logdir.

        Args:
            prefix: Whether each key gets the prefix ``config/``.
        """
        head = "config/" if prefix else ""
        return {
            trial.logdir: {f"{head}{key}": value for key, value in trial.config.items()}
            for trial in self.trials
        }

    def get_trial_checkpoints_paths(
        self, trial: Trial | str, metric: str = "training_iteration"
    ) -> list[tuple[str, Any]]:
        """Return the local checkpoints of a trial, each with the value of a metric in its row.

        Args:
            trial: The trial, its id, or its directory.
            metric: The metric.

        Returns:
            Pairs of path and value, oldest first; the value is None if the row lacks the metric.

        Raises:
            ConfigError: No trial has this id or directory.
            MetricMissing: The trial has not reported the metric.
        """
        found = trial if isinstance(trial, Trial) else self._find(trial)
        results = found.results
        _check_reported(metric, results, "get_trial_checkpoints_paths")
        rows = {row.get("training_iteration"): flatten(row) for row in results}
        return [
            (checkpoint.path, rows.get(checkpoint.iteration, {}).get(metric))
            for checkpoint in found.checkpoints
            if _exists(checkpoint.path)
        ]

    def stats(self) -> dict[str, Any]:
        """Return counts of trials by status, rows and failures, and the duration in seconds.

        The duration is the time from the first start of a trial to the last end of a trial.
        """
        by_status: dict[str, int] = {}
        for trial in self.trials:
            by_status[str(trial.status)] = by_status.get(str(trial.status), 0) + 1
        starts = [trial.started_at for trial in self.trials if trial.started_at is not None]
        ends = [trial.ended_at for trial in self.trials if trial.ended_at is not None]
        return {
            "trials": len(self.trials),
            "by_status": by_status,
            "results": sum(trial.num_results for trial in self.trials),
            "failures": sum(trial.num_failures for trial in self.trials),
            "started_at": min(starts, default=None),
            "seconds": max(ends) - min(starts) if starts and ends else 0.0,
        }

    def _find(self, name: str) -> Trial:
        directory = os.path.normpath(name)
        for trial in self.trials:
            if trial.trial_id == name or os.path.normpath(trial.logdir) == directory:
                return trial
        raise ConfigError(
            f"trial must be a trial of {self.path}, its id or its directory, got {name!r}"
        )

    def _objective(self, metric: str | None, mode: str | None) -> tuple[str, str]:
        metric = metric if metric is not None else self._metric
        mode = mode if mode is not None else self._mode
        if metric is None or mode is None:
            missing = "metric" if metric is None else "mode"
            raise ConfigError(f"{missing} must be passed, since the run had none")
        return metric, check_mode("", "mode", mode)


def Analysis(path: str | os.PathLike[str]) -> ExperimentAnalysis:
    """Read an experiment from disk; see :meth:`ExperimentAnalysis.from_disk`."""
    return ExperimentAnalysis.from_disk(path)


def _check_reported(metric: str, rows: Iterable[Row], wanted_by: str) -> None:
    """Raise ``MetricMissing`` if there are rows, and none of them has the metric."""
    seen: set[str] = set()
    for row in rows:
        flat = flatten(row)
        if metric in flat:
            return
        seen.update(flat)
    if seen:
        raise MetricMissing(metric, seen, wanted_by=wanted_by)


def _best_row(trial: Trial, metric: str, mode: str) -> Row | None:
    best: Row | None = None
    best_value = math.nan
    for row in trial.results:
        value = flatten(row).get(metric)
        if isinstance(value, int | float) and is_better(value, best_value, mode):
            best, best_value = row, float(value)
    return best


def _exists(path: str) -> bool:
    try:
        _checkpoint.find_root(path)
    except FileNotFoundError:
        return False
    return True


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as exc:
        raise ImportError(
            "dataframes need pandas: pip install 'asynctune[pandas]'; rows() works without pandas"
        ) from exc
    return pd
