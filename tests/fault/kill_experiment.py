"""The experiment whose driver is killed at bytes of its journal: four trials in two worker processes."""

from __future__ import annotations

from pathlib import Path

import asynctune as tune
from asynctune.executors import ProcessExecutor
from harness.ledger import Ledger

NAME = "killed"
ITERATIONS = 8


class Sums(tune.Trainable):
    """Its rows are a function of its configuration and of the iteration alone."""

    def _setup(self, config):
        self.total = 0.0

    def _train(self):
        self.total += self.config["x"]
        return {"total": round(self.total, 6)}

    def _save(self, directory):
        Path(directory, "total").write_text(repr(self.total))
        return directory

    def _restore(self, checkpoint):
        self.total = float(Path(checkpoint, "total").read_text())


def ledger_of(directory):
    return Ledger(Path(directory, "ledger"))


async def main(directory):
    """Run or resume the experiment."""
    async with ProcessExecutor(2) as pool:
        return await tune.run(
            Sums,
            config={"x": tune.uniform(0, 1)},
            num_samples=4,
            stop={"training_iteration": ITERATIONS},
            checkpoint_freq=2,
            keep_checkpoints_num=1,
            metric="total",
            mode="max",
            seed=7,
            executor=pool,
            name=NAME,
            storage_path=directory,
            resume="AUTO",
            loggers=[],
            callbacks=[ledger_of(directory)],
            verbose=0,
        )


def rows_of(analysis):
    """Return the final rows of the experiment, the same however often its driver was killed."""
    return {
        (trial.index, row["training_iteration"], row["total"])
        for trial in analysis.trials
        for row in trial.results
    }
