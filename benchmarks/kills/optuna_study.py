"""Optuna as the driver that is killed: ``python optuna_study.py run|record|tails journal|sqlite DIR``.

Optuna has no checkpoints of trials: another trial begins in place of a killed one.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from work import NAME, STORAGE, Row, Tails, TrialRecord, Work, note, save_record, value


def study_in(storage: str, folder: Path) -> optuna.Study:
    """Return the study, created or loaded in the documented way."""
    folder = folder / STORAGE
    folder.mkdir(exist_ok=True)
    return optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}"
        if storage == "sqlite"
        else JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        study_name=NAME,
        load_if_exists=True,
    )


def run(storage: str, folder: Path) -> None:
    work = Work.load(folder)
    study = study_in(storage, folder)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        for iteration in range(1, work.iterations + 1):
            time.sleep(work.seconds)
            note(folder, "ran", trial.number, iteration)
            trial.report(value(trial.number, iteration), iteration)
            # The value is stored, since report() has returned.
            note(folder, "delivered", trial.number, iteration)
        return value(trial.number, work.iterations)

    left = work.trials - len(study.get_trials(states=(TrialState.COMPLETE,)))
    if left > 0:
        study.optimize(objective, n_trials=left, n_jobs=work.at_once)


def record(storage: str, folder: Path) -> None:
    save_record(
        folder,
        [
            TrialRecord(
                trial=trial.number,
                rows=tuple(sorted(trial.intermediate_values)),
                status=trial.state.name,
                finished=trial.state == TrialState.COMPLETE,
                running=trial.state == TrialState.RUNNING,
            )
            for trial in study_in(storage, folder).trials
        ],
    )


def rows_of(study: optuna.Study) -> set[Row]:
    return {(trial.number, step) for trial in study.trials for step in trial.intermediate_values}


def whole_rows(data: bytes) -> set[Row]:
    """Return the rows of the complete records of a journal; trial ids count from 0."""
    lines = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
    return {(line["trial_id"], line["step"]) for line in lines if "step" in line}


def tails(storage: str, folder: Path) -> None:
    """Resume twice from a journal that was cut, at each of its last bytes."""

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        for iteration in range(1, 6):
            trial.report(value(trial.number, iteration), iteration)
        return value(trial.number, 5)

    study_in(storage, folder).optimize(objective, n_trials=2)
    whole = (folder / STORAGE / "study.log").read_bytes()
    seen = Tails()
    for cut in seen.cuts(whole):
        copy = folder / "copy"
        (copy / STORAGE).mkdir(parents=True)
        (copy / STORAGE / "study.log").write_bytes(whole[:cut])

        def resume(copy: Path = copy) -> set[Row]:
            study = study_in(storage, copy)
            study.optimize(objective, n_trials=1)
            return rows_of(study)

        seen.try_cut(whole[:cut], whole_rows(whole[:cut]), resume)
        shutil.rmtree(copy)
    print(seen.as_json())


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    {"run": run, "record": record, "tails": tails}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
