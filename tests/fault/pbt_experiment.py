"""A population whose driver is killed: four trials in two worker processes."""

from __future__ import annotations

import asynctune as tune
from asynctune.executors import ProcessExecutor
from asynctune.schedulers import PopulationBasedTraining

NAME = "population"
ITERATIONS = 12


class Climbs(tune.Trainable):
    """Climbs by its rate; the height shows whose state a trial took over."""

    def _setup(self, config):
        self.height = 0.0

    def _train(self):
        self.height += self.config["rate"]
        return {"height": self.height}

    def _save(self, directory):
        return {"height": self.height}

    def _restore(self, checkpoint):
        self.height = checkpoint["height"]

    def reset_config(self, new_config):
        return new_config["rate"] > 0.5  # one way or the other


async def main(directory):
    """Run or resume the experiment."""
    async with ProcessExecutor(2) as pool:
        return await tune.run(
            Climbs, config={"rate": tune.uniform(0, 1)}, num_samples=4, executor=pool,
            stop={"training_iteration": ITERATIONS}, checkpoint_freq=1, metric="height", mode="max", seed=7,
            scheduler=PopulationBasedTraining(
                time_attr="training_iteration", perturbation_interval=2,
                hyperparam_mutations={"rate": tune.uniform(0, 1)},
            ),
            name=NAME, storage_path=directory, resume="AUTO", loggers=[], verbose=0,
        )  # fmt: skip
