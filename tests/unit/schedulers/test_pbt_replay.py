"""The schedule of a population, given to one trial."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers import Decision, Exploit
from asynctune.schedulers.pbt_replay import PopulationBasedTrainingReplay

CONTINUE = Decision.CONTINUE


def written(tmp_path, *changes, first=None):
    """Write a policy file of (iteration, config)."""
    lines, before = [], first or {"lr": 1, "deep": {"a": 1}}
    for iteration, config in changes:
        lines.append(json.dumps(["t", "d", 99, iteration, before, config]))
        before = config
    path = tmp_path / "pbt_policy_x.txt"
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.fixture
def replay(tmp_path):
    path = written(tmp_path, (4, {"lr": 2, "deep": {"a": 1}}), (10, {"lr": 2, "deep": {"a": 5}}))
    scheduler = PopulationBasedTrainingReplay(path)
    scheduler.bind(None, None)
    scheduler.begin(0)
    return scheduler


def started(replay, config=None):
    trial = SimpleNamespace(trial_id="t", config=config or replay.config)
    replay.on_trial_add(trial)
    return lambda time: replay.on_trial_result(trial, {"training_iteration": time})


def test_it_begins_with_the_first_configuration_and_changes_where_the_population_did(replay):
    assert replay.config == {"lr": 1, "deep": {"a": 1}}
    assert replay.needs_checkpoints
    tells = started(replay)
    told = {time: tells(time) for time in range(1, 13)}
    assert told.pop(4) == Exploit("t", {"lr": 2, "deep": {"a": 1}})
    assert told.pop(10) == Exploit("t", {"lr": 2, "deep": {"a": 5}})
    assert set(told.values()) == {CONTINUE}


def test_who_jumps_over_changes_gets_the_last_of_them(replay):
    tells = started(replay)
    assert tells(11).config == {"lr": 2, "deep": {"a": 5}}
    assert tells(12) == CONTINUE


def test_a_retry_that_comes_by_again_is_told_the_same_again(replay):
    tells = started(replay)
    first = [tells(time) for time in (3, 4)]
    assert [tells(time) for time in (3, 4)] == first
    assert tells(4) == first[1]
    assert tells(5) == CONTINUE
    assert tells(10).config["deep"] == {"a": 5}
    assert tells(9) == CONTINUE
    assert tells(10).config["deep"] == {"a": 5}


def test_of_changes_at_the_same_iteration_the_last_counts_and_what_was_undone_does_not(tmp_path):
    path = written(tmp_path, (4, {"lr": 2}), (8, {"lr": 3}), (8, {"lr": 4}), (6, {"lr": 5}))
    tells = started(PopulationBasedTrainingReplay(path))
    told = [tells(time) for time in range(1, 10)]
    assert [verdict.config["lr"] for verdict in told if verdict != CONTINUE] == [2, 5]
    assert [time for time, verdict in enumerate(told, 1) if verdict != CONTINUE] == [4, 6]


def test_what_the_file_does_not_know_stays_in_the_configuration(tmp_path):
    data = object()
    first = {"lr": 1, "data": "<object>", "deep": {"a": 1, "f": "<function>"}}
    second = {"lr": 2, "data": "<object>", "deep": {"a": 2, "f": "<function>", "new": 3}}
    replay = PopulationBasedTrainingReplay(written(tmp_path, (4, second), first=first))
    given = {"lr": 1, "data": data, "mine": [1], "deep": {"a": 1, "f": len}}
    tells = started(replay, given)
    assert tells(4).config == {
        "lr": 2, "data": data, "mine": [1], "deep": {"a": 2, "f": len, "new": 3},
    }  # fmt: skip
    assert given["deep"] == {"a": 1, "f": len}


def test_what_was_taken_away_is_taken_away(tmp_path):
    replay = PopulationBasedTrainingReplay(
        written(tmp_path, (4, {"lr": 2}), first={"lr": 1, "old": 3})
    )
    assert started(replay)(4).config == {"lr": 2}


def test_a_second_trial_is_refused(replay):
    started(replay)
    with pytest.raises(
        ConfigError, match=r"one trial, but the run has a second one, u; .*num_samples=1"
    ):
        replay.on_trial_add(SimpleNamespace(trial_id="u", config={}))


def test_a_result_without_the_time_is_an_error(replay):
    started(replay)
    with pytest.raises(MetricMissing, match="training_iteration"):
        replay.on_trial_result(SimpleNamespace(trial_id="t"), {"loss": 1})


def test_it_says_what_goes_on(replay):
    tells = started(replay)
    tells(4)
    assert "1 of 2 changes made; the next at training_iteration 10" in replay.debug_string()
    tells(10)
    assert "2 of 2 changes made; the next at training_iteration none" in replay.debug_string()


@pytest.mark.parametrize("given", [None, 3, "", b"", []])
def test_what_is_no_path_is_refused_by_its_name(given):
    with pytest.raises(
        ConfigError,
        match=r"^policy_file of PopulationBasedTrainingReplay must be the path of .*, got ",
    ):
        PopulationBasedTrainingReplay(given)


@pytest.mark.parametrize("given", [None, 3, ""])
def test_a_wrong_time_attr_is_refused_by_its_name(tmp_path, given):
    with pytest.raises(ConfigError, match="time_attr of PopulationBasedTrainingReplay"):
        PopulationBasedTrainingReplay(written(tmp_path, (4, {"lr": 2})), given)


def test_a_file_that_is_missing_empty_or_damaged_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.txt cannot be read"):
        PopulationBasedTrainingReplay(tmp_path / "nowhere.txt")
    with pytest.raises(ConfigError, match=r"pbt_policy_x\.txt, which is empty"):
        PopulationBasedTrainingReplay(written(tmp_path))
    path = written(tmp_path, (4, {"lr": 2}), (None, {"lr": 3}))
    with pytest.raises(
        ConfigError, match=r"line 2 of .* must have the iteration of the donor, got null"
    ):
        PopulationBasedTrainingReplay(path)
    path.write_text(path.read_text() + '["torn')
    with pytest.raises(ConfigError, match=r"line 3 of the policy file .*is no JSON"):
        PopulationBasedTrainingReplay(path)
