"""Four trials, cancelled at any turn of the loop: CancelledError comes out, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.testing.ticks import TickLoop, cancelled_at

pytestmark = pytest.mark.slow


class Counts(tune.Trainable):
    async def _train(self):
        return {"n": self.iteration + 1}

    async def _save(self, directory):
        return {}

    async def _restore(self, checkpoint):
        pass


class CountsInProcess(tune.Trainable):
    def _train(self):
        return {"n": self.iteration + 1}

    def _save(self, directory):
        return {}


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def cancel_everywhere(trainable, pool, ticks):
    """Cancel a run at each of some turns; return how many turns an undisturbed one has."""

    async def start():
        await tune.run(
            trainable, num_samples=4, stop={"n": 3}, checkpoint_freq=1, keep_checkpoints_num=1,
            executor=pool, grace_s=5, verbose=0,
        )  # fmt: skip

    undisturbed = await cancelled_at(start, None)
    assert undisturbed.finished
    assert undisturbed.error is None
    before = descriptors()
    cancelled = 0
    for tick in ticks(undisturbed.ticks):
        outcome = await cancelled_at(start, tick)
        assert outcome.left == set(), f"at turn {tick}"
        assert descriptors() <= before, f"at turn {tick}"
        if not outcome.finished:
            cancelled += 1
            assert type(outcome.error) is asyncio.CancelledError, f"{outcome.error!r} at {tick}"
    return undisturbed.ticks, cancelled


def loops(is_long):
    """The loops to try: asyncio's, and in the long form uvloop's too."""
    if not is_long:
        return [TickLoop]
    import uvloop

    return [TickLoop, uvloop.new_event_loop]


@pytest.mark.timeout(3600)
def test_inline_at_every_turn(is_long):
    async def main():
        async with InlineExecutor(2) as pool:
            return await cancel_everywhere(Counts, pool, lambda count: range(count + 20))

    for factory in loops(is_long):
        with asyncio.Runner(loop_factory=factory) as runner:
            count, cancelled = runner.run(main())
        assert cancelled >= count // 2 > 20
    assert [t for t in threading.enumerate() if t.name.startswith("asynctune")] == []


@pytest.mark.timeout(3600)
def test_in_processes_at_a_hundred_turns(is_long):
    async def main():
        async with ProcessExecutor(2) as pool:
            # The first ones one by one: there the run is set up; the others spread over the rest.
            outcome = await cancel_everywhere(
                CountsInProcess, pool, lambda n: [*range(40), *range(40, n, max(1, (n - 40) // 60))]
            )
            assert len(pool.pids) <= 2
            return outcome

    for factory in loops(is_long):
        with asyncio.Runner(loop_factory=factory) as runner:
            _, cancelled = runner.run(main())
        assert cancelled >= 80
