"""Every searcher keeps the contract of ``Searcher``."""

from __future__ import annotations

import json
import logging
import math

import pytest
from searcher_harness import (
    CATEGORIES,
    INTS,
    KINDS,
    LEARNING,
    LIST,
    MAKERS,
    THING,
    Drive,
    bound,
    run,
)

import asynctune as tune
from asynctune.errors import ConfigError, MetricMissing
from asynctune.space.space import Space
from asynctune.suggest.ask_tell import AskTell

every = pytest.mark.parametrize("name", MAKERS)
learning = pytest.mark.parametrize("name", LEARNING)

STREAM = [
    *(("suggest", 0, 0), ("suggest", 0, 0), ("result", 0, 3.0), ("result", 1, math.nan)),
    *(("suggest", 0, 0), ("complete", 0, 2.0), ("again", 0, 1.0), ("error", 0, 1.0)),
    *(("suggest", 0, 0), ("removed", 0, 0), ("complete", 0, math.inf), ("suggest", 0, 0)),
] * 4


def bowl(config):
    return (config["x"] - 0.7) ** 2 + (config["y"] - 0.2) ** 2


BOWL = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}


@every
def test_what_is_told_and_asked_the_same_again_suggests_the_same(name):
    answers = []
    for _ in range(2):
        searcher, space = bound(name)
        assert searcher.repeats
        drive = Drive(searcher, space)
        for step in STREAM:
            drive.do(*step)
        answers.append(drive.answers)
    assert answers[0] == answers[1]
    assert sum(answer is not None for answer in answers[0]) >= 5


@pytest.mark.parametrize("name", ["random", "quasi-random", "TPE", "BOHB"])
def test_another_seed_of_the_run_suggests_something_else(name):
    (one, space), (other, _) = bound(name, seed=1), bound(name, seed=2)
    assert (
        space.variant(0, 0, one.suggest("a")).drawn != space.variant(0, 0, other.suggest("a")).drawn
    )


def test_a_seed_of_its_own_is_worth_more_than_that_of_the_run():
    (one, space), (other, _) = bound("TPE of our seed", seed=1), bound("TPE of our seed", seed=2)
    assert (
        space.variant(0, 0, one.suggest("a")).drawn == space.variant(0, 0, other.suggest("a")).drawn
    )


@every
def test_an_instance_serves_one_run(name):
    searcher, space = bound(name)
    with pytest.raises(ConfigError, match=f"{type(searcher).__name__} was already used"):
        searcher.bind(space, "loss", "min", 0)


@learning
@pytest.mark.parametrize("objective", [(None, None), ("loss", None)])
def test_what_learns_needs_an_objective(name, objective):
    with pytest.raises(ConfigError, match="needs an objective; give metric and mode"):
        MAKERS[name]().bind(Space(BOWL), *objective, 0)


@every
def test_values_are_plain_within_bounds_and_on_their_step(name):
    searcher, space = bound(name)
    found = {kind: set() for kind in KINDS}
    for number in range(24):
        trial_id = f"trial_{number}"
        values = searcher.suggest(trial_id)
        config = space.variant(number, 0, values).config
        for kind, (_, is_valid) in KINDS.items():
            path = kind if kind == "choice" else f"flat/{kind}"
            assert is_valid(values[path]), (kind, values[path])
            if kind == "choice":
                assert any(values[path] is category for category in space.samplers[path].categories)
                continue
            assert type(values[path]) is (int if kind in INTS else float)
            assert json.loads(json.dumps(values[path])) == values[path] == config["flat"][kind]
            found[kind].add(values[path])
        assert 0 <= values["list/0"] <= 1
        assert values["list/1/inner"] in range(3)
        loss = math.nan if number % 5 == 4 else values["flat/uniform"] ** 2
        searcher.on_trial_complete(trial_id, {"loss": loss, "training_iteration": 1})
    assert len(found["uniform"]) > 2
    assert len(found["randint"]) > 1


@every
def test_elements_of_a_choice_come_back_as_they_are(name):
    searcher, space = bound(name, {"pick": tune.choice(CATEGORIES)})
    kinds = set()
    for number in range(60):
        values = searcher.suggest(f"trial_{number}")
        pick = space.variant(number, 0, values).config["pick"]
        if isinstance(pick, dict):
            assert 2 <= pick["deep"] <= 3
        else:
            assert pick == LIST or any(pick is category for category in CATEGORIES)
        kinds.add((type(pick), repr(pick) if not isinstance(pick, dict) else ""))
        searcher.on_trial_complete(f"trial_{number}", {"loss": 1.0, "training_iteration": 1})
    assert (type(THING), repr(THING)) in kinds
    assert len(kinds) > 4


@every
def test_grids_and_functions_of_the_config_are_left_alone(name):
    searcher, space = bound(name)
    values = searcher.suggest("trial_0")
    assert not {"grid", "of", "fixed"} & values.keys()
    configs = [space.variant(number, 0, values).config for number in range(2)]
    assert [config["grid"] for config in configs] == [1, 2]
    assert configs[0]["of"] == 2


@every
def test_strange_tellings_are_no_errors(name):
    searcher, _ = bound(name, BOWL)
    row = {"loss": 1.0, "training_iteration": 1}
    searcher.on_trial_result("never heard of", row)
    searcher.on_trial_complete("never heard of", row)
    for number, odd in enumerate(
        (math.nan, math.inf, -math.inf, 10**400, -(10**400), "text", None, True, [1])
    ):
        trial_id = f"trial_{number}"
        searcher.suggest(trial_id)
        searcher.on_trial_result(trial_id, row)
        searcher.on_trial_result(trial_id, row)
        searcher.on_trial_result(trial_id, {"loss": 2.0})
        searcher.on_trial_result(trial_id, {"loss": odd, "training_iteration": odd})
        searcher.on_trial_complete(trial_id, {"loss": odd, "training_iteration": 1})
        searcher.on_trial_complete(trial_id, row)
        searcher.on_trial_complete(trial_id, None, error=True)
        searcher.on_trial_result(trial_id, row)
    for number in range(9, 30):
        assert searcher.suggest(f"trial_{number}")
        searcher.on_trial_complete(f"trial_{number}", row)


@every
def test_what_fails_without_end_does_not_stop_the_search(name):
    searcher, _ = bound(name, BOWL)
    for number in range(30):
        assert searcher.suggest(f"trial_{number}")
        searcher.on_trial_complete(f"trial_{number}", None, error=True)


@learning
def test_a_metric_that_no_trial_has_is_an_error_that_lists_those_that_there_are(name):
    searcher, _ = bound(name, BOWL)
    searcher.suggest("trial_0")
    with pytest.raises(MetricMissing, match=r"asks for 'loss', .* it has accuracy, training_iter"):
        searcher.on_trial_complete("trial_0", {"accuracy": 1.0, "training_iteration": 1})


@learning
def test_it_learns(name):
    def mean_of_the_last_third(searcher, space):
        last = run(searcher, space, 60, bowl)[40:]
        return sum(map(bowl, last)) / len(last)

    by_chance = mean_of_the_last_third(*bound("random", BOWL))
    assert mean_of_the_last_third(*bound(name, BOWL)) < 0.7 * by_chance


@every
def test_it_goes_on_from_what_another_instance_tried(name):
    searcher, space = bound(name)
    for number in range(8):
        config = space.variant(number, 9).config
        searcher.adopt(f"trial_{number}", space.values_of(config))
        row = {"loss": config["flat"]["uniform"], "training_iteration": 1}
        searcher.on_trial_result(f"trial_{number}", row)
        searcher.on_trial_complete(f"trial_{number}", row)
    for number in range(8, 12):
        assert space.variant(number, 0, searcher.suggest(f"trial_{number}"))
        searcher.on_trial_complete(f"trial_{number}", {"loss": 1.0, "training_iteration": 1})


@every
def test_a_trial_that_was_suggested_may_turn_out_to_have_had_other_values(name):
    searcher, space = bound(name)
    searcher.suggest("trial_0")
    searcher.adopt("trial_0", space.values_of(space.variant(0, 9).config))
    searcher.on_trial_complete("trial_0", {"loss": 1.0, "training_iteration": 1})
    assert searcher.suggest("trial_1")


@every
def test_a_trial_may_be_asked_for_again_once_it_was_told_that_it_had_ended(name):
    searcher, space = bound(name)
    drawn = []
    for _ in range(12):
        drawn.append(space.variant(0, 0, searcher.suggest("trial_0")).drawn)
        searcher.on_trial_complete("trial_0", {"loss": 1.0, "training_iteration": 1})
    assert len({json.dumps(each) for each in drawn}) > 3


@pytest.mark.parametrize("duplicates", ["skip", "reuse"])
@pytest.mark.parametrize("name", ["random", "quasi-random", "TPE", "BOHB"])
def test_a_policy_of_duplicates_tries_each_configuration_once(name, duplicates):
    searcher = type(bound(name)[0])(duplicates=duplicates)
    space = Space({"a": tune.randint(0, 3), "b": tune.choice(["x", "y"])})
    searcher.bind(space, "loss", "min", 0)
    ask_tell = AskTell(searcher, space, -1, 0)
    seen = []
    for number in range(5):
        drawn = ask_tell.ask(f"trial_{number}")
        if drawn is tune.suggest.FINISHED:
            break
        seen.append(json.dumps(drawn.variant.drawn))
        row = {"loss": 1.0 + number, "training_iteration": 1}
        ask_tell.note_end(f"trial_{number}", row, error=False)
    assert len(set(seen)) == len(seen) >= 4


@every
def test_nothing_is_printed_and_no_logger_is_changed(name, capfd):
    loggers = [logging.getLogger(n) for n in ("", "optuna", "optuna.storages._in_memory")]
    before = [(log.level, log.propagate, log.filters[:], log.handlers[:]) for log in loggers]
    searcher, space = bound(name, BOWL)
    run(searcher, space, 12, bowl)
    assert capfd.readouterr() == ("", "")
    assert before == [(log.level, log.propagate, log.filters, log.handlers) for log in loggers]
