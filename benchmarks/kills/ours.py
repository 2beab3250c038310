"""asynctune as the driver that is killed: ``python ours.py run|record|tails DIR``."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from work import NAME, STORAGE, Row, Tails, TrialRecord, Work, note, save_record, value

import asynctune as tune

CHECKPOINT = "state.json"


class Sleeper(tune.Trainable):
    def _setup(self, config):
        self.done_iterations = 0

    def _train(self):
        time.sleep(self.config["seconds"])
        self.done_iterations += 1
        index, iteration = self.config["index"], self.done_iterations
        note(self.config["folder"], "ran", index, iteration)
        return {
            "value": value(index, iteration),
            "at": iteration,
            "done": iteration >= self.config["iterations"],
        }

    def _save(self, checkpoint_dir):
        Path(checkpoint_dir, CHECKPOINT).write_text(json.dumps(self.done_iterations))
        return checkpoint_dir

    def _restore(self, checkpoint):
        self.done_iterations = json.loads(Path(checkpoint, CHECKPOINT).read_text())


class Deliveries(tune.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_trial_result(self, trial, result):
        note(self.folder, "delivered", trial.config["index"], result["at"])


async def tuned(folder: Path, ledger: Path, **options: Any) -> None:
    work = Work.load(folder)
    await tune.run(
        Sleeper,
        config={
            "index": tune.grid_search(list(range(work.trials))),
            "folder": str(ledger),
            "iterations": work.iterations,
            "seconds": work.seconds,
        },
        name=NAME,
        storage_path=str(folder / STORAGE),
        resume="AUTO",
        checkpoint_freq=1,
        keep_checkpoints_num=2,
        max_concurrent_trials=work.at_once,
        callbacks=[Deliveries(str(ledger))],
        verbose=0,
        **options,
    )


def run(folder: Path) -> None:
    asyncio.run(tuned(folder, folder))


async def run_inline(folder: Path, ledger: Path) -> None:
    """Run the same work without processes, to look at the journal alone."""
    async with tune.executors.InlineExecutor() as executor:
        await tuned(folder, ledger, executor=executor)


def rows_of(folder: Path) -> set[Row]:
    trials = tune.Analysis(folder / STORAGE / NAME).trials
    return {(trial.config["index"], row["at"]) for trial in trials for row in trial.results}


def record(folder: Path) -> None:
    """Return the trials of the analysis from disk, with the rows of their ``result.json``."""
    work = Work.load(folder)
    trials = []
    for trial in tune.Analysis(folder / STORAGE / NAME).trials:
        log = Path(trial.logdir) / "result.json"
        lines = log.read_text().splitlines() if log.exists() else []
        trials.append(
            TrialRecord(
                trial=trial.config["index"],
                rows=tuple(row["at"] for row in trial.results),
                log_rows=tuple(json.loads(line)["at"] for line in lines),
                status=str(trial.status),
                finished=trial.status == "TERMINATED"
                and trial.last_result.get("at") == work.iterations,
                running=trial.status == "RUNNING",
                error=str(trial.error) if trial.error else None,
            )
        )
    save_record(folder, trials)


def tails(folder: Path) -> None:
    """Resume twice from a journal that was cut, at each of its last bytes."""
    Work(trials=2, iterations=5, seconds=0).save(folder)
    asyncio.run(run_inline(folder, folder))
    whole = (folder / STORAGE / NAME / "journal").read_bytes()
    seen = Tails()
    for cut in seen.cuts(whole):
        copy = folder / "copy"
        shutil.copytree(folder / STORAGE, copy / STORAGE)
        Work.load(folder).save(copy)
        journal = copy / STORAGE / NAME / "journal"
        journal.write_bytes(whole[:cut])
        before = rows_of(copy)

        def resume(copy: Path = copy) -> set[Row]:
            asyncio.run(run_inline(copy, folder))  # another config is another experiment
            return rows_of(copy)

        seen.try_cut(whole[:cut], before, resume)
        shutil.rmtree(copy)
    print(seen.as_json())


if __name__ == "__main__":
    {"run": run, "record": record, "tails": tails}[sys.argv[1]](Path(sys.argv[2]))
