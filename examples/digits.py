"""Tune a neural network on scikit-learn's handwritten digits, with a class that saves and restores.

python examples/digits.py --samples 8 --epochs 10 --storage results/
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import asynctune as tune


class Digits(tune.Trainable):
    """One network. An iteration is one pass over the training images."""

    def _setup(self, config: dict[str, Any]) -> None:
        images, labels = load_digits(return_X_y=True)
        self.images, self.unseen_images, self.labels, self.unseen_labels = train_test_split(
            images / 16, labels, test_size=0.25, stratify=labels, random_state=0
        )
        self.model = MLPClassifier(
            hidden_layer_sizes=(config["hidden"],),
            learning_rate_init=config["lr"],
            alpha=config["alpha"],
            batch_size=config["batch"],
            random_state=0,
        )

    def _train(self) -> dict[str, float]:
        self.model.partial_fit(self.images, self.labels, classes=range(10))
        accuracy = self.model.score(self.unseen_images, self.unseen_labels)
        return {"accuracy": accuracy, "loss": self.model.loss_}

    def _save(self, tmp_checkpoint_dir: str) -> dict[str, Any]:
        return {"model": self.model}

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.model = checkpoint["model"]


async def main(
    *, samples: int = 8, epochs: int = 10, storage: str | None = None
) -> tune.ExperimentAnalysis:
    """Train ``samples`` networks for ``epochs`` iterations, and print their accuracy."""
    analysis = await tune.run(
        Digits,
        config={
            "hidden": tune.choice([16, 32, 64, 128]),
            "lr": tune.loguniform(1e-4, 1e-1),
            "alpha": tune.loguniform(1e-6, 1e-1),
            "batch": tune.choice([32, 64, 128]),
        },
        metric="accuracy",
        mode="max",
        num_samples=samples,
        stop={"training_iteration": epochs},
        checkpoint_at_end=True,
        storage_path=storage,
    )
    show(analysis)
    return analysis


def show(analysis: tune.ExperimentAnalysis) -> None:
    """Print the trials, the best one last, and the configuration of the best."""
    print(f"{'trial':<24} {'hidden':>6} {'lr':>9} {'alpha':>9} {'batch':>5}  {'accuracy':>8}")
    for trial in sorted(analysis.trials, key=lambda trial: trial.last_result["accuracy"]):
        hidden, lr, alpha, batch = (trial.config[key] for key in ("hidden", "lr", "alpha", "batch"))
        accuracy = trial.last_result["accuracy"]
        print(f"{trial!s:<24} {hidden:>6} {lr:>9.2e} {alpha:>9.2e} {batch:>5}  {accuracy:>8.2%}")
    print("best configuration:", analysis.best_config)
    print(f"its accuracy on unseen digits: {analysis.best_result['accuracy']:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tune a neural network on handwritten digits.")
    parser.add_argument("--samples", type=int, default=8, help="number of configurations to try")
    parser.add_argument("--epochs", type=int, default=10, help="number of iterations of each")
    parser.add_argument(
        "--storage", help="directory or URL for results (default: ~/asynctune_results)"
    )
    asyncio.run(main(**vars(parser.parse_args())))
