"""When a checkpoint may be removed from a storage."""

from __future__ import annotations

import pytest

from asynctune.experiment.remote.retention import RemoteRetention


@pytest.fixture
def retention():
    return RemoteRetention()


def due(retention, end):
    return list(retention.due(end))


def test_it_is_removed_when_the_journal_there_says_that_nothing_needs_it(retention):
    retention.on_dropped("a", "a/checkpoint_1/model", 10)
    retention.on_dropped("b", "b/checkpoint_1", 20)
    assert due(retention, 9) == []
    assert due(retention, 10) == [("a", "a/checkpoint_1")]
    assert due(retention, 20) == [("b", "b/checkpoint_1")]
    assert not retention
    assert due(retention, 99) == []


def test_one_that_is_saved_again_stays(retention):
    retention.on_dropped("a", "a/checkpoint_1/model", 10)
    retention.on_saved("a", "a/checkpoint_1/other")
    assert not retention


def test_one_that_was_never_there_is_no_removal_but_the_next_of_its_name_is(retention):
    retention.add_missing("a", "a/checkpoint_1")
    retention.on_dropped("a", "a/checkpoint_1", 10)
    assert not retention
    retention.on_dropped("a", "a/checkpoint_1", 20)
    assert due(retention, 20) == [("a", "a/checkpoint_1")]


def test_one_that_another_trial_began_from_stays_until_that_has_its_own_there(retention):
    retention.on_exploited("b", "a/checkpoint_1/model")
    retention.on_exploited("c", "a/checkpoint_1/model")
    retention.on_dropped("a", "a/checkpoint_1", 10)
    retention.on_dropped("a", "a/checkpoint_2", 10)
    assert due(retention, 10) == [("a", "a/checkpoint_2")]
    retention.on_saved("b", "b/checkpoint_3/model")
    assert not retention.on_uploaded("b", "b/checkpoint_2"), "that is an earlier one"
    assert retention.on_uploaded("b", "b/checkpoint_3")
    assert due(retention, 10) == [], "the other one needs it"
    retention.on_saved("c", "c/checkpoint_2/model")
    retention.on_ended("c")
    assert due(retention, 10) == [], "its own is on its way"
    assert retention.on_uploaded("c", "c/checkpoint_2")
    assert due(retention, 10) == [("a", "a/checkpoint_1")]


def test_a_trial_that_ends_without_one_of_its_own_needs_none(retention):
    retention.on_exploited("b", "a/checkpoint_1")
    retention.on_dropped("a", "a/checkpoint_1", 10)
    retention.on_ended("b")
    assert due(retention, 10) == [("a", "a/checkpoint_1")]


def test_what_is_needed_to_the_last_stays_there(retention):
    retention.on_exploited("b", "a/checkpoint_1")
    retention.on_dropped("a", "a/checkpoint_1", 10)
    retention.on_dropped("a", "a/checkpoint_2", 10)
    retention.close()
    assert due(retention, 10) == [("a", "a/checkpoint_2")]
    assert not retention


def test_many_thousands_that_wait_cost_nothing_at_each_checkpoint(retention):
    """Each is looked up, and not looked for."""
    for number in range(100_000):
        retention.on_dropped("a", f"a/checkpoint_{number}", 10)
    for number in range(100_000):
        retention.on_saved("a", f"a/checkpoint_{number}")
    assert not retention
