"""Tune with checkpoints in a bucket; kill the driver, and continue from the bucket on another machine.

python examples/durable.py --to s3://bucket/path

starts a driver in a second process, kills that driver by SIGKILL once three trials have ended, and
continues the experiment in an empty directory, as another machine would. Endpoint and credentials come
from the usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...). Without --to, a directory
stands for the bucket.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

import asynctune as tune

EPOCHS = 20


class Digits(tune.DurableTrainable):
    """A linear model of handwritten digits. Each save uploads the weights to the bucket."""

    def _setup(self, config: dict[str, Any]) -> None:
        images, labels = load_digits(return_X_y=True)
        self.images, self.unseen, self.labels, self.unseen_labels = train_test_split(
            images / 16, labels, test_size=0.5, stratify=labels, random_state=0
        )
        self.model = SGDClassifier(
            loss="log_loss", alpha=config["alpha"], learning_rate="constant", eta0=config["eta"]
        )
        self.began_at = 0

    def _train(self) -> dict[str, Any]:
        for _ in range(5):
            self.model.partial_fit(self.images, self.labels, classes=np.arange(10))
        right = self.model.score(self.unseen, self.unseen_labels)
        return {"accuracy": right, "began_at": self.began_at}

    def _save(self, directory: str) -> str:
        file = Path(directory, "weights.npz")
        np.savez(file, coef=self.model.coef_, intercept=self.model.intercept_, t=self.model.t_)
        return str(file)

    def _restore(self, checkpoint: str) -> None:
        self.model.partial_fit(self.images[:10], self.labels[:10], classes=np.arange(10))
        with np.load(checkpoint) as weights:
            self.model.coef_, self.model.intercept_ = weights["coef"], weights["intercept"]
            self.model.t_ = float(weights["t"])
        self.began_at = int(Path(checkpoint).parent.name.split("_")[1].split(".")[0])


async def drive(bucket: str, directory: str) -> tune.ExperimentAnalysis:
    """Run the experiment, or continue it: the same call, on any machine."""
    return await tune.run(
        Digits,
        config={"alpha": tune.loguniform(1e-6, 1e-2), "eta": tune.loguniform(1e-4, 1e-1)},
        metric="accuracy",
        mode="max",
        num_samples=6,
        stop={"training_iteration": EPOCHS},
        checkpoint_freq=1,
        keep_checkpoints_num=2,
        seed=0,
        name="digits",
        storage_path=directory,
        upload_dir=bucket,
        upload_interval_s=0.5,
        resume="AUTO",
    )


def kill_midway(bucket: str, directory: Path) -> None:
    """Start a driver, and kill it by SIGKILL when three trials have ended."""
    command = [sys.executable, __file__, "--to", bucket, "--drive", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        ended = 0
        for line in driver.stdout:
            print(line, end="", flush=True)
            ended += "TERMINATED" in line
            if ended == 3:
                driver.kill()
    print(f"-- killed: the driver ended with {driver.returncode}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", help="URL for checkpoints, e.g. s3://bucket/path")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        asyncio.run(drive(given.to, given.drive))
        return
    with tempfile.TemporaryDirectory() as directory:
        bucket = given.to or f"{directory}/bucket"
        kill_midway(bucket, Path(directory, "machine-1"))
        analysis = asyncio.run(drive(bucket, f"{directory}/machine-2"))
        again = [t for t in analysis.trials if t.last_result["began_at"]]
        print(
            f"-- continued in an empty directory: {len(again)} trials from a checkpoint in {bucket}"
        )
        for trial in analysis.trials:
            rows = [row["training_iteration"] for row in trial.results]
            assert rows == list(range(1, EPOCHS + 1)), "no result is lost or repeated"
        best = analysis.best_result
        assert best is not None
        print(f"best accuracy {best['accuracy']:.3f} with {analysis.best_config}")


if __name__ == "__main__":
    main()
