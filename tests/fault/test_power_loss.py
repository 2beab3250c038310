"""The machine dies between any two calls: what was not synced is gone, and nothing else is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest
from simulated import CONTROL, exists, experiment, rows_of, undisturbed

import asynctune as tune
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader
from asynctune.storage.checkpoints.directory import find_root, verify
from harness.faults import Crash, ForgetfulFiles, using
from harness.ledger import Ledger

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(300)]


def events_of(parent):
    return [event for _, event in JournalReader(parent / "simulated" / "journal").events()]


async def loses_power_at(call, tmp_path, durability):
    """Run until a call, then cut the power: where it was, where the rest lies, and what was known."""
    parent, ledger = tmp_path / f"{durability}-{call}", tmp_path / f"{durability}-{call}.ledger"
    after = tmp_path / f"{durability}-{call}.after"
    parent.mkdir()
    ended = set()
    files = ForgetfulFiles(parent, crash_at=call)
    try:
        with using(files), contextlib.suppress(Crash):
            await experiment(parent, ledger, durability=durability, ended=ended)
        files.after_power_loss(after)
    finally:
        files.release()
    return files.fired, Cut(parent, after, Ledger(ledger), ended)


@dataclass(frozen=True, slots=True)
class Cut:
    """What a power cut met, and what it left."""

    before: Path
    after: Path
    ledger: Ledger
    ended: set[str]


async def every_cut(tmp_path, durability):
    call, fired = 0, True
    while fired:
        call += 1
        fired, cut = await loses_power_at(call, tmp_path, durability)
        yield cut
    assert call > 60, "the experiment makes more calls than that"


async def test_with_durability_power_no_power_cut_takes_anything_that_was_shown(tmp_path):
    async for cut in every_cut(tmp_path, "power"):
        if exists(cut.after):
            balance = cut.ledger.compare(tune.Analysis(cut.after / "simulated"))
            assert (balance.lost, balance.doubled) == ((), ())
        else:
            assert cut.ledger.entries() == set()
        assert rows_of(await undisturbed(cut.after, cut.ledger.path, durability="power")) == CONTROL


async def test_otherwise_it_takes_young_rows_and_never_a_commit_or_a_trial_that_had_ended(tmp_path):
    some_were_taken = False
    async for cut in every_cut(tmp_path, "process"):
        if exists(cut.after):
            known, left = events_of(cut.before), events_of(cut.after)
            assert left == known[: len(left)], "what is left is a beginning of what there was"
            some_were_taken |= len(left) < len(known)
            assert cut.ended <= {e.trial_id for e in left if isinstance(e, ev.TrialEnded)}
            # A checkpoint counts when an older one is given up for it: nobody may end up with none.
            dropped = {e.path for e in left if isinstance(e, ev.CheckpointDropped)}
            for event in left:
                if isinstance(event, ev.Checkpointed) and event.path not in dropped:
                    path = cut.after / "simulated" / event.path
                    await anyio.to_thread.run_sync(lambda path=path: verify(find_root(path)))
        else:
            assert cut.ended == set()
        assert rows_of(await undisturbed(cut.after, cut.ledger.path)) == CONTROL
    assert some_were_taken, "the disk that forgets did forget"
