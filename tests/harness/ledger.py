"""A ledger of the results that a run has shown, kept outside of the run: no shown result may be lost."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from asynctune.callbacks.base import Callback
from asynctune.experiment.analysis import ExperimentAnalysis
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row


@dataclass(frozen=True, slots=True)
class Balance:
    """The comparison of a ledger with an experiment.

    Args:
        shown: The number of different results in the ledger.
        lost: The results that the experiment lacks, as (trial, iteration).
        doubled: The results that the experiment has more than once.
    """

    shown: int
    lost: tuple[tuple[str, int], ...]
    doubled: tuple[tuple[str, int], ...]


class Ledger(Callback):
    """A callback that writes every result to a file, which outlives the process.

    Args:
        path: The file; lines are added to it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_trial_result(self, trial: Trial, result: Row) -> None:
        """Append a line with one ``write``, which a SIGKILL cannot undo."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{trial.trial_id} {result[TRAINING_ITERATION]}\n".encode())
        finally:
            os.close(descriptor)

    def entries(self) -> set[tuple[str, int]]:
        """Return all shown results, as (trial, iteration)."""
        if not self.path.exists():
            return set()
        lines = self.path.read_text().splitlines()
        return {(trial_id, int(number)) for trial_id, number in map(str.split, lines)}

    def compare(self, analysis: ExperimentAnalysis) -> Balance:
        """Compare the ledger with the results of an experiment."""
        there = Counter(
            (trial.trial_id, row[TRAINING_ITERATION])
            for trial in analysis.trials
            for row in trial.results
        )
        shown = self.entries()
        lost = sorted(entry for entry in shown if entry not in there)
        doubled = sorted(entry for entry, count in there.items() if count > 1)
        return Balance(len(shown), tuple(lost), tuple(doubled))
