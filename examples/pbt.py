"""Let a population of networks find a schedule of hyperparameters, and compare with training alone.

The example trains each configuration twice: once unchanged, and once in a population whose poor members
continue from the state of good ones, with other hyperparameters.

python examples/pbt.py --trials 8 --epochs 24 --workers 2 --storage results/

With --name, the same command continues an interrupted run, after Ctrl-C, kill -9 or a power failure.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import asynctune as tune
from asynctune.executors import ProcessExecutor
from asynctune.schedulers import PopulationBasedTraining

HIDDEN = 32
BATCH = 32
INTERVAL = 2
METRIC = {"metric": "loss", "mode": "min"}


class Network(tune.Trainable):
    """A network with one hidden layer. An iteration is one pass over the training images."""

    def _setup(self, config: dict[str, Any]) -> None:
        images, labels = load_digits(return_X_y=True)
        self.images, self.unseen_images, self.labels, self.unseen_labels = train_test_split(
            images / 16, labels, test_size=0.5, stratify=labels, random_state=0
        )
        self.random = np.random.default_rng(0)
        shapes = {"in": (64, HIDDEN), "hidden": (HIDDEN,), "out": (HIDDEN, 10), "bias": (10,)}
        self.weights = {key: self.random.normal(0, 0.1, shape) for key, shape in shapes.items()}
        self.speed = {key: np.zeros(shape) for key, shape in shapes.items()}

    def _train(self) -> dict[str, float]:
        order = self.random.permutation(len(self.images))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            self._descend(self.images[chosen], self.labels[chosen])
        _, chances = self._forward(self.unseen_images)
        right = chances[np.arange(len(chances)), self.unseen_labels]
        return {
            "loss": float(-np.log(np.maximum(right, 1e-12)).mean()),
            "accuracy": float((chances.argmax(axis=1) == self.unseen_labels).mean()),
        }

    def _forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = np.maximum(images @ self.weights["in"] + self.weights["hidden"], 0)
        scores = hidden @ self.weights["out"] + self.weights["bias"]
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, chances / chances.sum(axis=1, keepdims=True)

    def _descend(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Follow the gradient of one batch, with momentum and decaying weights."""
        hidden, error = self._forward(images)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        back = (error @ self.weights["out"].T) * (hidden > 0)
        gradients = {
            "in": images.T @ back, "hidden": back.sum(axis=0),
            "out": hidden.T @ error, "bias": error.sum(axis=0),
        }  # fmt: skip
        for key, gradient in gradients.items():
            downhill = -gradient - self.config["decay"] * self.weights[key]
            self.speed[key] *= self.config["momentum"]
            self.speed[key] += self.config["lr"] * downhill
            self.weights[key] += self.speed[key]

    def _save(self, tmp_checkpoint_dir: str) -> dict[str, Any]:
        return {"weights": self.weights, "speed": self.speed, "random": self.random}

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.weights, self.speed = checkpoint["weights"], checkpoint["speed"]
        self.random = checkpoint["random"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Accept new hyperparameters without a restart; ``self.config`` holds them already."""
        return True


async def main(
    *,
    trials: int = 8,
    epochs: int = 24,
    workers: int = 2,
    storage: str | None = None,
    seed: int = 4,
    name: str | None = None,
) -> tuple[tune.ExperimentAnalysis, tune.ExperimentAnalysis]:
    """Train ``trials`` networks for ``epochs`` iterations without and with PBT, and print the results."""
    space = {
        "lr": tune.loguniform(1e-4, 1e-1),
        "momentum": tune.uniform(0.0, 0.95),
        "decay": tune.loguniform(1e-6, 1e-1),
    }
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=INTERVAL,
        hyperparam_mutations={**space, "lr": tune.loguniform(1e-4, 1.0)},
    )
    async with ProcessExecutor(workers) as pool:
        common: dict[str, Any] = {
            "config": space, "num_samples": trials, "stop": {"training_iteration": epochs},
            "seed": seed, "executor": pool, "storage_path": storage, "verbose": 0, **METRIC,
        }  # fmt: skip
        alone = await tune.run(Network, **common, **named(name, "alone"))
        population = await tune.run(
            Network, scheduler=scheduler, **common, **named(name, "population")
        )
    show(alone, population)
    return alone, population


def named(name: str | None, part: str) -> dict[str, Any]:
    """Return the arguments that let the run continue an interrupted experiment."""
    return {} if name is None else {"name": f"{name}-{part}", "resume": "AUTO"}


def show(alone: tune.ExperimentAnalysis, population: tune.ExperimentAnalysis) -> None:
    """Print the two trials of each configuration side by side, and the best result of each run."""
    print(f"{'lr':>9} {'momentum':>8} {'decay':>9}  {'loss alone':>10} {'with PBT':>9}  took over")
    for one, other in zip(alone.trials, population.trials, strict=True):
        assert one.config == other.initial_config
        lr, momentum, decay = (one.config[key] for key in ("lr", "momentum", "decay"))
        losses = f"{one.last_result['loss']:>10.4f} {other.last_result['loss']:>9.4f}"
        print(f"{lr:>9.2e} {momentum:>8.2f} {decay:>9.2e}  {losses}  {len(other.lineage)} times")
    for name, analysis in (("alone", alone), ("with PBT", population)):
        best = min((trial.last_result for trial in analysis.trials), key=lambda row: row["loss"])
        print(
            f"best {name}: loss {best['loss']:.4f}, {best['accuracy']:.2%} of unseen digits right"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tune networks on digits with PBT and without.")
    parser.add_argument("--trials", type=int, default=8, help="number of configurations to try")
    parser.add_argument("--epochs", type=int, default=24, help="number of iterations of each")
    parser.add_argument("--workers", type=int, default=2, help="number of trials at once")
    parser.add_argument(
        "--storage", help="directory or URL for results (default: ~/asynctune_results)"
    )
    parser.add_argument("--seed", type=int, default=4, help="seed of the configurations")
    parser.add_argument("--name", help="name of the experiments to start or continue")
    asyncio.run(main(**vars(parser.parse_args())))
