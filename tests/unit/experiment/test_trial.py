"""The state of trials as a fold over events, stoppers, and which checkpoints are kept."""

from __future__ import annotations

import math

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.experiment import events as ev
from asynctune.experiment.retention import Retention
from asynctune.experiment.status import Status, StopReason
from asynctune.experiment.trial import CheckpointRef, Trial
from asynctune.schedulers.stoppers.base import CriteriaStopper, Stopper, make_stopper

ADDED = ev.TrialAdded("t", 0, "name", "x=1", {"x": 1}, None, {"cpu": 1}, 0.0)


class Rows:
    """Stands for the journal: the place of a row is its number."""

    def __init__(self):
        self.rows = []

    def read(self, places):
        return [self.rows[place] for place in places]


def make_trial():
    rows = Rows()
    trial = Trial(ADDED, directory="/e", read_rows=rows.read)

    def report(n):
        rows.rows.append({"n": n})
        trial.apply(
            ev.Reported("t", trial.attempt, trial.next_sequence, {"n": n}), len(rows.rows) - 1
        )

    return trial, report


def test_a_trial_goes_from_pending_over_running_to_its_end():
    trial, report = make_trial()
    assert trial.status == "PENDING"
    assert (trial.logdir, str(trial), trial.last_result) == ("/e/t", "name", {})
    trial.apply(ev.TrialStarted("t", 0, None, 1.0), 0)
    assert trial.status is Status.RUNNING
    report(1)
    report(2)
    trial.apply(ev.TrialEnded("t", "TERMINATED", "done", {}, None, 2.0), 0)
    assert (trial.status, trial.stop_reason) == ("TERMINATED", StopReason.DONE)
    assert trial.results == [{"n": 1}, {"n": 2}]
    assert trial.last_result == {"n": 2}


def test_a_retry_repeats_the_rows_behind_its_checkpoint_and_none_is_missing_meanwhile():
    trial, report = make_trial()
    trial.apply(ev.TrialStarted("t", 0, None, 1.0), 0)
    for n in (1, 2, 3):
        report(n)
    trial.apply(ev.Checkpointed("t", 0, 1, "t/c", 2), 0)
    trial.apply(ev.TrialFailed("t", 0, "boom", "ValueError", None, 1, 2.0), 0)
    assert (trial.status, trial.num_failures) == ("PENDING", 1)
    assert trial.results == [{"n": 1}, {"n": 2}, {"n": 3}], "3 was shown, and not yet repeated"
    assert (trial.last_result, trial.results_to(9)) == ({"n": 2}, [{"n": 1}, {"n": 2}])
    trial.apply(ev.TrialStarted("t", 1, "t/c", 3.0), 0)
    report(30)
    assert trial.results == [{"n": 1}, {"n": 2}, {"n": 30}]
    assert trial.next_sequence == 4
    trial.apply(ev.TrialFailed("t", 1, "boom", "ValueError", None, -1, 4.0), 0)
    assert trial.results == [{"n": 1}, {"n": 2}, {"n": 30}]
    assert (trial.last_result, trial.results_to(9)) == ({}, [])
    trial.apply(ev.TrialStarted("t", 2, None, 5.0), 0)
    report(100)
    assert trial.results == [{"n": 100}, {"n": 2}, {"n": 30}]
    trial.apply(ev.TrialEnded("t", "TERMINATED", "done", {}, None, 6.0), 0)
    assert trial.results == [{"n": 100}], "an attempt that ended well has said all there is"


def test_a_trial_that_is_taken_up_again_counts_attempts_and_not_failures():
    trial, report = make_trial()
    trial.apply(ev.TrialStarted("t", 0, None, 1.0), 0)
    report(1)
    trial.apply(ev.TrialReopened("t", 1, "its driver died", -1, 2.0), 0)
    assert (trial.status, trial.attempt, trial.num_failures) == ("PENDING", 1, 0)
    trial.apply(ev.TrialStarted("t", 1, None, 3.0), 0)
    trial.apply(ev.TrialFailed("t", 1, "boom", "ValueError", None, -1, 4.0), 0)
    trial.apply(ev.TrialEnded("t", "ERROR", "failed", {}, None, 5.0), 0)
    trial.apply(ev.TrialReopened("t", 2, "errored", -1, 6.0), 0)
    assert (trial.status, trial.error, trial.stop_reason) == ("PENDING", None, None)
    assert (trial.attempt, trial.num_failures, trial.num_forgiven) == (2, 1, 1)


def test_an_error_stays_only_with_a_trial_that_failed_for_good():
    for status in ("TERMINATED", "ERROR"):
        trial, _ = make_trial()
        trial.apply(ev.TrialStarted("t", 0, None, 1.0), 0)
        trial.apply(ev.TrialFailed("t", 0, "boom", "ValueError", "trace", -1, 2.0), 0)
        assert (str(trial.error), trial.error.traceback) == ("boom", "trace")
        trial.apply(ev.TrialEnded("t", status, "failed", {}, None, 3.0), 0)
        assert (trial.error is None) == (status == "TERMINATED")


def test_a_move_that_cannot_be_is_refused():
    trial, _ = make_trial()
    trial.apply(ev.TrialEnded("t", "TERMINATED", "cancelled", {}, None, 3.0), 0)
    with pytest.raises(ValueError, match="trial t cannot go from TERMINATED to RUNNING"):
        trial.apply(ev.TrialStarted("t", 0, None, 1.0), 0)


def refs(count):
    return [CheckpointRef(f"/c{n}", n, n) for n in range(count)]


@pytest.mark.parametrize(
    ("keep", "attr", "values", "kept"),
    [
        (None, None, [1, 2, 3], [0, 1, 2]),
        (1, None, [1, 2, 3], [2]),
        (2, "loss", [9, 1, 8, 2], [0, 2, 3]),  # the best two, and the newest
        (2, "min-loss", [9, 1, 8, 2], [1, 3]),
        (1, "loss", [5, math.nan, math.nan], [0, 2]),
        (1, "loss", [5, 5, 5], [2]),  # of equals the newer
        (1, "a/b", [3, 1, 2], [0, 1, 2]),  # a metric that no row has deletes nothing
        (1, "loss", [None, 1, None, 2, None], [3, 4]),  # a row without the metric ranks last
    ],
)
def test_the_best_checkpoints_are_kept_and_always_the_newest(keep, attr, values, kept):
    manager = Retention(keep, attr)
    alive = set()
    for ref, value in zip(refs(len(values)), values, strict=True):
        alive.add(ref.sequence)
        flat = {"training_iteration": ref.sequence + 1}
        manager.add(ref, flat | ({} if value is None else {"loss": value}))
        for dropped in manager.surplus():
            manager.remove(dropped.path)
            alive.remove(dropped.sequence)
    assert sorted(alive) == kept


def test_what_is_pinned_stays_until_the_last_pin_is_gone():
    manager = Retention(1, None)
    first, second, third = refs(3)
    for ref in (first, second, third):
        manager.add(ref, {"training_iteration": ref.sequence + 1})
    manager.pin(first.path)
    manager.pin(first.path)
    assert manager.surplus() == [second]
    manager.unpin(first.path)
    assert manager.surplus() == [second]
    manager.remove(second.path)
    manager.unpin(first.path)
    assert manager.surplus() == [first]


def test_bounds_are_reached_at_equality_by_any_of_them_and_never_by_nan():
    stop = CriteriaStopper({"a/b": 2, "loss": 0})
    assert not stop("t", {"a": {"b": 1}, "loss": -1})
    assert stop("t", {"a": {"b": 2}, "loss": -1})
    assert stop("t", {"a": {"b": 1}, "loss": 0})
    assert not stop("t", {"a": {"b": math.nan}, "loss": None})
    with pytest.raises(MetricMissing, match=r"stop asks for 'a/b'.*it has loss") as caught:
        stop("t", {"loss": 1})
    assert (caught.value.metric, caught.value.found) == ("a/b", ["loss"])


def test_stop_in_each_form_is_a_stopper():
    class Own(Stopper):
        def __call__(self, trial_id, result):
            return trial_id == "x"

    for stop in (None, {}, {"a": 1}, lambda trial_id, result: True, Own()):
        assert isinstance(make_stopper(stop), Stopper)
    assert make_stopper(lambda trial_id, result: result["a"] > 1)("t", {"a": 2})
    assert make_stopper(Own())("x", {})
    with pytest.raises(ConfigError):
        make_stopper(3)
