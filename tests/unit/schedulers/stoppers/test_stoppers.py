"""Stoppers: when a trial has had enough, and when all have."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers.stoppers.base import FunctionStopper, Stopper
from asynctune.schedulers.stoppers.limits import (
    CombinedStopper,
    MaximumIterationStopper,
    TimeoutStopper,
)
from asynctune.schedulers.stoppers.plateau import (
    EarlyStopping,
    TrialPlateauStopper,
)

NAN, INF = math.nan, math.inf


def row(iteration, loss=0.0, **more):
    return {"training_iteration": iteration, "loss": loss} | more


def told(stopper, losses, trial_id="t", first=1):
    """Tell a stopper of the losses of a trial, and return at which of them it stopped the trial."""
    return [
        iteration
        for iteration, loss in enumerate(losses, first)
        if stopper(trial_id, row(iteration, loss))
    ]


# A limit


def test_a_trial_stops_at_the_maximum_iteration():
    stopper = MaximumIterationStopper(3)
    assert told(stopper, [0] * 5) == [3, 4, 5]
    assert told(stopper, [0, 0], "u") == []
    assert not stopper.stop_all()


def at(timestamp, trained=INF):
    return {"timestamp": timestamp, "time_since_restore": min(trained, 1e9)}


def test_the_run_stops_once_it_has_trained_for_long_enough():
    stopper = TimeoutStopper(10)
    for timestamp, trained in [(1000, 4), (1002, 1), (1005, 4), (1004, 8)]:
        assert not stopper("t", at(timestamp, trained))
        assert not stopper.stop_all()  # 4, 6, 9, 9
    assert not stopper("t", at(1006, 10))
    assert stopper.stop_all()


def test_the_time_between_a_driver_and_its_resume_does_not_count():
    stopper = TimeoutStopper(timedelta(seconds=20))
    stopper("t", at(1000, 5))
    stopper("t", at(90_000, 5))  # its worker began 5 seconds before
    stopper("t", at(90_006, 11))
    assert not stopper.stop_all()  # 5 + 6 + 6
    stopper("t", at(90_009, 14))
    assert stopper.stop_all()


def test_many_short_trials_count_in_full_although_timestamps_are_whole_seconds():
    stopper = TimeoutStopper(30)
    reported = 0
    while not stopper.stop_all():
        reported += 1
        stopper(f"t{reported}", at(int(1000 + 0.25 * reported), trained=0.25))
    assert 116 <= reported <= 124


# A trial that does not move


def test_a_trial_stops_when_its_last_results_are_as_good_as_the_same():
    # The standard deviations of the last three: -, -, 1.63, 0.94, 0.008, 0.008
    losses = [5, 3, 1, 1.01, 1.02, 1.01]
    assert told(TrialPlateauStopper("loss", num_results=3, grace_period=0), losses) == [5, 6]
    assert told(TrialPlateauStopper("loss", num_results=4, grace_period=0), losses) == [6]
    assert told(TrialPlateauStopper("loss", 0.004, 3, 0), losses) == []
    assert told(TrialPlateauStopper("loss", num_results=3, grace_period=6), losses) == [6]


def test_the_defaults_are_four_results_and_a_deviation_of_less_than_a_hundredth():
    stopper = TrialPlateauStopper("loss")
    assert told(stopper, [1.0] * 5) == [4, 5]
    assert told(stopper, [0.01, -0.01, 0.01, -0.01], "u") == []  # it is a hundredth
    assert not stopper.stop_all()


def test_only_trials_that_are_good_enough_stop_at_a_plateau():
    def stopper(mode):
        return TrialPlateauStopper("loss", metric_threshold=0.5, mode=mode)

    assert told(stopper("min"), [0.6] * 5) == []
    assert told(stopper("min"), [0.5] * 5) == [4, 5]
    assert told(stopper("max"), [0.5] * 5) == [4, 5]
    assert told(stopper("max"), [0.4] * 5) == []
    assert told(stopper("max"), [NAN] * 5) == told(stopper("min"), [NAN] * 5) == []


def test_a_metric_that_is_and_stays_nan_or_infinite_is_a_plateau():
    for value in (NAN, INF, -INF):
        assert told(TrialPlateauStopper("loss"), [value] * 5) == [4, 5]
        assert told(TrialPlateauStopper("loss"), [1, 1, 1, value, 1, 1, 1, 1]) == [8]
    assert told(TrialPlateauStopper("loss"), [NAN, INF] * 4) == []
    assert told(TrialPlateauStopper("loss"), [1.7e308, -1.7e308] * 4) == []


def test_what_a_retry_reports_again_counts_once_for_a_plateau_of_a_trial():
    stopper = TrialPlateauStopper("loss", num_results=4)
    told(stopper, [4, 3, 2, 1, 1])
    assert told(stopper, [1, 1], first=4) == []
    assert told(stopper, [1], first=5) == []
    assert told(stopper, [1, 1], first=6) == [7]
    assert told(stopper, [1], first=7) == [7]


# A run that does not get better


def test_the_run_stops_when_the_best_results_of_all_trials_are_as_good_as_the_same():
    stopper = EarlyStopping("loss", std=0.1, top=3)
    assert told(stopper, [9, 5, 1]) == []
    assert told(stopper, [1.1, 8], "u") == []  # 1, 1.1, 5
    assert not stopper.stop_all()
    assert told(stopper, [1.2], "v") == [1]  # 1, 1.1, 1.2: 0.08
    assert stopper.stop_all()
    assert told(stopper, [0.5], "w") == []  # 0.5, 1, 1.1: 0.26
    assert not stopper.stop_all()


def test_with_mode_max_the_greatest_are_the_best():
    stopper = EarlyStopping("loss", std=0.1, top=2, mode="max")
    assert told(stopper, [1, 1.1, 9, 9.1]) == [2, 4]


def test_patience_asks_for_so_many_results_at_the_plateau():
    def stops(patience):
        return told(EarlyStopping("loss", top=2, patience=patience), [1, 1, 2, 3, 0, 0, 9, 9])

    assert stops(0) == stops(1) == [2, 3, 4, 6, 7, 8]
    assert stops(2) == [3, 4, 7, 8]
    assert stops(3) == [4, 8]
    assert stops(4) == []


def test_values_that_are_not_finite_are_none_of_the_best():
    stopper = EarlyStopping("loss", top=3)
    assert told(stopper, [NAN, INF, -INF, 1, NAN, 1, -INF, 1, NAN]) == [8, 9]


def test_what_a_retry_reports_again_counts_once_among_the_best():
    stopper = EarlyStopping("loss", top=3, patience=3)
    told(stopper, [1, 5, 6])
    assert told(stopper, [1], first=1) == []
    assert told(stopper, [1, 1], first=1) == []  # of three results two are now 1, and one is 6
    assert told(stopper, [1] * 4, first=3) == [6]
    again = EarlyStopping("loss", top=2, patience=2)
    told(again, [1, 1])
    for _ in range(5):
        assert told(again, [1], first=2) == []
    assert told(again, [1], first=3) == [3]


# Several


class Counting(Stopper):
    def __init__(self, at, stops_all=False):
        self.at, self.calls, self.stops = at, 0, stops_all

    def __call__(self, trial_id, result):
        self.calls += 1
        return self.calls == self.at

    def stop_all(self):
        return self.stops and self.calls >= self.at


def test_of_combined_stoppers_any_may_stop_a_trial_and_each_is_told_of_every_result():
    first, second = Counting(2), Counting(3)
    stopper = CombinedStopper(first, second, lambda trial_id, result: trial_id == "u", {"loss": 7})
    assert told(stopper, [0, 0, 0, 0, 7]) == [2, 3, 5]
    assert told(stopper, [0], "u") == [1]
    assert first.calls == second.calls == 6
    assert not stopper.stop_all()


def test_of_combined_stoppers_any_may_stop_the_run():
    stopper = CombinedStopper(Counting(1), Counting(2, stops_all=True))
    told(stopper, [0])
    assert not stopper.stop_all()
    told(stopper, [0])
    assert stopper.stop_all()


def test_combined_stoppers_say_which_of_them_is_wrong():
    with pytest.raises(
        ConfigError, match=r"^stoppers of CombinedStopper must be at least one stopper, got "
    ):
        CombinedStopper()
    for wrong in (None, 3, "loss", {"loss": NAN}, lambda: True, Counting):
        with pytest.raises(ConfigError, match=r"^stoppers\[1\] of CombinedStopper"):
            CombinedStopper(Counting(1), wrong)


def test_a_function_stops_trials():
    stopper = FunctionStopper(lambda trial_id, result: result["loss"] > 1)
    assert told(stopper, [0, 2]) == [2]
    assert not stopper.stop_all()


async def asynchronous(trial_id, result):
    return True


def test_a_function_that_cannot_be_called_so_is_an_error():
    for wrong in (None, 3, Counting, lambda: True, asynchronous):
        with pytest.raises(
            ConfigError,
            match=r"^function of FunctionStopper must be a plain function \(trial_id, result\)",
        ):
            FunctionStopper(wrong)


# What is missing, and what is wrong


@pytest.mark.parametrize(
    ("stopper", "missing"),
    [
        (MaximumIterationStopper(3), "training_iteration"),
        (TimeoutStopper(3), "timestamp"),
        (TrialPlateauStopper("los"), "los"),
        (EarlyStopping("los"), "los"),
        (CombinedStopper(EarlyStopping("los")), "los"),
    ],
)
def test_what_is_missing_is_an_error_that_names_it_the_stopper_and_what_is_there(stopper, missing):
    result = row(1) if missing == "los" else {"loss": 1}
    with pytest.raises(MetricMissing, match=rf"Stopp\w+ asks for '{missing}'.*it has .*loss"):
        stopper("t", result)


def test_nested_metrics_are_named_flat():
    for stopper in (TrialPlateauStopper("a/b", num_results=2), EarlyStopping("a/b", top=2)):
        rows = [row(iteration, a={"b": 1}) for iteration in range(1, 6)]
        assert [stopper("t", result) for result in rows][-1]


WRONG = {
    MaximumIterationStopper: {"max_iter": [0, -1, 1.0, True, "3", None]},
    TimeoutStopper: {"timeout": [0, -1, INF, NAN, True, "3", None, timedelta(0)]},
    TrialPlateauStopper: {
        "metric": ["", None, 3],
        "std": [0, -1, INF, NAN, True, "3", None],
        "num_results": [1, 0, 2.0, True, "3", None],
        "grace_period": [-1, 1.0, True, "3", None],
        "metric_threshold": [INF, NAN, True, "3"],
        "mode": ["MAX", "", 3],
    },
    EarlyStopping: {
        "metric": ["", None, 3],
        "std": [0, -1, INF, NAN, True, "3", None],
        "top": [1, 0, 2.0, True, "3", None],
        "mode": ["MAX", "", 3, None],
        "patience": [-1, 1.0, True, "3", None],
    },
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_argument_is_an_error_that_names_it(kind):
    for name, values in WRONG[kind].items():
        for value in values:
            arguments = {"metric": "loss"} if "metric" in WRONG[kind] else {}
            if name == "metric_threshold":
                arguments["mode"] = "min"
            with pytest.raises(ConfigError, match=rf"^{name} of {kind.__name__} must be "):
                kind(**arguments | {name: value})


def test_a_threshold_without_a_mode_is_an_error():
    with pytest.raises(
        ConfigError,
        match=r"^mode of TrialPlateauStopper must be .* where metric_threshold is given, got None",
    ):
        TrialPlateauStopper("loss", metric_threshold=1)
