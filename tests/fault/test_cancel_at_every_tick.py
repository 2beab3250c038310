"""Four trials, cancelled at any turn of the loop: CancelledError comes out, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor
from harness.ticks import TickLoop, cancelled_at

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


@pytest.fixture(scope="session", autouse=True)
def libuv_is_there():
    """libuv opens two pipes for the whole process when its first loop is made."""
    import uvloop

    uvloop.new_event_loop().close()


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


def a_hundred(count):
    """A hundred turns of a run: the first ones one by one, since there it is set up."""
    if isinstance(asyncio.get_running_loop(), TickLoop):
        return [*range(40), *range(40, count, max(1, (count - 40) // 60))]
    # A loop that is kept turning turns as often as it can, in one run thrice as often as in another.
    return [*range(40), *(int(40 * (count / 40) ** (part / 60)) for part in range(60))]


@pytest.mark.timeout(3600)
def test_in_processes_at_a_hundred_turns(is_long):
    async def main():
        async with ProcessExecutor(2) as pool:
            outcome = await cancel_everywhere(CountsInProcess, pool, a_hundred)
            assert len(pool.pids) <= 2
            return outcome

    for factory in loops(is_long):
        with asyncio.Runner(loop_factory=factory) as runner:
            _, cancelled = runner.run(main())
        assert cancelled >= 80
