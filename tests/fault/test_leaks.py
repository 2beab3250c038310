"""A run of many short trials leaves nothing with its driver but a little memory for each of them."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.executors import ProcessExecutor
from asynctune.experiment import events

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

FEW = 300
"""The trials of the run before. It fills what is kept of any run: the journal's last 1,024 events."""
AT_MOST = 8 << 10
AT_WORK = 8
"""Files that are open for a moment: logs that are being written, at the moment of a look."""


def short(config):
    tune.report(loss=config["x"])


@dataclass(frozen=True)
class Look:
    """What this process, the worker server and the workers hold at one moment."""

    memory: int
    descriptors: int
    threads: int
    server: int
    workers: dict[int, int]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def own_threads():
    """Count the threads but those that anyio and asyncio keep for the next call, up to a limit."""
    kept = ("AnyIO worker thread", "asyncio_")
    return sum(not thread.name.startswith(kept) for thread in threading.enumerate())


def resident():
    """Return what this process has of the system's memory, when it gave back what it could."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def allocated():
    """Return what Python's own objects hold."""
    return tracemalloc.get_traced_memory()[0]


def look(pool, memory):
    gc.collect()
    return Look(
        memory=memory(),
        descriptors=descriptors("self"),
        threads=own_threads(),
        server=descriptors(pool._server._process.pid),
        workers={pid: descriptors(pid) for pid in pool.pids},
    )


async def many(pool, count, memory):
    """Run so many trials; look when all have ended, and when their run is over and its handle is held."""
    last = None
    async with tune.start(
        short, config={"x": tune.uniform(0, 1)}, num_samples=count, executor=pool, verbose=0
    ) as experiment:
        ended = 0
        async for event in experiment.events():
            if isinstance(event, events.TrialEnded):
                ended += 1
                if ended == count:
                    last = look(pool, memory)
    assert len(experiment.trials) == ended == count
    return last, look(pool, memory)


@pytest.mark.timeout(3600)
def test_short_trials_cost_no_descriptors_and_no_threads_and_little_memory(is_long):
    # What a user pays is the resident memory. But a heap has room in it, as much as a thousand trials
    # need: only many thousands have to come out of what the system gives. Of few, the objects are
    # counted; that makes a run slow, and would itself be memory.
    count, memory = (10_000, resident) if is_long else (1_000, allocated)

    async def main():
        async with ProcessExecutor(2) as pool:
            _, few = await many(pool, FEW, memory)
            return [few, *await many(pool, count, memory)]

    before = descriptors("self"), own_threads()
    if not is_long:
        tracemalloc.start()
    try:
        few, last, after = asyncio.run(main())
    finally:
        tracemalloc.stop()
    each = (after.memory - few.memory) / (count - FEW)
    print(f"{each:.0f} bytes a trial; {few} -> {after}")
    assert 1 << 10 < each <= AT_MOST, "a trial is kept, and does not weigh much"
    assert last.descriptors <= few.descriptors + AT_WORK, "nor while the run goes on"
    assert after.descriptors <= few.descriptors
    assert few.threads == last.threads == after.threads
    assert few.server == after.server
    assert few.workers == after.workers, "two workers served all trials, and hold what they held"
    assert (descriptors("self"), own_threads()) == before
