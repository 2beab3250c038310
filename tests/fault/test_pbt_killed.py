"""``kill -9`` of the driver of a population: no trial starts over, and nobody loses whose state it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from pbt_experiment import ITERATIONS, NAME

import asynctune as tune
from asynctune.experiment import events as ev
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.schedulers.policies import GLOBAL_FILE, read_policy
from harness.kills import Drivers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_STEP = 2500
"""How many bytes of the journal further each driver gets than the one before."""


def check_nobody_started_over(events):
    """Return how many attempts there were after the first, and how many exploits."""
    has_state, again, exploits = set(), 0, 0
    for event in events:
        if isinstance(event, ev.Checkpointed | ev.Exploited):
            has_state.add(event.trial_id)
            exploits += isinstance(event, ev.Exploited)
        elif isinstance(event, ev.TrialStarted) and event.trial_id in has_state:
            assert event.restored_from is not None, f"{event.trial_id} started over"
            again += 1
    return again, exploits


def check_lines(analysis):
    for trial in analysis.trials:
        assert trial.status == "TERMINATED"
        iterations = [row["training_iteration"] for row in trial.results]
        assert iterations == sorted(set(iterations)), "no iteration twice"
        assert iterations[-1] == ITERATIONS
        donors = {descent.donor for descent in trial.lineage}
        assert donors <= {other.trial_id for other in analysis.trials}


def test_a_population_goes_on_whenever_its_driver_was_killed(tmp_path, is_long):
    kills = again = exploits = 0
    with Drivers("pbt_experiment:main", [str(Path(__file__).parent)]) as drivers:
        for number in range(100 if is_long else 3):
            place = tmp_path / f"{number}"
            place.mkdir()
            journal = place / NAME / FILE_NAME
            at = 400 + number * 977 % _STEP
            while (code := drivers.run(place, kill_at=at)) != 0:
                assert code == -9, f"a driver ended by itself with {code}"
                kills += 1
                # Each resume writes some records itself, and is to get further than that.
                at = (journal.stat().st_size if journal.exists() else 0) + _STEP + 500 * kills
            events = [event for _, event in JournalReader(journal).events()]
            counts = check_nobody_started_over(events)
            again, exploits = again + counts[0], exploits + counts[1]
            check_lines(tune.Analysis(place / NAME))
            written = read_policy(place / NAME / GLOBAL_FILE)
            assert len(written) == sum(isinstance(event, ev.Exploited) for event in events)
    assert kills > 12, "the drivers were killed"
    assert again > 12, "trials went on from a checkpoint"
    assert exploits > 3, "trials took over from each other"
