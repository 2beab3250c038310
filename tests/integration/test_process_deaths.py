"""No process outlives its worker, its pool or its driver; and a death says what it was."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import process_trainables as dies
import pytest
from process_helpers import Fifo, busy, children, family, pid_of, watching

from asynctune.errors import ExecutorError, TrialTimeout, WorkerDied
from asynctune.executors import ProcessExecutor

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and waits for pidfds"),
]


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "fifo")
    yield fifo
    fifo.close()


@pytest.fixture
def our_children() -> Callable[[], set[int]]:
    """Those of this test, even if another one has left some."""
    before = children(os.getpid())
    return lambda: children(os.getpid()) - before


@pytest.mark.parametrize(
    ("death", "died_of", "exitcode", "text"),
    [
        (dies.by_signal, signal.SIGKILL, None, r"signal 9 \(SIGKILL\)"),
        (dies.by_segfault, signal.SIGSEGV, None, r"signal 11 \(SIGSEGV\)"),
        (dies.by_exit, None, 3, "exit code 3"),
    ],
)
async def test_a_death_says_what_the_worker_died_of(death, died_of, exitcode, text):
    async with ProcessExecutor(1) as pool:
        async with pool.actor(death) as actor:
            with pytest.raises(WorkerDied, match=rf"{text} during train\(\)") as caught:
                await actor.train()
            assert (caught.value.signal, caught.value.exitcode) == (died_of, exitcode)
            with pytest.raises(ExecutorError, match=r"train\(\)"):
                await actor.train()
        if death is dies.by_segfault:
            assert "Segmentation fault" in Path(actor.logdir, "output.log").read_text()
        assert await pid_of(pool) > 0


async def test_a_death_in_the_setup_is_raised_and_gives_the_slot_back():
    async with ProcessExecutor(1) as pool:
        for _ in range(2):
            with pytest.raises(WorkerDied, match=r"exit code 4 during _setup\(\)"):
                async with pool.actor(dies.InSetup):
                    pass
        assert await pid_of(pool) > 0


@pytest.mark.parametrize("how", ["subprocess", "fork", "session"])
async def test_what_a_worker_started_dies_with_it_or_at_the_latest_with_the_pool(how):
    with watching() as watch:
        async with ProcessExecutor(1) as pool:
            async with pool.actor(dies.after_starting_a_child, {"how": how}) as actor:
                watch.add((await actor.train())["child"])
                with pytest.raises(WorkerDied):
                    await actor.train()
            assert how == "session" or await watch.all_end()
        assert await watch.all_end()


async def test_nothing_is_alive_after_the_pool_whatever_its_workers_do(fifo, our_children):
    async def use(pool):
        with pytest.raises(WorkerDied):
            await train_for_ever(pool)

    async def train_for_ever(pool):
        async with busy(pool, dies.SleepsAmongChildren, fifo) as (_, train, _):
            started.set()
            await train

    started = asyncio.Event()
    with watching() as watch:
        async with ProcessExecutor(2) as pool, pool.actor(dies.pid) as idle:
            user = asyncio.ensure_future(use(pool))
            await started.wait()
            (server,) = our_children()
            everything = {server, *family(server)}
            assert (await idle.train())["pid"] in everything
            assert len(everything) == 5, "the server, two workers, two of their children"
            watch.add(*everything)
        await user
        assert await watch.all_end()
    assert our_children() == set()


async def test_a_process_that_was_stopped_is_ended_after_the_grace(fifo):
    async with ProcessExecutor(1) as pool:
        async with busy(pool, dies.stops_itself, fifo) as (actor, _, worker):
            with watching(worker) as watch:
                assert isinstance((await actor.shut_down(0.1)).error, TrialTimeout)
                assert await watch.all_end()
        assert await pid_of(pool) != worker


async def test_a_worker_that_does_not_let_its_trainable_go_is_ended(our_children):
    async def use(pool):
        async with pool.actor(dies.Clings, grace_s=0.1) as actor:
            watch.add((await actor.train())["pid"])

    with watching() as watch:
        async with ProcessExecutor(1) as pool:
            task = asyncio.ensure_future(use(pool))
            done, _ = await asyncio.wait([task], timeout=5)
            ended = bool(done) and await watch.all_end()
            for server in our_children():
                for worker in children(server):
                    os.kill(worker, signal.SIGKILL)
            await task
    assert ended, "leaving the block waits for ever"


async def test_the_death_of_the_server_is_one_of_its_workers_and_a_new_one_takes_over(
    fifo, our_children
):
    async with ProcessExecutor(1) as pool:
        async with busy(pool, dies.sleeps, fifo) as (_, train, worker):
            (server,) = our_children()
            with watching(server, worker) as watch:
                os.kill(server, signal.SIGKILL)
                with pytest.raises(WorkerDied, match=r"during train\(\)"):
                    await train
                assert await watch.all_end()
        assert await pid_of(pool) != worker
        (successor,) = our_children()
        assert successor != server
    gc.collect()  # a process that nobody waited for would warn now
    assert our_children() == set()


async def test_a_second_cancellation_ends_the_grace_and_leaves_nothing(fifo, our_children):
    async def use():
        async with ProcessExecutor(1) as pool, busy(pool, dies.sleeps, fifo, 600) as (_, _, worker):
            watch.add(worker, *our_children())
            started.set()
            await asyncio.Event().wait()

    started = asyncio.Event()
    with watching() as watch:
        task = asyncio.ensure_future(use())
        await started.wait()
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
        assert not task.done(), "it has a grace of ten minutes"
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.done()
        assert task.cancelled()
        assert await watch.all_end()


DRIVER = """
import asyncio, os, re, subprocess, sys, time
from asynctune.executors import ProcessExecutor

fifo, forks = sys.argv[1], sys.argv[2] == "forks"

def tell(pid):
    with open(fifo, "w") as file:
        file.write(f"{pid} ")

def sleeping(config):
    tell(subprocess.Popen(["sleep", "600"]).pid)
    tell(os.getpid())
    time.sleep(600)

def holding_the_gil(config):
    tell(os.getpid())
    re.match(r"(a+)+$", "a" * 60 + "b")

async def train(pool, function):
    async with pool.actor(function) as actor:
        if forks and function is sleeping and os.fork() == 0:  # it holds every descriptor open
            tell(-os.getpid())
            time.sleep(600)
        await actor.train()

async def main():
    async with ProcessExecutor(2) as pool, asyncio.TaskGroup() as tasks:
        for function in (sleeping, holding_the_gil):
            tasks.create_task(train(pool, function))

asyncio.run(main())
"""


@pytest.mark.parametrize("forks", ["", "forks"])
async def test_kill_9_of_the_driver_leaves_nothing_alive(forks, tmp_path, fifo):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, str(script), fifo.path, forks])
    with watching() as watch, watching() as forked:
        try:
            told = await fifo.numbers(4 if forks else 3)
            own = {-pid for pid in told if pid < 0}
            forked.add(*own)
            everything = family(driver.pid) - own
            assert everything >= {pid for pid in told if pid > 0}
            watch.add(*everything)
        finally:
            driver.kill()
            driver.wait()
        assert await watch.all_end(within_s=2.0)
