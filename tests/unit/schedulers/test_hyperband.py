"""HyperBand: which brackets there are, who goes on at a milestone, and what disturbs it."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers import Free
from asynctune.schedulers.hyperband import HyperBandForBOHB, HyperBandScheduler, plan_band
from asynctune.testing.scripts import Script, curve, play


class Bench:
    """Tells a scheduler of trials, by letter; with ``max_t=9`` the brackets are 9, 5 and 3 trials large."""

    def __init__(self, **arguments):
        arguments = {"metric": "score", "mode": "max", "max_t": 9} | arguments
        self.scheduler = HyperBandScheduler(**arguments)
        self.scheduler.begin(0)
        self.key = self.scheduler.time_attr

    def add(self, names):
        for name in names:
            self.scheduler.on_trial_add(SimpleNamespace(trial_id=name))

    def report(self, name, time, score):
        trial = SimpleNamespace(trial_id=name)
        return str(self.scheduler.on_trial_result(trial, {self.key: time, "score": score}))

    def fill(self, names, time=1, best=100):
        """Let each of these report; each is better than the next. Return what is said to them."""
        return [self.report(name, time, best - number) for number, name in enumerate(names)]

    def resume(self, name):
        self.scheduler.on_trial_resume(SimpleNamespace(trial_id=name))

    def complete(self, name):
        self.scheduler.on_trial_complete(SimpleNamespace(trial_id=name), {})

    def fail(self, name):
        self.scheduler.on_trial_error(SimpleNamespace(trial_id=name))

    def remove(self, name):
        self.scheduler.on_trial_remove(SimpleNamespace(trial_id=name))

    def choose(self, paused, *, fresh=True, running=1):
        return self.scheduler.choose(Free(tuple(paused), fresh, running))

    @property
    def dismissed(self):
        return "".join(self.scheduler.dismissed())


def test_the_brackets_are_those_of_the_paper_the_most_aggressive_first():
    assert [(plan.size, plan.milestones) for plan in plan_band(81, 3)] == [
        (81, (1, 3, 9, 27, 81)),
        (34, (3, 9, 27, 81)),
        (15, (9, 27, 81)),
        (8, (27, 81)),
        (5, (81,)),
    ]


@pytest.mark.parametrize(
    ("max_t", "eta", "brackets"),
    [
        (9, 3, [(9, (1, 3, 9)), (5, (3, 9)), (3, (9,))]),
        (8, 2, [(8, (1, 2, 4, 8)), (6, (2, 4, 8)), (4, (4, 8)), (4, (8,))]),  # two once coincided
        (8, 3, [(5, (2, 8)), (3, (8,))]),  # the third would begin at 8/9
        (100, 4, [(64, (1, 4, 16, 100)), (22, (6, 24, 100)), (8, (25, 100)), (4, (100,))]),
        (16.5, 2.5, [(16, (1, 2, 5, 16.5)), (9, (2, 5, 16.5)), (5, (6, 16.5)), (4, (16.5,))]),
        (1, 3, [(1, (1,))]),
        (0.5, 3, [(1, (0.5,))]),
        (2, 1e300, [(1, (2,))]),
    ],
)
def test_the_brackets_of_other_arguments(max_t, eta, brackets):
    assert [(plan.size, plan.milestones) for plan in plan_band(max_t, eta)] == brackets


@pytest.mark.parametrize("arguments", [(1e308, 1e200), (5, 1.01), (1e15, 1.5)])
def test_extreme_arguments_make_brackets_that_end_at_max_t(arguments):
    for plan in plan_band(*arguments):
        assert plan.milestones[-1] == arguments[0]
        assert list(plan.milestones) == sorted(set(plan.milestones))


def test_a_trial_waits_at_its_milestone_and_the_last_one_that_comes_decides():
    bench = Bench()
    bench.add("abcdefghi")
    assert bench.fill("abcdefgh") == ["PAUSE"] * 8
    assert bench.dismissed == ""
    assert bench.choose("abcdefgh") is None, "i is on the way"
    assert bench.report("i", 1, 99.5) == "CONTINUE", "the second best: a, i and b go on"
    assert bench.dismissed == "cdefgh"
    assert bench.choose("abcdefgh") == "a"
    bench.resume("a")
    assert bench.choose("bcdefgh") == "b"
    assert bench.choose("cdefgh", fresh=False) is None, "the others are done with"


def test_the_last_one_is_stopped_if_others_are_better():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefgh")
    assert bench.report("i", 1, 0) == "STOP"
    assert bench.report("i", 1, 1000) == "STOP", "it was told so once"
    assert bench.dismissed == "defgh", "nobody has to end whom its own answer has ended"


def test_who_is_best_at_the_last_milestone_trains_to_max_t_and_stops_there():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefghi")
    for name in "abc":
        bench.resume(name)
    assert [bench.report(name, 2, 0) for name in "abc"] == ["CONTINUE"] * 3
    assert bench.report("a", 3, 5) == "PAUSE"
    assert bench.report("b", 3, 7) == "PAUSE"
    assert bench.report("c", 3, 6) == "STOP"
    assert bench.dismissed == "defgha", "in the order in which they lost; i and c were stopped"
    assert bench.choose("ab") == "b"
    bench.resume("b")
    assert [bench.report("b", time, 0) for time in (4, 8, 9)] == ["CONTINUE", "CONTINUE", "STOP"]


def test_with_mode_min_less_is_better():
    bench = Bench(mode="min")
    bench.add("abcdefghi")
    assert bench.fill("abcdefghi") == ["PAUSE"] * 8 + ["CONTINUE"]
    assert bench.dismissed == "fedcba", "g, h and i go on"


def test_nan_is_the_worst_and_infinities_are_numbers():
    bench = Bench()
    bench.add("abcdefghi")
    scores = [math.nan, -math.inf, math.inf, 1, 2, 3, math.nan, 0]
    for name, score in zip("abcdefgh", scores, strict=True):
        assert bench.report(name, 1, score) == "PAUSE"
    assert bench.report("i", 1, math.nan) == "STOP"
    assert bench.dismissed == "dhabg", "the best first; those of a, b and g are worth the same"


def test_of_equals_those_go_on_that_were_added_first():
    bench = Bench()
    bench.add("abcdefghi")
    for name in "ihgfedcb":
        bench.report(name, 1, 1)
    assert bench.report("a", 1, 1) == "CONTINUE"
    assert bench.dismissed == "defghi"


def test_when_the_first_bracket_is_full_the_next_is_filled_and_then_the_next_band():
    bench = Bench()
    bench.add("abcdefghijklmnopqr")
    assert bench.report("j", 1, 1) == "CONTINUE"
    assert bench.report("j", 3, 1) == "PAUSE"
    assert bench.report("o", 8, 1) == "CONTINUE", "the last bracket halves nothing"
    assert bench.report("o", 9, 1) == "STOP"
    assert bench.report("r", 1, 1) == "PAUSE"


def test_survivors_come_before_new_trials_and_those_of_the_oldest_bracket_first():
    bench = Bench()
    bench.add("abcdefghijklmn")
    bench.fill("jklmn", time=3, best=1000)
    assert bench.dismissed == "lm"
    assert bench.choose("kjlm") == "j"
    bench.fill("abcdefghi")
    assert bench.choose("jkabc") == "a"
    assert bench.choose("jkcb") == "b"
    assert bench.choose("jk") == "j"
    assert bench.choose("k") == "k"


def test_a_bracket_that_is_not_full_waits_for_new_trials_as_long_as_some_come():
    bench = Bench()
    bench.add("abcd")
    assert bench.fill("abcd") == ["PAUSE"] * 4
    assert bench.choose("abcd") is None
    assert bench.choose("bacd", fresh=False, running=0) == "a", "the best of them"
    assert bench.dismissed == "", "asking changes nothing"
    bench.resume("a")
    assert bench.dismissed == "cd", "two of four go on"
    assert bench.choose("bcd") == "b"
    bench.add("e")
    assert bench.report("e", 2, 1) == "CONTINUE", "who comes later is in the next bracket"


def test_a_bracket_that_is_not_full_waits_for_those_that_run():
    bench = Bench()
    bench.add("abcd")
    bench.fill("abc")
    assert bench.choose("abc", fresh=False, running=1) is None
    assert bench.report("d", 1, 200) == "PAUSE"
    assert bench.choose("abcd", fresh=False, running=0) == "d"


def test_a_failure_or_an_early_end_shrinks_the_bracket_and_may_decide_it():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefg")
    bench.fail("h")
    assert bench.dismissed == ""
    bench.complete("i")
    assert bench.dismissed == "defg", "three of seven go on"
    assert bench.choose("abcdefg") == "a"


def test_a_survivor_that_fails_does_not_hold_up_the_others():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefghi")
    bench.resume("a")
    bench.resume("b")
    assert bench.report("a", 3, 1) == "PAUSE"
    assert bench.report("b", 3, 2) == "PAUSE"
    bench.fail("c")
    assert bench.choose("ab") == "b"
    assert bench.dismissed[-1] == "a"


def test_who_is_removed_before_it_starts_gives_its_place_to_another():
    bench = Bench()
    bench.add("abcdefgh")
    bench.remove("a")
    bench.add("ij")
    bench.fill("bcdefghi")
    assert bench.dismissed == ""
    assert bench.report("j", 1, 1000) == "CONTINUE", "j is the ninth"


def test_who_has_ended_does_not_give_its_place_to_another():
    bench = Bench()
    bench.add("abcdefghijklmn")
    for name in "opqr":  # one at a time; the third bracket has three places
        bench.add(name)
        assert bench.report(name, 3, 1) == ("PAUSE" if name == "r" else "CONTINUE")
        if name != "r":
            assert bench.report(name, 9, 1) == "STOP"
            bench.complete(name)


def test_a_paused_trial_that_is_ended_by_hand_may_decide_its_bracket():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefghi")
    bench.resume("a")
    bench.report("a", 3, 1)
    bench.complete("b")
    assert bench.choose("ac") == "c", "c is yet to come to the milestone"
    bench.complete("c")
    assert bench.choose("a") == "a"


def test_who_jumps_over_milestones_waits_until_its_bracket_comes_there():
    bench = Bench()
    bench.add("abcdefghi")
    assert bench.report("a", 4, 1000) == "PAUSE"
    assert bench.fill("bcdefghi")[-1] == "STOP"
    assert bench.dismissed == "defgh"
    assert bench.choose("abc") == "b", "a is beyond the second milestone already"
    bench.resume("b")
    assert bench.choose("ac") == "c"
    bench.resume("c")
    assert bench.report("b", 3, 2000) == "PAUSE"
    assert bench.report("c", 9, 1) == "STOP", "it has come to the end"
    bench.complete("c")
    assert bench.dismissed == "defgha", "b has better than what a had"
    assert bench.choose("ab") == "b"


def test_if_all_jump_over_all_milestones_all_is_decided_at_once():
    bench = Bench()
    bench.add("abcdefghi")
    assert bench.fill("abcdefgh", time=5) == ["PAUSE"] * 8
    assert bench.report("i", 5, 1000) == "CONTINUE"
    assert bench.dismissed == "cdefghab", "twice: the best three, and then the best"


def test_a_retry_is_told_the_same_again_as_long_as_nothing_else_has_changed():
    bench = Bench()
    bench.add("abcdefghi")
    assert bench.report("a", 1, 5) == "PAUSE"
    assert bench.report("a", 1, 6) == "PAUSE"
    assert bench.report("a", 0.5, 6) == "CONTINUE"
    assert bench.report("a", 1, 5) == "PAUSE"
    bench.fill("bcdefghi")
    assert bench.report("a", 1, 5) == "STOP", "it had lost meanwhile"
    bench.resume("b")
    assert bench.report("b", 1, 0) == "CONTINUE", "what b has won it keeps"


def test_what_a_trial_had_when_it_first_came_to_a_milestone_counts():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefgh")
    bench.report("h", 1, 1000)
    bench.report("i", 1, 0)
    assert bench.dismissed == "defgh"


def test_who_goes_on_by_hand_trains_to_the_next_milestone_and_is_judged_with_the_others():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefgh")
    bench.resume("h")
    bench.resume("a")
    assert bench.report("h", 2, 1) == "CONTINUE"
    assert bench.report("a", 3, 1) == "PAUSE", "its bracket is not there yet"
    bench.report("i", 1, 0)
    assert bench.dismissed == "defg", "h has lost, and is not paused"
    assert bench.report("h", 3, 1000) == "STOP"
    assert bench.choose("abc") == "b", "a waits for b and c"


def test_who_goes_on_by_hand_in_a_bracket_that_only_waits_for_new_trials_decides_it():
    bench = Bench()
    bench.add("abcd")
    bench.fill("abcd")
    bench.resume("d")
    assert bench.dismissed == "c", (
        "a and b are the best two, and d goes on because its user said so"
    )
    assert bench.report("d", 2, 0) == "CONTINUE"
    assert bench.report("d", 3, 0) == "PAUSE"


def test_a_trial_that_its_user_paused_goes_on_as_soon_as_it_may():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("bcdefghi")
    assert bench.choose("bcdefghi") is None
    assert bench.choose("bacdefghi") == "a"


def test_at_the_last_chance_a_bracket_does_not_wait_for_a_trial_that_its_user_holds():
    bench = Bench()
    bench.add("abcdefghi")
    bench.fill("abcdefgh")  # and the user holds i
    assert bench.choose("hgfedcba", fresh=False, running=1) is None
    assert bench.choose("hgfedcba", fresh=False, running=0) == "a"
    bench.resume("a")
    assert bench.report("a", 2, 1) == "CONTINUE"


def test_a_wrong_metric_is_an_error_at_the_first_result_that_lists_what_there_is():
    scheduler = HyperBandScheduler(metric="scroe", mode="max")
    trial = SimpleNamespace(trial_id="a")
    scheduler.on_trial_add(trial)
    with pytest.raises(MetricMissing, match=r"scroe.*score"):
        scheduler.on_trial_result(trial, {"training_iteration": 1, "score": 1})
    with pytest.raises(MetricMissing, match=r"training_iteration.*score"):
        scheduler.on_trial_result(trial, {"scroe": 1, "score": 1})


def test_another_time_attr_counts():
    bench = Bench(time_attr="time_total_s", max_t=9.5)
    bench.add("abcdefghi")
    assert bench.report("a", 0.99, 1) == "CONTINUE"
    assert bench.report("a", 1.01, 1) == "PAUSE"
    assert bench.report("b", 9.5, 1) == "STOP"


def test_the_debug_string_says_where_each_bracket_is():
    bench = Bench()
    bench.add("abcdefghijk")
    bench.fill("abcdefghi")
    bench.fill("abjk", time=3)
    assert bench.scheduler.debug_string() == (
        "Using HyperBandScheduler: training_iteration up to 9, reduction_factor 3; 11 trials in 2 "
        "brackets, 0 of them over.\n"
        "bracket 0, milestones 1, 3, 9: 3 trials on the way to 3, where 2 are\n"
        "bracket 1, milestones 3, 9: 2 trials (room for 3 more) on the way to 3, where 2 are"
    )
    bench.report("c", 3, 1000)
    bench.report("c", 9, 1)
    bench.complete("c")
    bench.add("lmnopqr")
    assert "3 brackets, 1 of them over" not in bench.scheduler.debug_string()
    assert "19 trials" not in bench.scheduler.debug_string()
    assert "4 brackets, 1 of them over" in bench.scheduler.debug_string()
    assert "bracket 2, milestones 9: 3 trials on the way to 9\n" in bench.scheduler.debug_string()


def test_many_brackets_are_summed_up():
    bench = Bench(max_t=1)
    bench.add(f"t{number}" for number in range(20))
    assert bench.scheduler.debug_string().endswith("... and 12 brackets more")


def test_what_has_ended_is_forgotten():
    bench = Bench()
    names = [f"t{number}" for number in range(90)]
    for name in names:
        bench.add([name])
        bench.report(name, 9, 1)
        bench.complete(name)
    assert (bench.scheduler._members, bench.scheduler._dismissed) == ({}, {})
    assert len(bench.scheduler._brackets) <= 1


def test_few_trials_are_halved_too():
    scripts = [Script(curve([number] * 9)) for number in range(3)]
    played = play(lambda: HyperBandScheduler(max_t=9), scripts)
    assert [len(played.verdicts(name)) for name in ("t0", "t1", "t2")] == [1, 1, 9]


def test_bohb_has_a_hyperband_of_its_own_name():
    scheduler = HyperBandForBOHB(metric="a", mode="min", max_t=9)
    assert scheduler.needs_checkpoints
    assert scheduler.debug_string().startswith("Using HyperBandForBOHB: ")
    with pytest.raises(ConfigError, match=r"max_t of HyperBandForBOHB must be .*, got 0$"):
        HyperBandForBOHB(max_t=0)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("time_attr", "", "a key of the results"),
        ("time_attr", 3, "a key of the results"),
        ("time_attr", None, "a key of the results"),
        *(("max_t", v, "a finite number greater than 0") for v in (0, -1, 0.0)),
        *(("max_t", v, "a finite number greater than 0") for v in ("81", None, True, 1j, [81])),
        *(("max_t", v, "a finite number greater than 0") for v in (math.nan, math.inf, 10**400)),
        *(("reduction_factor", v, "a finite number greater than 1") for v in (1, 0.5, 0, -3)),
        *(("reduction_factor", v, "a finite number greater than 1") for v in ("3", None, True)),
        *(("reduction_factor", v, "a finite number greater than 1") for v in (math.nan, math.inf)),
        ("reduction_factor", 1 + 1e-9, "at most 1000 halvings"),
        ("mode", "maximise", "'min' or 'max'"),
        ("metric", "", "a key of the results"),
    ],
)
def test_a_wrong_argument_is_named(argument, value, said):
    with pytest.raises(ConfigError, match=rf"^{argument} of HyperBandScheduler must be .*{said}"):
        HyperBandScheduler(**{argument: value})


def test_numbers_of_any_kind_are_numbers():
    assert HyperBandScheduler(max_t=Fraction(19, 2)).max_t == 9.5
    assert isinstance(HyperBandScheduler(max_t=81).max_t, int)


def test_it_needs_an_objective():
    with pytest.raises(ConfigError, match="HyperBandScheduler needs an objective"):
        HyperBandScheduler().bind(None, None)
