"""``asynctune show``: prints the trials of an experiment."""

from __future__ import annotations

from asynctune.experiment.analysis import ExperimentAnalysis


def show(directory: str) -> int:
    """Print a line for each trial and the number of trials by status, and return the exit code.

    Args:
        directory: The directory of the experiment.
    """
    analysis = ExperimentAnalysis.from_disk(directory)
    for trial in analysis.trials:
        iteration = trial.last_result.get("training_iteration", 0)
        reason = f" ({trial.stop_reason})" if trial.stop_reason else ""
        print(f"{trial.trial_id}  {trial.status}{reason}  iter {iteration}  {trial.tag}")
    counts = ", ".join(f"{n} {status}" for status, n in analysis.stats()["by_status"].items())
    print(f"{len(analysis.trials)} trials: {counts or 'none'}")
    return 0
