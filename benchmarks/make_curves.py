"""Make the table of learning curves for the benchmarks of the simulator: MLPs trained on digits.

Run as `nice python benchmarks/make_curves.py [--configurations 1060] [--chunks DIRECTORY]`. The script
trains scikit-learn's MLPClassifier on 1,000 of the 1,797 digits, epoch by epoch, and measures the accuracy
on the other 797 after each epoch. Configuration `i` depends on `i` alone, so more configurations can be
added later. Every 20 configurations go into a file of DIRECTORY, from which an interrupted run continues.
At the end the script writes the table, in the form that `asynctune.simulate.Curves` loads.

The script needs scikit-learn (the extra `examples`), and about half an hour of one CPU for the whole table.
"""

import argparse
import gzip
import json
import math
import os
import platform
import sys
import time
import warnings
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

EPOCHS = 50
CHUNK = 20
TABLE = Path(__file__).parent / "data" / "digits_curves.jsonl.gz"

# The domains of the configurations, in the form of Curves: the searchers' space is made of them.
DOMAINS = {
    "learning_rate_init": {"kind": "loguniform", "lower": 1e-5, "upper": 1.0},
    "alpha": {"kind": "loguniform", "lower": 1e-7, "upper": 1.0},
    "momentum": {"kind": "uniform", "lower": 0.0, "upper": 0.99},
    "batch_size": {"kind": "choice", "values": [8, 16, 32, 64, 128, 256]},
    "width": {"kind": "lograndint", "lower": 4, "upper": 129},
    "depth": {"kind": "randint", "lower": 1, "upper": 3},
    "activation": {"kind": "choice", "values": ["relu", "tanh", "logistic"]},
    "solver": {"kind": "choice", "values": ["sgd", "adam"]},
}


def configuration(index):
    """Return the configuration of an index, the same on every machine."""
    rng = np.random.default_rng([4, index])
    config = {}
    for name, domain in DOMAINS.items():
        match domain["kind"]:
            case "loguniform":
                drawn = math.exp(rng.uniform(math.log(domain["lower"]), math.log(domain["upper"])))
                config[name] = float(f"{drawn:.4g}")
            case "uniform":
                config[name] = round(float(rng.uniform(domain["lower"], domain["upper"])), 4)
            case "lograndint":
                drawn = math.exp(rng.uniform(math.log(domain["lower"]), math.log(domain["upper"])))
                config[name] = int(drawn)
            case "randint":
                config[name] = int(rng.integers(domain["lower"], domain["upper"]))
            case "choice":
                config[name] = domain["values"][int(rng.integers(len(domain["values"])))]
    return config


def digits():
    """Return the fixed split: 1,000 digits for training, 797 for measurement."""
    pixels, labels = load_digits(return_X_y=True)
    return train_test_split(pixels / 16.0, labels, train_size=1000, random_state=0, stratify=labels)


def curve(index, data):
    """Train one configuration and measure it after every epoch.

    The training of a network that diverges ends: its loss is null from then on, its accuracy that of a
    constant answer.
    """
    train_pixels, valid_pixels, train_labels, valid_labels = data
    config = configuration(index)
    model = MLPClassifier(
        hidden_layer_sizes=(config["width"],) * config["depth"],
        activation=config["activation"],
        solver=config["solver"],
        alpha=config["alpha"],
        batch_size=config["batch_size"],
        learning_rate_init=config["learning_rate_init"],
        momentum=config["momentum"],
        beta_1=config["momentum"],
        nesterovs_momentum=False,
        random_state=np.random.RandomState(index),
    )
    classes = np.unique(train_labels)
    correct, losses, seconds, diverged = [], [], [], False
    for _ in range(EPOCHS):
        began = time.process_time()
        loss = math.nan
        if not diverged:
            try:
                model.partial_fit(train_pixels, train_labels, classes=classes)
                chances = model.predict_proba(valid_pixels)
                if np.isfinite(chances).all():
                    loss = log_loss(valid_labels, chances, labels=classes)
            except ValueError as error:  # scikit-learn's answer to weights that are not finite
                if "non-finite" not in str(error):
                    raise
        if math.isfinite(loss):
            correct.append(int((chances.argmax(axis=1) == valid_labels).sum()))
            losses.append(float(f"{loss:.3g}"))
            seconds.append(float(f"{time.process_time() - began:.3g}"))
        else:
            diverged = True
            correct.append(int((valid_labels == 0).sum()))
            losses.append(None)
            seconds.append(seconds[-1] if seconds else float(f"{time.process_time() - began:.3g}"))
    accuracy = [round(count / len(valid_labels), 4) for count in correct]
    return {"config": config, "seconds": seconds, "accuracy": accuracy, "loss": losses}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configurations", type=int, default=1060)
    parser.add_argument("--chunks", type=Path, default=Path("curve_chunks"))
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    warnings.simplefilter(
        "ignore"
    )  # of overflows and of networks that did not converge: both are data here
    np.seterr(all="ignore")
    arguments.chunks.mkdir(parents=True, exist_ok=True)
    data = digits()
    lines = []
    for first in range(0, arguments.configurations, CHUNK):
        chunk = arguments.chunks / f"{first:06d}.jsonl"
        if not chunk.exists():
            made = [json.dumps(curve(index, data)) for index in range(first, first + CHUNK)]
            temporary = chunk.with_suffix(".new")
            temporary.write_text("\n".join(made) + "\n")
            temporary.replace(chunk)
            print(
                f"{first + CHUNK} configurations, {time.process_time():.0f} s of CPU",
                file=sys.stderr,
                flush=True,
            )
        lines += chunk.read_text().splitlines()
    lines = lines[: arguments.configurations]
    header = {
        "about": "MLPClassifier on digits (1,000 to train on, 797 to validate with), "
        "made by benchmarks/make_curves.py",
        "made_with": f"scikit-learn {sklearn.__version__}, numpy {np.__version__}, {platform.machine()}",
        "precision": "accuracy to 4 places (steps of 1/797), loss and seconds of CPU "
        "(an epoch with its validation) to 3 digits",
        "epochs": EPOCHS,
        "domains": DOMAINS,
    }
    # Without a name and a time in the file's head, the same table has the same bytes.
    with arguments.out.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write("\n".join([json.dumps(header), *lines, ""]).encode())
    print(
        f"{len(lines)} curves of {EPOCHS} epochs, {arguments.out.stat().st_size:,} bytes: {arguments.out}"
    )


if __name__ == "__main__":
    main()
