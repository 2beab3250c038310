"""``kill -9`` of a driver that uploads: another machine goes on from the bucket, with an empty disk."""

from __future__ import annotations

import json
import random
import uuid
from pathlib import Path

import pytest
from remote_experiment import INTERVAL_S, ITERATIONS, NAME

import asynctune as tune
from asynctune.experiment import events as ev
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.experiment.remote.journal import RemoteJournal
from asynctune.storage import open_storage
from harness.kills import Drivers

pytestmark = [pytest.mark.slow, pytest.mark.timing, pytest.mark.timeout(3600)]


def rows_of(journal):
    events = [event for _, event in JournalReader(journal).events()]
    return [event for event in events if isinstance(event, ev.Reported)]


def key(event):
    return event.trial_id, event.attempt, event.sequence


def machine(tmp_path, name, place):
    directory = tmp_path / name
    directory.mkdir()
    (directory / "place.json").write_text(json.dumps(place))
    return directory


@pytest.mark.parametrize("durable", [False, True], ids=["ordinary", "durable"])
def test_another_machine_goes_on_from_the_bucket_alone(tmp_path, s3_server, is_long, durable):
    kills = young = from_commits = 0
    draw = random.Random(3)
    with Drivers("remote_experiment:main", [str(Path(__file__).parent)], stderr=2) as drivers:
        for number in range(50 if is_long else 3):
            url = f"s3://bucket/{uuid.uuid4().hex}"
            place = {"url": url, "options": s3_server.options(), "durable": durable}
            storage = open_storage(f"{url}/{NAME}", s3_server.options())
            at, count, code = draw.randrange(2_000, 40_000), 0, -9
            while code:
                here = machine(tmp_path, f"{number}-{count}", place)
                code = drivers.run(here, kill_at=at if count < 4 else None)
                count += 1
                if not code:
                    break
                assert code == -9, f"a driver ended by itself with {code}"
                kills += 1
                young += check_rows(
                    here / NAME / FILE_NAME, storage, tmp_path / f"{number}-{count}-there"
                )
                at += draw.randrange(8_000, 30_000)
            from_commits += check_end(here / NAME)
    assert kills >= (150 if is_long else 6), "the drivers were killed"
    assert from_commits >= kills // 2, "trials went on from commits in the bucket"


def check_rows(local, storage, target):
    """Check that the bucket has all rows but the youngest; return how many of those it lacks."""
    target.mkdir()
    was_there = RemoteJournal(storage).download(target / FILE_NAME)
    there = rows_of(target / FILE_NAME) if was_there else []
    known = {key(event): event.row for event in there}
    here = rows_of(local)
    end = max((event.row["at"] for event in here), default=0.0)
    lacking = [event for event in here if key(event) not in known]
    assert all(event.row == known[key(event)] for event in here if key(event) in known)
    too_old = [end - event.row["at"] for event in lacking if end - event.row["at"] > INTERVAL_S]
    assert not too_old, f"rows that were {too_old} s old are lost"
    return len(lacking)


def check_end(directory):
    """Check that all came to the end they would have come to; return how often a commit was restored."""
    analysis = tune.Analysis(directory)
    for trial in analysis.trials:
        assert trial.status == "TERMINATED"
        rows = trial.results
        assert [row["training_iteration"] for row in rows] == list(range(1, ITERATIONS + 1))
        total = 0.0
        for row in rows:
            total += trial.config["x"]
            assert row["total"] == pytest.approx(total, abs=1e-5)
    events = [event for _, event in JournalReader(directory / FILE_NAME).events()]
    began = [event for event in events if isinstance(event, ev.TrialStarted)]
    return sum(event.restored_from is not None for event in began)
