"""The example of a population, run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import asynctune as tune

EXAMPLE = Path(__file__).parents[2] / "examples" / "pbt.py"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_population_beats_the_same_configurations_alone(tmp_path):
    results = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--storage", results],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    losses = [
        float(loss) for loss in re.findall(r"^best .*: loss ([\d.]+),", done.stdout, re.MULTILINE)
    ]
    alone, population = losses
    assert population < alone
    first, second = sorted((tune.Analysis(path) for path in results.iterdir()), key=descended)
    assert descended(first) == 0 < descended(second)
    assert [t.initial_config for t in first.trials] == [t.initial_config for t in second.trials]
    for analysis, best in ((first, alone), (second, population)):
        assert [t.last_result["training_iteration"] for t in analysis.trials] == [24] * 8
        found = min(t.last_result["loss"] for t in analysis.trials)
        assert best == pytest.approx(found, abs=1e-4)


def descended(analysis):
    return sum(len(trial.lineage) for trial in analysis.trials)
