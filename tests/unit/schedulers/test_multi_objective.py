"""ASHA for several objectives: what the fronts are, and who goes on at a rung."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers._fronts import Fronts
from asynctune.schedulers.multi_objective import MultiObjectiveASHAScheduler
from asynctune.testing.scripts import Script, play, replay

NAN, INF = math.nan, math.inf


def fronts_of(*points):
    fronts = Fronts()
    for number, point in enumerate(points):
        assert fronts.add(point) == number
    return fronts


def best(fronts, count):
    return [number for number in range(len(fronts)) if fronts.is_in_best(number, count)]


class Bench:
    """Tells a scheduler of trials; the rungs are 1, 2, 4 and 8, and one of two goes on."""

    def __init__(self, **arguments):
        self.scheduler = MultiObjectiveASHAScheduler(
            **{
                "metrics": ["acc", "ms"],
                "modes": ["max", "min"],
                "max_t": 10,
                "reduction_factor": 2,
            }
            | arguments
        )

    def report(self, name, time, acc, ms):
        row = {"training_iteration": time, "acc": acc, "ms": ms}
        return str(self.scheduler.on_trial_result(SimpleNamespace(trial_id=name), row))


# Fronts


def test_the_first_front_is_what_nothing_dominates_and_so_on():
    fronts = fronts_of((1, 5), (5, 1), (3, 3), (2, 2), (4, 0), (0, 0))
    assert fronts.sizes() == [3, 2, 1]
    assert best(fronts, 3) == [0, 1, 2]
    assert best(fronts, 5) == [0, 1, 2, 3, 4]


def test_a_better_point_lets_others_sink_and_what_they_dominate_too():
    fronts = fronts_of((1, 1), (0, 0), (5, -1), (-1, -2), (0, -5))
    assert fronts.sizes() == [2, 1, 2]
    fronts.add((2, 2))
    assert fronts.sizes() == [2, 1, 1, 2]  # all but (5, -1) sink by one
    fronts.add((9, 9))
    assert fronts.sizes() == [1, 2, 1, 1, 2]


def test_points_that_are_the_same_do_not_dominate_each_other():
    assert fronts_of((1, 1), (1, 1), (1, 1)).sizes() == [3]


def test_of_a_front_that_does_not_fit_those_are_taken_that_cover_it():
    # In units of the front these are (0, 1), (.1, .9), (.5, .5), (.7, .3), (1, 0).
    fronts = fronts_of((0, 100), (1, 90), (5, 50), (7, 30), (10, 0))
    assert best(fronts, 0) == []
    assert best(fronts, 1) == [4]  # the best by the first score
    assert best(fronts, 2) == [0, 4]  # the farthest from it
    assert best(fronts, 3) == [0, 2, 4]  # half way
    assert best(fronts, 4) == [
        0,
        2,
        3,
        4,
    ]  # (.7, .3) is farther from (.5, .5) than (.1, .9) is from (0, 1)
    assert best(fronts, 5) == [0, 1, 2, 3, 4]


def test_a_large_front_is_covered_without_a_gap():
    fronts = fronts_of(*((x, -x) for x in range(100)))
    for count in (10, 40, 99):
        covering = best(fronts, count)
        assert len(covering) == count
        assert covering[0] == 0
        assert covering[-1] == 99
        gaps = [b - a for a, b in pairwise(covering)]
        assert max(gaps) <= 3 * 100 / min(count, 32)


def test_of_equal_points_the_earlier_is_taken():
    fronts = fronts_of((1, 1), (1, 1), (0, 2), (1, 1))
    assert best(fronts, 2) == [0, 2]
    assert best(fronts, 3) == [0, 1, 2]


def test_infinite_and_huge_scores_can_be_covered():
    fronts = fronts_of((INF, 0), (1.7e308, 1), (-1.7e308, 2), (0, 1.5), (-INF, INF))
    assert fronts.sizes() == [5]
    assert [len(best(fronts, count)) for count in range(6)] == [0, 1, 2, 3, 4, 5]


# At a rung


def test_who_is_the_best_in_one_thing_or_a_compromise_goes_on_who_is_dominated_does_not():
    bench = Bench()
    assert bench.report("a", 1, acc=0.9, ms=10) == "CONTINUE"
    assert bench.report("b", 1, acc=0.8, ms=20) == "STOP"  # worse in both; one of two goes on
    assert bench.report("c", 1, acc=0.7, ms=5) == "CONTINUE"  # of three two, a and c
    assert bench.report("d", 1, acc=0.99, ms=50) == "CONTINUE"  # of four two: the best by acc
    assert bench.report("e", 1, acc=0.95, ms=30) == "STOP"  # of five three: d, c and a is farther


def test_a_trial_goes_on_past_the_rung_until_the_next():
    bench = Bench()
    bench.report("a", 2, 1, 1)
    assert bench.report("b", 1, 0, 9) == "CONTINUE"  # a has jumped over this rung
    assert bench.report("b", 1.5, 0, 9) == "CONTINUE"
    assert bench.report("b", 3, 0, 9) == "STOP"
    assert bench.report("a", 3, 0, 9) == "CONTINUE"
    assert bench.report("a", 10, 0, 9) == "STOP"


def test_nan_in_any_metric_is_worse_than_anything():
    bench = Bench()
    assert bench.report("a", 1, acc=0.1, ms=1000) == "CONTINUE"
    assert bench.report("b", 1, acc=NAN, ms=0) == "STOP"
    assert bench.report("c", 1, acc=1, ms=INF) == "STOP"
    assert bench.report("d", 1, acc=0.0, ms=1001) == "CONTINUE"  # the second of four
    assert "rung 1: 4 trials, 1 of them in the first front" in bench.scheduler.debug_string()


def test_a_trial_that_was_stopped_is_told_so_again_after_a_retry():
    bench = Bench()
    bench.report("a", 2, 1, 1)
    assert bench.report("b", 2, 0, 2) == "STOP"
    assert bench.report("b", 1, 0, 2) == "CONTINUE"
    assert bench.report("b", 2, 9, 0) == "STOP"
    assert "rung 2: 2 trials" in bench.scheduler.debug_string()


def test_a_trial_that_ended_by_itself_counts():
    bench = Bench()
    ended = SimpleNamespace(trial_id="a")
    bench.scheduler.on_trial_complete(ended, {"training_iteration": 1, "acc": 1, "ms": 1})
    bench.scheduler.on_trial_complete(SimpleNamespace(trial_id="b"), {"training_iteration": 1})
    assert bench.report("c", 1, 0, 2) == "STOP"


def test_a_metric_that_is_missing_is_an_error_that_names_it():
    row = {"training_iteration": 1, "acc": 1}
    with pytest.raises(MetricMissing, match=r"'ms'.*it has acc, training_iteration"):
        Bench().scheduler.on_trial_result(SimpleNamespace(trial_id="a"), row)


def test_it_needs_no_objective_of_the_run_and_does_not_mind_one():
    for objective in ((None, None), ("loss", "min")):
        scheduler = Bench().scheduler.bind(*objective)
        assert scheduler.metric is None
        with pytest.raises(ConfigError, match="already used"):
            scheduler.bind(*objective)


def test_one_mode_is_that_of_all():
    scheduler = MultiObjectiveASHAScheduler(["a", "b"], "min")
    assert scheduler.modes == ("min", "min")


def test_who_is_dominated_is_trained_less():
    def rows(a, b):
        return [{"training_iteration": t, "a": a, "b": b} for t in range(1, 10)]

    def make():
        return MultiObjectiveASHAScheduler(["a", "b"], "max", max_t=9, reduction_factor=3)

    good = [(0, 10), (5, 6), (10, 0)] * 3
    poor = [(a / 2, b / 2) for a, b in good]
    scripts = [Script(rows(*point)) for pair in zip(poor, good, strict=True) for point in pair]
    trained = [0] * len(scripts)
    for seed in range(10):
        played = play(make, scripts, slots=3, seed=seed, metric=None, mode=None)
        for number in range(len(scripts)):
            trained[number] += len(played.verdicts(f"t{number}"))
        replay(played, make)
    assert sum(trained[1::2]) > 1.5 * sum(trained[::2])
    assert sum(trained) < 9 * 10 * len(scripts) / 2


WRONG = {
    "metrics": [None, [], "acc", {"acc"}, ["acc", ""], ["acc", 3], ["acc", "acc"], 5],
    "modes": [None, [], "MAX", ["max"], ["max", "up"], ["max", "min", "min"], {"max"}, 5],
    "time_attr": ["", None, 3],
    "max_t": [0, -1, INF, NAN, True, "100", None],
    "grace_period": [0, -1, INF, NAN, True, "1", None, 101],
    "reduction_factor": [1, 0.5, INF, NAN, True, "4", None],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_an_error_that_names_it(name):
    for value in WRONG[name]:
        arguments = {"metrics": ["acc", "ms"], "modes": "max", name: value}
        with pytest.raises(
            ConfigError, match=rf"^{name}(\[\d\])? of MultiObjectiveASHAScheduler must be "
        ):
            MultiObjectiveASHAScheduler(**arguments)
