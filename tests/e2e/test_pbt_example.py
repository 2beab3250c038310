"""The example of a population, run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader

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


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_goes_on_after_a_kill_and_no_trial_starts_over(tmp_path):
    results = tmp_path / "results"
    command = [sys.executable, EXAMPLE, "--storage", results, "--name", "digits"]
    journal = results / "digits-population" / "journal"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as driver:
        while not (journal.exists() and journal.read_bytes().count(b'"kind":"exploited"') >= 3):
            assert driver.poll() is None, "it ended before it could be killed"
        driver.kill()
    before = len(events_of(journal))
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=True
    )
    assert "best with PBT" in done.stdout
    began = {}
    for number, event in enumerate(events_of(journal)):
        if isinstance(event, ev.Checkpointed | ev.Exploited):
            began[event.trial_id] = True
        elif isinstance(event, ev.TrialStarted) and number >= before and event.trial_id in began:
            assert event.restored_from is not None, f"{event.trial_id} started over"
    trials = tune.Analysis(journal.parent).trials
    assert [trial.last_result["training_iteration"] for trial in trials] == [24] * 8


def events_of(journal):
    return [event for _, event in JournalReader(journal).events()]


def descended(analysis):
    return sum(len(trial.lineage) for trial in analysis.trials)
