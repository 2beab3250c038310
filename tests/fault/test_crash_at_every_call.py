"""The driver dies between any two calls of its files: nothing that was shown is lost, and it goes on."""

from __future__ import annotations

import pytest
from simulated import CONTROL, exists, experiment, rows_of, undisturbed

import asynctune as tune
from harness.faults import Crash, FaultyFileSystem, using
from harness.ledger import Ledger

pytestmark = pytest.mark.asyncio


async def crashes_at(call, parent, ledger):
    """Let the experiment die before a call; tell whether it did."""
    with using(FaultyFileSystem(crash_at=call)) as files:
        try:
            analysis = await experiment(parent, ledger)
        except Crash:
            assert files.fired
            return True
    assert not files.fired
    assert rows_of(analysis) == CONTROL
    return False


def check_nothing_is_missing(parent, ledger):
    if exists(parent):
        balance = Ledger(ledger).compare(tune.Analysis(parent / "simulated"))
        assert (balance.lost, balance.doubled) == ((), ())
    else:
        assert Ledger(ledger).entries() == set()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_crash_before_any_call_loses_nothing_and_the_experiment_ends_as_undisturbed(
    tmp_path,
):
    call = 0
    while True:
        call += 1
        parent, ledger = tmp_path / f"at-{call}", tmp_path / f"ledger-{call}"
        crashed = await crashes_at(call, parent, ledger)
        check_nothing_is_missing(parent, ledger)
        if not crashed:
            break
        analysis = await undisturbed(parent, ledger)
        assert rows_of(analysis) == CONTROL
        check_nothing_is_missing(parent, ledger)
    assert call > 60, "the experiment makes more calls than that"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_driver_that_dies_again_and_again_keeps_at_least_what_there_was(tmp_path):
    """Each of them gets a little further: they die before their 20th, 21st, ... call."""
    ledger = tmp_path / "ledger"
    for call in range(20, 500):
        known = len(Ledger(ledger).entries())
        crashed = await crashes_at(call, tmp_path, ledger)
        check_nothing_is_missing(tmp_path, ledger)
        assert len(Ledger(ledger).entries()) >= known
        if not crashed:
            break
    assert call > 22
    leftovers = list((tmp_path / "simulated").rglob(".tmp-*"))
    assert leftovers == [], "what was not finished does not pile up"
