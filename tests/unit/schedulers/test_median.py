"""The median stopping rule: with what a trial is compared, and when it is stopped."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers import Free
from asynctune.schedulers.median import MedianStoppingRule
from asynctune.testing.scripts import Script, curve, play, replay

NAN, INF = math.nan, math.inf


class Bench:
    """Tells a scheduler of trials, by letter; from the second second on it compares with two others."""

    def __init__(self, **arguments):
        self.scheduler = MedianStoppingRule(
            **{"metric": "score", "mode": "max", "grace_period": 2, "min_samples_required": 2}
            | arguments
        )

    def report(self, name, time, score):
        row = {"time_total_s": time, "score": score}
        return str(self.scheduler.on_trial_result(SimpleNamespace(trial_id=name), row))

    def course(self, name, *scores):
        """Let a trial report at 1, 2, 3 and so on; return what is said to it."""
        return [self.report(name, time, score) for time, score in enumerate(scores, 1)]

    def resume(self, name):
        self.scheduler.on_trial_resume(SimpleNamespace(trial_id=name))

    def complete(self, name, **row):
        self.scheduler.on_trial_complete(SimpleNamespace(trial_id=name), row)


GO = "CONTINUE"


def test_a_trial_whose_best_is_worse_than_the_median_of_averages_is_stopped():
    bench = Bench()
    bench.course("a", 0, 4, 8)  # averages from 2 on: 4, 6
    bench.course("b", 0, 2, 2)  # 2, 2
    bench.course("c", 9, 3, 9)  # 3, 6
    assert bench.course("d", 1, 3, 5) == [GO, GO, "STOP"]  # the medians are 3 and 6
    assert bench.course("e", 1, 1, 6) == [GO, "STOP", GO]  # of 4, 2, 3, 3 and 6, 2, 6, 4: 3 and 5
    assert bench.course("f", 9, 0, 0) == [GO, GO, GO]  # its best counts, and was early


def test_with_mode_min_less_is_better():
    bench = Bench(mode="min")
    bench.course("a", 0, 4)
    bench.course("b", 0, 2)
    assert bench.course("c", 9, 3) == [GO, GO]
    assert bench.course("d", 9, 3.5) == [GO, "STOP"]


def test_nobody_is_stopped_before_the_grace_period_or_compared_with_too_few():
    bench = Bench()
    bench.course("a", 9, 9, 9)
    assert bench.course("b", 0, 0, 0) == [GO, GO, GO]  # one other
    assert bench.course("c", 0, 0, 0) == [GO, "STOP", "STOP"]
    early = Bench(grace_period=3)
    for name in "abc":
        early.course(name, 9, 9, 9)
    assert early.course("d", 0, 0, 0) == [GO, GO, "STOP"]


def test_only_trials_that_have_come_as_far_are_compared_with():
    bench = Bench()
    bench.course("a", 9, 9)
    bench.course("b", 9, 9, 9)
    bench.course("c", 9, 9, 9)
    assert bench.course("d", 0, 9, 0, 0) == [GO, GO, GO, GO]
    assert bench.course("e", 0, 0, 0) == [GO, "STOP", "STOP"]
    assert bench.report("e", 3.5, 0) == GO  # d is the only one that came so far


def test_who_has_reported_nothing_in_that_time_is_left_out():
    bench = Bench(min_samples_required=1)
    bench.report("a", 1, 9)
    bench.report("a", 5, 9)  # from 2 to 3 it reported nothing
    assert bench.report("b", 3, 0) == GO
    bench.report("c", 2.5, 5)
    bench.report("c", 5, 9)
    assert bench.report("b", 4, 0) == "STOP"
    assert bench.report("b", 4.5, 5) == GO


def test_who_has_ended_is_compared_with_too():
    bench = Bench()
    for name in "ab":
        bench.report(name, 2, 9)
        bench.complete(name, time_total_s=3, score=5)
    bench.complete("c")
    assert bench.report("d", 3, 6) == "STOP"  # worse than 7
    assert bench.report("e", 3, 7) == GO


def test_nan_and_infinite_values_are_left_out_of_averages():
    bench = Bench()
    bench.course("a", NAN, 4, NAN, 8)
    bench.course("b", NAN, 4, INF, 8)
    bench.course("c", NAN, 4, -INF, 8)
    assert bench.course("d", 0, 3.9) == [GO, "STOP"]
    assert bench.course("e", 0, 4, 4, 4) == [GO, GO, GO, "STOP"]  # worse than 6


def test_trials_with_nan_only_are_the_worst_and_stop_nobody_else():
    bench = Bench()
    for name in "abc":
        assert bench.course(name, NAN, NAN, NAN) == [GO, GO, GO]  # nobody is better
    assert bench.course("d", 0, -1e308, -1e308) == [GO, GO, GO]
    for name in "efgh":
        bench.course(name, 1, 1, 1)
    assert bench.course("i", NAN, NAN, 1) == [GO, "STOP", GO]
    odd = Bench()
    odd.course("a", NAN, NAN)
    odd.course("b", 1, 1)
    assert odd.course("c", 0, 0) == [GO, GO]  # between the worst there is and 1 all is better
    assert odd.course("d", 2, 2) == [GO, GO]
    assert odd.course("e", NAN, NAN) == [GO, "STOP"]


def test_the_average_of_equal_values_is_exactly_that_value():
    bench = Bench()
    for name in "abc":
        assert bench.course(name, *[0.1] * 50) == [GO] * 50
    assert bench.course("d", *[0.1] * 50) == [GO] * 50


def test_huge_values_have_an_average():
    bench = Bench()
    for name in "ab":
        bench.course(name, *[1.7e308, -1.7e308] * 4)
    # The averages are -1.7e308 at 2, and 0 at 3, although no float holds the difference.
    assert bench.course("c", -1e308, -1e308, -1e308) == [GO, GO, "STOP"]
    assert bench.course("d", 0, 0, 0) == [GO, GO, GO]


def test_what_a_retry_reports_again_takes_the_place_of_what_it_was():
    bench = Bench(min_samples_required=1)
    bench.course("a", 0, 8, 8, 8)
    bench.report("a", 2, 2)
    assert bench.course("b", 0, 3) == [GO, GO]
    bench.report("a", 3, 5)  # the average of 2 and 5 is 3.5
    assert bench.report("b", 3, 3) == "STOP"
    assert bench.report("b", 2, 3) == GO
    assert bench.report("b", 3, 3) == "STOP"


def test_softly_a_trial_pauses_once_and_is_left_alone_then():
    bench = Bench(hard_stop=False)
    for name in "ab":
        bench.course(name, 9, 9, 9, 9, 9)
    assert bench.course("c", 0, 0) == [GO, "PAUSE"]
    assert bench.report("c", 2, 0) == "PAUSE"  # a retry, and still it has not paused
    bench.resume("c")
    assert [bench.report("c", time, 0) for time in (3, 4, 2, 5)] == [GO] * 4
    bench.report("d", 1, 0)
    bench.resume("d")  # its user had paused it
    assert bench.report("d", 2, 0) == "PAUSE"
    assert bench.scheduler.choose(Free(("c", "d"), fresh=True, running=1)) is None
    assert bench.scheduler.choose(Free(("c", "d"), fresh=False, running=1)) == "c"


def test_only_the_soft_form_needs_checkpoints():
    assert Bench(hard_stop=False).scheduler.needs_checkpoints
    assert not Bench().scheduler.needs_checkpoints


def test_a_row_that_lacks_what_is_needed_is_an_error_that_names_it():
    trial = SimpleNamespace(trial_id="a")
    with pytest.raises(MetricMissing, match=r"'score'.*it has time_total_s"):
        Bench().scheduler.on_trial_result(trial, {"time_total_s": 1})
    with pytest.raises(MetricMissing, match=r"'time_total_s'.*it has score"):
        Bench().scheduler.on_trial_result(trial, {"score": 1})


def test_worse_trials_are_trained_less():
    def make():
        return MedianStoppingRule(grace_period=3)

    scripts = [Script(curve([number] * 20)) for number in (9, 8, 7, 6, 5, 4, 3, 2, 1)]
    played = play(make, scripts, slots=2)
    trained = [len(played.verdicts(name)) for name in played.trials]
    assert trained[:3] == [20, 20, 20]
    assert trained[5:] == [3, 3, 3, 3]
    replay(played, make)


def test_softly_everyone_is_trained_to_the_end_but_the_worse_last():
    def make():
        return MedianStoppingRule(grace_period=3, hard_stop=False)

    scripts = [Script(curve([number] * 20)) for number in (9, 8, 7, 6, 5, 4, 3, 2, 1)]
    played = play(make, scripts, slots=2)
    trained = [len(played.verdicts(name)) for name in played.trials]
    assert trained == [20] * 9
    order = [call.trial_id for call in played.calls if call.method == "on_trial_complete"]
    assert set(order[:3]) == {"t0", "t1", "t2"}
    replay(played, make)


def test_the_text_shows_how_many_were_stopped():
    bench = Bench()
    for name in "abc":
        bench.course(name, 9, 9)
    bench.course("d", 1, 1)
    assert bench.scheduler.debug_string() == (
        "Using MedianStoppingRule: from time_total_s=2 on against the median of at least 2; 4 trials "
        "reported, 1 of them stopped."
    )


WRONG = {
    "time_attr": ["", None, 3],
    "metric": ["", 3],
    "mode": ["MAX", "", 1],
    "grace_period": [-1, INF, NAN, True, "1", None],
    "min_samples_required": [0, -1, 1.0, True, "3", None],
    "min_time_slice": [-1, INF, NAN, True, "1", None],
    "hard_stop": [0, 1, None, "yes"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_an_error_that_names_it(name):
    for value in WRONG[name]:
        with pytest.raises(ConfigError, match=rf"^{name} of MedianStoppingRule must be "):
            MedianStoppingRule(**{"metric": "score", "mode": "max", name: value})


def test_it_needs_an_objective():
    with pytest.raises(ConfigError, match="MedianStoppingRule needs an objective"):
        MedianStoppingRule().bind(None, None)
