"""A small experiment on the loop of this process, whose file calls a test can make fail."""

from __future__ import annotations

from pathlib import Path

import anyio

import asynctune as tune
from asynctune.executors import InlineExecutor
from asynctune.experiment import events as ev
from harness.faults import FaultyFileSystem, using
from harness.ledger import Ledger

ITERATIONS = 4
SPACE = {"x": tune.grid_search([1, 2, 3, 4])}


class Counts(tune.Trainable):
    """Its rows are a function of its configuration and of the iteration alone."""

    async def _setup(self, config):
        self.total = 0

    async def _train(self):
        self.total += self.config["x"]
        return {"total": self.total}

    async def _save(self, directory):
        Path(directory, "total").write_text(str(self.total))
        return directory

    async def _restore(self, checkpoint):
        self.total = int(Path(checkpoint, "total").read_text())


def rows_of(analysis):
    """Return the final rows of an experiment, the same however often it was interrupted."""
    return {
        (trial.config["x"], row["training_iteration"], row["total"])
        for trial in analysis.trials
        for row in trial.results
    }


CONTROL = {(x, n, n * x) for x in SPACE["x"]["grid_search"] for n in range(1, ITERATIONS + 1)}


async def undisturbed(parent, ledger, **arguments):
    """Run or resume the experiment without faults."""
    with using(FaultyFileSystem()):
        return await experiment(parent, ledger, **arguments)


async def experiment(parent, ledger, *, ended=None, **arguments):
    """Run or resume the experiment; ``ended`` receives the trials whose end a task has awaited."""
    given = {
        "config": SPACE,
        "stop": {"training_iteration": ITERATIONS},
        "checkpoint_freq": 2,
        "keep_checkpoints_num": 1,
        "metric": "total",
        "mode": "max",
        "name": "simulated",
        "storage_path": parent,
        "resume": "AUTO",
        "loggers": [],
        "callbacks": [Ledger(ledger)],
        "grace_s": 1,
        "verbose": 0,
    }
    ended = set() if ended is None else ended
    async with (
        InlineExecutor(2) as pool,
        tune.start(Counts, executor=pool, **given | arguments) as running,
    ):
        async with anyio.create_task_group() as watching:
            async for event in running.events():
                if isinstance(event, ev.TrialAdded):
                    watching.start_soon(_await_end, running, event.trial_id, ended)
        return await running


async def _await_end(running, trial_id, ended):
    (trial,) = [trial for trial in running.trials if trial.trial_id == trial_id]
    await trial.is_over.wait()
    if not trial.run_error and trial.status.is_final:
        ended.add(trial_id)


def exists(parent):
    """Return whether there is a readable experiment."""
    from asynctune.experiment.reader import JournalReader

    return JournalReader(Path(parent, "simulated", "journal")).exists()
