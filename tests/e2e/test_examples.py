"""The examples that are scripts, run as a user runs them who has nothing configured."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import token
import tokenize
from pathlib import Path

import pytest

import asynctune as tune

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Run an example with an empty home and give what it prints."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("ASYNCTUNE_RESULTS_DIR")

    def run(name, *arguments):
        done = subprocess.run(
            [sys.executable, EXAMPLES / name, *arguments],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


def printed_config(output):
    return ast.literal_eval(re.search(r"^best configuration: (\{.*\})$", output, re.MULTILINE)[1])


def experiment_in(directory):
    (path,) = Path(directory).iterdir()
    return tune.Analysis(path)


def test_the_quickstart_prints_the_configuration_that_trained_best(run_example, tmp_path):
    config = printed_config(run_example("quickstart.py"))
    assert os.listdir(tmp_path / "home") == ["asynctune_results"]
    analysis = experiment_in(tmp_path / "home" / "asynctune_results")
    assert [len(trial.results) for trial in analysis.trials] == [5] * 8
    best = max(analysis.trials, key=lambda t: max(row["accuracy"] for row in t.results))
    assert config == best.config
    assert analysis.best_result["accuracy"] > 0.6  # guessing gives 0.1: something was learnt


def test_the_quickstart_has_at_most_12_lines_of_code():
    source = (EXAMPLES / "quickstart.py").read_text()
    comments = {tokenize.COMMENT, token.NL, token.NEWLINE, token.INDENT, token.DEDENT}
    lines = {
        number
        for found in tokenize.generate_tokens(io.StringIO(source).readline)
        if found.type not in comments | {token.ENDMARKER}
        for number in range(found.start[0], found.end[0] + 1)
    }
    assert len(lines) <= 12


def test_the_readme_shows_the_quickstart_as_it_is():
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert f"```python\n{(EXAMPLES / 'quickstart.py').read_text()}```" in readme


def test_the_digits_example_prints_its_trials_and_the_best_configuration(run_example, tmp_path):
    results = tmp_path / "results"
    output = run_example("digits.py", "--samples", "3", "--epochs", "4", "--storage", str(results))
    assert os.listdir(tmp_path / "home") == []
    analysis = experiment_in(results)
    assert printed_config(output) == analysis.best_config
    assert [trial.last_result["training_iteration"] for trial in analysis.trials] == [4] * 3
    assert all(trial.checkpoint for trial in analysis.trials)
    assert all(f"\n{trial}" in output for trial in analysis.trials)
    accuracy = float(re.search(r"accuracy on unseen digits: ([\d.]+)%", output)[1])
    assert accuracy == pytest.approx(100 * analysis.best_result["accuracy"], abs=0.01)
