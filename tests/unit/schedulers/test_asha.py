"""ASHA: where the rungs are, who is stopped at them or promoted from them, and what disturbs it."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers import Free
from asynctune.schedulers._rungs import Ladder, Rung, interpolate
from asynctune.schedulers.asha import AsyncHyperBandScheduler
from asynctune.testing.scripts import Script, curve, play, replay

NAN, INF = math.nan, math.inf


class Bench:
    """Tells a scheduler of trials, by letter; the rungs are 1, 4, 16 and 64."""

    def __init__(self, **arguments):
        self.scheduler = AsyncHyperBandScheduler(
            **{"metric": "score", "mode": "max", "max_t": 100} | arguments
        )
        self.scheduler.begin(0)

    def report(self, name, time, score):
        trial = SimpleNamespace(trial_id=name)
        row = {"training_iteration": time, "score": score}
        return str(self.scheduler.on_trial_result(trial, row))

    def reports(self, time, **scores):
        """Let several trials report at a time, and return what is said to them."""
        return [self.report(name, time, score) for name, score in scores.items()]

    def resume(self, name):
        self.scheduler.on_trial_resume(SimpleNamespace(trial_id=name))

    def complete(self, name, **row):
        self.scheduler.on_trial_complete(SimpleNamespace(trial_id=name), row)

    def fail(self, name):
        self.scheduler.on_trial_error(SimpleNamespace(trial_id=name))

    def choose(self, paused, *, fresh=True, running=1):
        return self.scheduler.choose(Free(tuple(paused), fresh, running))

    @property
    def text(self):
        return self.scheduler.debug_string()


def promoting(**arguments):
    """Return a bench that promotes one of two, with the rungs 1, 2, 4 and 8."""
    return Bench(**{"promote": True, "reduction_factor": 2, "max_t": 10} | arguments)


# Rungs


@pytest.mark.parametrize(
    ("grace", "max_t", "eta", "levels"),
    [
        (1, 100, 4, (1, 4, 16, 64)),
        (2, 16, 2, (2, 4, 8, 16)),
        (2.5, 100, 3, (2.5, 7.5, 22.5, 67.5)),
        (1, 125, 5, (1, 5, 25, 125)),  # log(125)/log(5) is less than 3
        (7, 7, 4, (7,)),
        (1, 3, 4, (1,)),
        (1e-3, 1.0, 10, (1e-3, 1e-2, 1e-1, 1.0)),
        (1, 2, 1e300, (1,)),
        (1e300, 1e308, 1e9, (1e300,)),
    ],
)
def test_the_rungs_are_powers_of_the_reduction_factor_up_to_max_t(grace, max_t, eta, levels):
    ladder = Ladder.from_arguments("ASHA", max_t, grace, eta)
    assert ladder.levels() == pytest.approx(levels)
    assert ladder.levels(2) == pytest.approx(levels[2:])


def test_the_least_of_all_floats_can_be_a_rung():
    levels = Ladder.from_arguments("ASHA", 1e-300, 5e-324, 1.2).levels()
    assert list(levels) == sorted(set(levels))


@pytest.mark.parametrize("scores", [[3], [1, 2], [5, 1, 4, 1, 3], [0.1] * 7, [-1e9, 1e-9, 0]])
def test_the_quantile_of_a_rung_is_that_of_numpy(scores):
    rung = Rung(1)
    for number, score in enumerate(scores):
        rung.record(f"t{number}", score)
    for share in (0, 0.25, 0.5, 2 / 3, 0.75, 1):
        assert rung.quantile(share) == pytest.approx(np.quantile(scores, share))


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(-INF, 1.0), (0.5, INF), (-INF, INF), (-1.7e308, 1.7e308), (0.1, math.nextafter(0.1, 1))],
)
def test_what_lies_between_two_scores_is_finite_and_between_them(lower, upper):
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        found = interpolate(lower, upper, share)
        assert lower <= found <= upper
        assert math.isfinite(found)
    assert interpolate(lower, upper, 0) == lower
    assert interpolate(lower, lower, 0.3) == lower


# Stopping


def test_who_is_worse_than_the_quantile_of_those_before_is_stopped():
    bench = Bench()
    assert bench.report("a", 1, 1.0) == "CONTINUE"  # nobody was here before
    assert bench.report("b", 1, 0.5) == "STOP"  # the quantile of {1.0} is 1.0
    assert bench.report("c", 1, 0.875) == "CONTINUE"  # that of {0.5, 1.0} is 0.875, no worse
    assert bench.report("d", 1, 0.93) == "STOP"  # that of {0.5, 0.875, 1.0} is 0.9375
    assert bench.report("e", 1, 0.99) == "CONTINUE"  # that of those and 0.93 is 0.9475


def test_with_mode_min_less_is_better():
    bench = Bench(mode="min")
    assert bench.reports(1, a=1.0, b=1.5, c=1.125, d=1.07) == [
        "CONTINUE",
        "STOP",
        "CONTINUE",
        "STOP",
    ]


def test_nobody_is_stopped_before_the_grace_period_or_between_rungs():
    bench = Bench(grace_period=3)  # 3, 12, 48
    for time in (1, 2, 2.9):
        assert bench.reports(time, a=9, b=1, c=NAN) == ["CONTINUE"] * 3
    assert bench.reports(3, a=9, b=1) == ["CONTINUE", "STOP"]
    assert bench.report("d", 3, 10) == "CONTINUE"
    assert bench.report("d", 11, -10) == "CONTINUE"


def test_each_trial_is_recorded_at_a_rung_once_when_it_first_comes_there():
    bench = Bench()
    bench.report("a", 1, 5)
    bench.report("a", 2, 50)
    bench.report("a", 3, 500)
    assert bench.report("b", 1, 6) == "CONTINUE"
    assert "1: 2 trials" in bench.text


def test_a_trial_that_jumps_is_recorded_at_the_highest_rung_only_and_has_passed_the_others():
    bench = Bench()
    bench.report("a", 20, 5)  # over 1, 4 and 16
    assert "16: 1 trial, cutoff 5; 4: 0 trials; 1: 0 trials" in bench.text
    assert bench.report("b", 4, 1) == "CONTINUE"  # so it is the first here
    assert bench.report("a", 21, 0) == "CONTINUE"
    assert bench.report("b", 16, 4) == "STOP"


def test_a_trial_is_stopped_at_max_t_and_recorded_below():
    bench = Bench()
    bench.report("a", 1, 1)
    assert bench.report("a", 100, 1) == "STOP"
    assert bench.report("a", 101, 1) == "STOP"
    assert "64: 1 trial" in bench.text
    assert "0 of them stopped at rungs" in bench.text


def test_a_trial_that_ended_by_itself_is_recorded_too():
    bench = Bench()
    bench.complete("a", training_iteration=1, score=5)
    assert bench.report("b", 1, 4) == "STOP"
    bench.complete("c")  # it had no result
    bench.complete("d", training_iteration=1)  # nor this one a metric
    bench.complete("b", training_iteration=1, score=4)
    assert "1: 2 trials" in bench.text


def test_nan_is_the_worst_and_lets_nobody_else_be_stopped():
    bench = Bench()
    assert bench.reports(1, a=NAN, b=-1e308, c=NAN, d=-1e308, e=5) == [
        "CONTINUE",  # the first
        "CONTINUE",
        "STOP",
        "CONTINUE",
        "CONTINUE",
    ]
    one = Bench()
    for name in "abcdefgh":
        one.report(name, 1, NAN)
    assert one.report("i", 1, -1e300) == "CONTINUE"


@pytest.mark.parametrize("promote", [False, True])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_infinite_values_do_no_harm(promote, mode):
    bench = Bench(promote=promote, mode=mode, reduction_factor=2)
    for number in range(12):
        for value in (INF, -INF, NAN, 0.0, 1.7e308, -1.7e308):
            assert bench.report(f"{value}{number}", 1, value) in ("CONTINUE", "STOP", "PAUSE")
    assert "nan" not in bench.text


def test_a_trial_that_was_stopped_is_told_so_again_after_a_retry():
    bench = Bench()
    bench.report("a", 4, 9)
    bench.report("b", 1, 1)
    assert bench.report("b", 4, 1) == "STOP"
    assert bench.report("b", 2, 1) == "CONTINUE"
    assert bench.report("b", 3, 1) == "CONTINUE"
    assert bench.report("b", 4, 1) == "STOP"
    assert bench.report("b", 5, 99) == "STOP"
    assert "4: 2 trials" in bench.text
    assert "1 of them stopped" in bench.text


def test_a_row_that_lacks_what_is_needed_is_an_error_that_names_it_and_what_is_there():
    bench = Bench()
    with pytest.raises(MetricMissing, match=r"'score'.*it has loss, training_iteration"):
        bench.scheduler.on_trial_result(
            SimpleNamespace(trial_id="a"), {"training_iteration": 1, "loss": 1}
        )
    with pytest.raises(MetricMissing, match=r"'training_iteration'.*it has score"):
        bench.scheduler.on_trial_result(SimpleNamespace(trial_id="a"), {"score": 1})
    assert bench.report("a", 1, 5) == "CONTINUE"


# Promoting


def test_a_trial_pauses_at_each_rung_and_nowhere_else():
    bench = promoting(grace_period=2)  # 2, 4, 8
    assert bench.report("a", 1, 5) == "CONTINUE"
    assert bench.report("a", 2, 5) == "PAUSE"
    bench.resume("a")
    assert bench.report("a", 3, 5) == "CONTINUE"
    assert bench.report("a", 4, 5) == "PAUSE"
    bench.resume("a")
    assert bench.report("a", 8, 5) == "PAUSE"
    bench.resume("a")
    assert bench.report("a", 9, 5) == "CONTINUE"
    assert bench.report("a", 10, 5) == "STOP"


def test_only_the_best_of_a_rung_rounded_down_are_promoted():
    bench = promoting(reduction_factor=3)
    assert bench.reports(1, a=5, b=4) == ["PAUSE", "PAUSE"]
    assert bench.choose("ab") is None  # of two none, of three one
    assert bench.report("c", 1, 3) == "PAUSE"
    assert bench.choose("abc") == "a"
    bench.resume("a")
    assert bench.choose("bc") is None
    assert bench.reports(1, d=1, e=2) == ["PAUSE", "PAUSE"]
    assert bench.choose("bcde") is None
    assert bench.report("f", 1, 0) == "PAUSE"
    assert bench.choose("bcdef") == "b"
    assert bench.choose("cdef") is None  # b is not to be had, and still the second of six


def test_a_trial_that_would_get_its_own_slot_back_goes_on_at_once():
    bench = promoting()
    assert bench.report("a", 1, 1) == "PAUSE"
    assert bench.report("b", 1, 2) == "CONTINUE"  # the best of two
    assert bench.report("b", 1, 2) == "CONTINUE"  # and so again, after a retry
    assert bench.report("c", 1, 1.5) == "PAUSE"  # of three there is one, and b is it
    assert bench.choose("ac") is None
    assert (
        bench.report("d", 1, 0) == "PAUSE"
    )  # now c is the second of four, and it was there before
    assert bench.choose("acd") == "c"
    assert bench.report("e", 1, 3) == "CONTINUE"


def test_who_is_promotable_at_a_higher_rung_comes_first():
    bench = promoting()
    bench.reports(2, a=1)
    bench.reports(1, b=1)
    assert bench.report("c", 1, 1) == "PAUSE"  # b is as good, and was there before
    assert bench.choose("abc") == "b"
    assert bench.report("d", 2, 0) == "PAUSE"
    assert bench.choose("abcd") == "a"
    assert bench.choose("bcd") == "b"
    bench.resume("a")
    bench.resume("b")
    assert bench.choose("cd") is None
    assert bench.choose("cd", fresh=False, running=0) is None  # so they end


def test_of_equals_the_earlier_is_promoted():
    bench = promoting()
    bench.reports(1, b=7, a=7)
    assert bench.choose("ab") == "b"


def test_a_trial_that_its_user_let_go_on_counts_as_promoted():
    bench = promoting()
    bench.reports(1, a=2, b=1)
    bench.resume("b")
    assert bench.report("b", 1.5, 9) == "CONTINUE"
    assert "1: 2 trials, 1 promoted, 1 wait" in bench.text
    assert bench.report("c", 1, 0) == "PAUSE"
    assert bench.choose("ac") == "a"


def test_a_trial_that_its_user_paused_and_nobody_holds_goes_on():
    bench = promoting()
    bench.report("a", 1, 5)
    bench.report("b", 0.5, 5)  # then its user paused it
    assert bench.choose("ab") == "b"
    assert bench.choose(["a", "unknown"]) == "unknown"
    bench.resume("b")
    assert bench.report("b", 1, 5) == "PAUSE"


def test_who_has_ended_or_failed_is_not_promoted_but_counts():
    bench = promoting()
    bench.reports(1, a=9, b=8, c=7, d=6)
    bench.fail("a")
    bench.complete("b", training_iteration=1, score=8)
    assert bench.choose("cd") is None
    assert bench.reports(1, e=1, f=1) == ["PAUSE", "PAUSE"]
    assert bench.choose("cdef") == "c"
    assert "1: 6 trials, 0 promoted, 4 wait" in bench.text


def test_a_retry_is_told_to_pause_at_the_same_rung_again():
    bench = promoting(grace_period=2)
    assert bench.report("a", 2, 5) == "PAUSE"
    assert bench.report("a", 1, 5) == "CONTINUE"
    assert bench.choose(["b"]) == "b"  # which was never here, and no reason to wait
    assert bench.report("a", 2, 5) == "PAUSE"
    assert bench.report("a", 3, 5) == "PAUSE"  # it was not let past
    bench.resume("a")
    assert bench.report("a", 1, 5) == "CONTINUE"
    assert bench.report("a", 2, 5) == "CONTINUE"  # it was let past before
    assert bench.report("a", 4, 5) == "PAUSE"
    assert "2: 1 trial, 1 promoted, 0 wait" in bench.text


def test_a_trial_that_jumps_pauses_at_the_highest_rung():
    bench = promoting()
    assert bench.report("a", 5, 5) == "PAUSE"
    assert "4: 1 trial, 0 promoted, 1 wait; 2: 0 trials" in bench.text


def test_only_promoting_needs_checkpoints():
    assert promoting().scheduler.needs_checkpoints
    assert not Bench().scheduler.needs_checkpoints


def scripts(count, length=64):
    """Trials each of which is better than the one before."""
    return [Script(curve([number + t / 100 for t in range(length)])) for number in range(count)]


def trained(played):
    return Counter(len(played.verdicts(name)) for name in played.trials)


def test_sixteen_trials_are_halved_as_in_the_paper_when_one_runs_at_a_time():
    def make():
        return AsyncHyperBandScheduler(max_t=16, promote=True)

    better_first = scripts(16)[::-1]
    played = play(make, better_first, slots=1)
    # Of 16 the best four go on, and the best of these; the first four are there when the fourth came.
    assert trained(played) == {1: 12, 4: 3, 16: 1}
    assert len(played.verdicts("t0")) == 16
    replay(played, make)


def test_fewer_trials_than_the_reduction_factor_all_end_at_the_first_rung():
    played = play(lambda: AsyncHyperBandScheduler(promote=True), scripts(3))
    assert trained(played) == {1: 3}


def test_stopping_trains_whoever_is_the_best_so_far_to_the_end():
    played = play(lambda: AsyncHyperBandScheduler(max_t=16), scripts(5), slots=1)
    assert trained(played) == {16: 5}
    played = play(lambda: AsyncHyperBandScheduler(max_t=16), scripts(5)[::-1], slots=1)
    assert trained(played) == {16: 1, 1: 4}


# Brackets


def test_trials_are_put_into_brackets_by_the_softmax_of_the_number_of_their_rungs():
    bench = Bench(brackets=3)  # 4, 3 and 2 rungs
    for number in range(3000):
        bench.report(f"t{number}", 64, 1)
    counts = [int(line.split("64: ")[1].split()[0]) for line in bench.text.splitlines()[1:]]
    weights = [1, math.exp(-1), math.exp(-2)]
    assert counts == pytest.approx([3000 * weight / sum(weights) for weight in weights], abs=120)


def test_brackets_follow_from_the_seed_and_the_order_of_trials_alone():
    def lines(seed, names):
        scheduler = AsyncHyperBandScheduler(metric="score", mode="max", brackets=3)
        scheduler.begin(seed)
        for name in names:
            scheduler.on_trial_add(SimpleNamespace(trial_id=name))
        for name in names[::-1]:
            row = {"training_iteration": 64, "score": 1}
            scheduler.on_trial_result(SimpleNamespace(trial_id=name), row)
        return scheduler.debug_string()

    names = [f"t{n}" for n in range(50)]
    assert lines(1, names) == lines(1, [f"u{n}" for n in range(50)])
    assert len({lines(seed, names) for seed in range(5)}) > 1


def test_a_bracket_leaves_out_the_lowest_rungs():
    scheduler = AsyncHyperBandScheduler(metric="score", mode="max", brackets=9, max_t=64)
    assert scheduler.debug_string().splitlines()[1:] == [
        "bracket 0: 64: 0 trials; 16: 0 trials; 4: 0 trials; 1: 0 trials",
        "bracket 1: 64: 0 trials; 16: 0 trials; 4: 0 trials",
        "bracket 2: 64: 0 trials; 16: 0 trials",
        "bracket 3: 64: 0 trials",
        "bracket 4: no rungs",
    ]


# What a user sees


def test_the_text_shows_rungs_counts_and_cutoffs_in_the_sign_of_the_metric():
    bench = Bench(mode="min", max_t=16)
    bench.reports(1, a=0.5, b=0.9)
    bench.report("a", 4, 0.25)
    assert bench.text == (
        "Using AsyncHyperBandScheduler: training_iteration up to 16, reduction_factor 4; 2 trials, 1 of "
        "them stopped at rungs.\n"
        "bracket 0: 16: 0 trials; 4: 1 trial, cutoff 0.25; 1: 2 trials, cutoff 0.6"
    )


WRONG = {
    "time_attr": ["", None, 3],
    "metric": ["", 3],
    "mode": ["MAX", "", 1],
    "max_t": [0, -1, INF, NAN, True, "100", None, 10**400, 0.5],
    "grace_period": [0, -1, INF, NAN, True, "1", None, 101],
    "reduction_factor": [1, 0.5, -4, INF, NAN, True, "4", None, 1.0001],
    "brackets": [0, -1, 1.0, True, "1", None, 10**9, np.array([1, 2])],
    "promote": [0, 1, None, "yes"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_an_error_that_names_it(name):
    for value in WRONG[name]:
        culprit = "grace_period" if (name, value) == ("max_t", 0.5) else name
        with pytest.raises(
            ConfigError, match=rf"^{culprit} of AsyncHyperBandScheduler must be "
        ) as caught:
            AsyncHyperBandScheduler(**{"metric": "score", "mode": "max", name: value})
        assert len(str(caught.value)) < 500


def test_numbers_of_other_kinds_are_arguments_too():
    scheduler = AsyncHyperBandScheduler(
        max_t=np.int64(9),
        grace_period=np.float32(1),
        reduction_factor=Fraction(3),
        brackets=np.int8(1),
    )
    assert scheduler.debug_string().endswith("bracket 0: 9: 0 trials; 3: 0 trials; 1: 0 trials")


def test_it_needs_an_objective():
    with pytest.raises(ConfigError, match="AsyncHyperBandScheduler needs an objective"):
        AsyncHyperBandScheduler().bind(None, None)
