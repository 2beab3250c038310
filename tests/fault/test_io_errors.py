"""A call of the system fails, once or from then on: the right error, nothing lost, and it goes on."""

from __future__ import annotations

import errno

import pytest
from simulated import CONTROL, exists, experiment, rows_of, undisturbed

import asynctune as tune
from asynctune.errors import StorageError, StorageFull
from harness.faults import FaultyFileSystem, using
from harness.ledger import Ledger

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(600)]

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EMFILE")


def is_documented(error, name):
    """Whether it was the journal or a checkpoint that could not be written: it ends the run."""
    return isinstance(error, StorageFull if name in ("ENOSPC", "EDQUOT") else StorageError)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", ERRORS)
async def test_a_call_that_fails_is_told_by_its_own_error_and_loses_nothing(
    name, persistent, tmp_path, is_long
):
    call, fired, errors = 0, True, 0
    step = 1 if is_long else 3  # the short form takes every third call, of each of the five errors
    offset = ERRORS.index(name) % step
    while fired:
        call += step
        parent, ledger = tmp_path / f"at-{call}", tmp_path / f"ledger-{call}"
        faults = FaultyFileSystem(
            fail_at=call - offset, error=getattr(errno, name), persistent=persistent
        )
        error = None
        with using(faults):
            try:
                await experiment(parent, ledger)
            except tune.TuneError as exc:
                error = exc
        fired = faults.fired
        if error is not None:
            errors += 1
            assert is_documented(error, name), (call, faults.calls[call - 1], repr(error))
        if not exists(parent):
            assert Ledger(ledger).entries() == set()
        else:
            balance = Ledger(ledger).compare(tune.Analysis(parent / "simulated"))
            assert (balance.lost, balance.doubled) == ((), ())
        resume = "errored" if exists(parent) else "AUTO"
        analysis = await undisturbed(parent, ledger, resume=resume)
        assert rows_of(analysis) == CONTROL, (call, repr(error))
    assert errors > 10
