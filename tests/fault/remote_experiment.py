"""The experiment whose driver is killed while it uploads: four trials in two worker processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import asynctune as tune
from asynctune.executors import ProcessExecutor

NAME = "killed"
ITERATIONS = 40
INTERVAL_S = 0.5


class Sums(tune.Trainable):
    """Its rows are a function of its configuration and of the iteration alone, but for the time."""

    def _setup(self, config):
        self.total = 0.0

    def _train(self):
        time.sleep(0.02)
        self.total += self.config["x"]
        return {"total": round(self.total, 6), "at": time.time()}

    def _save(self, directory):
        Path(directory, "total").write_text(repr(self.total))
        return directory

    def _restore(self, checkpoint):
        self.total = float(Path(checkpoint, "total").read_text())


class DurableSums(tune.DurableTrainable, Sums):
    pass


async def main(directory):
    """Run or resume the experiment. The directory has a file with the URL of the remote copy."""
    place = json.loads(Path(directory, "place.json").read_text())
    async with ProcessExecutor(2) as pool:
        return await tune.run(
            DurableSums if place["durable"] else Sums,
            config={"x": tune.uniform(0, 1)}, num_samples=4, stop={"training_iteration": ITERATIONS},
            checkpoint_freq=4, keep_checkpoints_num=1, metric="total", mode="max", seed=7, executor=pool,
            name=NAME, storage_path=directory, resume="AUTO", loggers=[], verbose=0,
            upload_dir=place["url"], storage_options=place["options"], upload_interval_s=INTERVAL_S,
        )  # fmt: skip
