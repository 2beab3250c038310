"""When a checkpoint may be removed from a storage."""

from __future__ import annotations

import pytest

from asynctune.experiment.remote.retention import Removals


@pytest.fixture
def removals():
    return Removals()


def due(removals, end):
    return list(removals.due(end))


def test_it_is_removed_when_the_journal_there_says_that_nothing_needs_it(removals):
    removals.dropped("a", "a/checkpoint_1/model", 10)
    removals.dropped("b", "b/checkpoint_1", 20)
    assert due(removals, 9) == []
    assert due(removals, 10) == [("a", "a/checkpoint_1")]
    assert due(removals, 20) == [("b", "b/checkpoint_1")]
    assert not removals
    assert due(removals, 99) == []


def test_one_that_is_saved_again_stays(removals):
    removals.dropped("a", "a/checkpoint_1/model", 10)
    removals.saved("a", "a/checkpoint_1/other")
    assert not removals


def test_one_that_was_never_there_is_no_removal_but_the_next_of_its_name_is(removals):
    removals.expect_gone("a", "a/checkpoint_1")
    removals.dropped("a", "a/checkpoint_1", 10)
    assert not removals
    removals.dropped("a", "a/checkpoint_1", 20)
    assert due(removals, 20) == [("a", "a/checkpoint_1")]


def test_one_that_another_trial_began_from_stays_until_that_has_its_own_there(removals):
    removals.began_from("b", "a/checkpoint_1/model")
    removals.began_from("c", "a/checkpoint_1/model")
    removals.dropped("a", "a/checkpoint_1", 10)
    removals.dropped("a", "a/checkpoint_2", 10)
    assert due(removals, 10) == [("a", "a/checkpoint_2")]
    removals.saved("b", "b/checkpoint_3/model")
    assert not removals.stored("b", "b/checkpoint_2"), "that is an earlier one"
    assert removals.stored("b", "b/checkpoint_3")
    assert due(removals, 10) == [], "the other one needs it"
    removals.saved("c", "c/checkpoint_2/model")
    removals.ended("c")
    assert due(removals, 10) == [], "its own is on its way"
    assert removals.stored("c", "c/checkpoint_2")
    assert due(removals, 10) == [("a", "a/checkpoint_1")]


def test_a_trial_that_ends_without_one_of_its_own_needs_none(removals):
    removals.began_from("b", "a/checkpoint_1")
    removals.dropped("a", "a/checkpoint_1", 10)
    removals.ended("b")
    assert due(removals, 10) == [("a", "a/checkpoint_1")]


def test_what_is_needed_to_the_last_stays_there(removals):
    removals.began_from("b", "a/checkpoint_1")
    removals.dropped("a", "a/checkpoint_1", 10)
    removals.dropped("a", "a/checkpoint_2", 10)
    removals.close()
    assert due(removals, 10) == [("a", "a/checkpoint_2")]
    assert not removals


def test_many_thousands_that_wait_cost_nothing_at_each_checkpoint(removals):
    """Each is looked up, and not looked for."""
    for number in range(100_000):
        removals.dropped("a", f"a/checkpoint_{number}", 10)
    for number in range(100_000):
        removals.saved("a", f"a/checkpoint_{number}")
    assert not removals
