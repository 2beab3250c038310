"""What is promised of the search is measured on the committed table, and the benchmark of it runs."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import asynctune as tune
from asynctune import simulate
from asynctune.schedulers import ASHAScheduler
from asynctune.space.space import Space

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CURVES = BENCHMARKS / "data" / "digits_curves.jsonl.gz"
LONG_S = 45.0
FIRST = 100
SEEDS = 10


class Reached(tune.Stopper):
    """Ends the run when an accuracy is reached."""

    def __init__(self, accuracy):
        self.accuracy = accuracy
        self.is_reached = False

    def __call__(self, trial_id, result):
        self.is_reached |= result["accuracy"] >= self.accuracy
        return False

    def stop_all(self):
        return self.is_reached


def seconds_to(curves, accuracy, seed, scheduler=None):
    """Search with 4 workers; return when the accuracy was reached, infinity for never."""
    found = simulate.run(
        simulate.tune(
            curves, metric="accuracy", mode="max", seed=seed, scheduler=scheduler, num_samples=-1,
            stop=Reached(accuracy), time_budget_s=LONG_S,
        )
    )  # fmt: skip
    reached = (row[simulate.SIMULATED_S] for row in found.rows if row["accuracy"] >= accuracy)
    return min(reached, default=math.inf)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("promote", [False, True])
def test_asha_finds_the_best_of_100_random_configurations_in_half_of_the_time(promote):
    curves = simulate.Curves.load(CURVES)
    space = Space(curves.space())
    ratios = []
    for seed in range(SEEDS):
        first = [space.variant(n, seed).config[simulate.CURVE] for n in range(FIRST)]
        best = max(curves[number].metrics["accuracy"][-1] for number in first)
        plain = seconds_to(curves, best, seed)
        halving = seconds_to(curves, best, seed, ASHAScheduler(max_t=50, promote=promote))
        ratios.append(halving / plain)
    assert statistics.median(ratios) <= 0.5, ratios


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_benchmark_of_search_says_what_was_found_and_takes_up_what_it_had_found(tmp_path):
    traces = tmp_path / "traces.jsonl"
    command = [sys.executable, str(BENCHMARKS / "search_quality.py"), "--seeds", "1", "--jobs", "1",
               "--methods", "random", "ASHA", "--traces", str(traces)]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| ASHA | asynctune |" in first.stdout
    assert "4 workers" in first.stdout
    assert "64 workers" in first.stdout
    before = traces.read_text()
    assert {json.loads(line)["method"] for line in before.splitlines()} == {"random", "ASHA"}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    assert traces.read_text() == before, "nothing was searched again"
