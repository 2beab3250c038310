"""The clock of the simulator: it jumps, stands still while threads work, and orders everything."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import anyio
import anyio.to_thread
import pytest

from asynctune import simulate
from asynctune.errors import ConfigError
from asynctune.simulate import VirtualLoop
from asynctune.storage import filesystem as files


class AskedLoop(VirtualLoop):
    """Tells a thread that it was asked what to do since nothing is ready."""

    def __init__(self):
        self.asked = threading.Event()
        super().__init__()

    def idle(self, timeout):
        waits = super().idle(timeout)
        self.asked.set()
        return waits


def in_asked_loop(function):
    with asyncio.Runner(loop_factory=AskedLoop) as runner:
        return runner.run(function(runner.get_loop()))


def outlast_idleness(loop):
    """Return when the loop has had nothing to do but to wait, or to let the clock jump. In a thread.

    The loop clears ``asked`` before it starts the thread, and is not idle before it has.
    """
    assert loop.asked.wait(10)


def test_an_hour_passes_at_once():
    async def main():
        await anyio.sleep(1800)
        await asyncio.sleep(1800)
        return asyncio.get_running_loop().time()

    assert simulate.run(main) == 3600


def test_who_waits_less_is_served_first_whoever_came_first():
    async def main():
        async def wait(seconds):
            await anyio.sleep(seconds)
            order.append((seconds, loop.time()))

        order, loop = [], asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            for seconds in (3, 1, 2.5):
                tasks.start_soon(wait, seconds)
        return order

    assert simulate.run(main) == [(1, 1), (2.5, 2.5), (3, 3)]


def test_a_limit_of_time_ends_a_wait_for_what_never_comes():
    async def main():
        with anyio.move_on_after(100) as scope:
            await anyio.Event().wait()
        return scope.cancelled_caught, asyncio.get_running_loop().time()

    assert simulate.run(main) == (True, 100)


def test_a_step_that_is_smaller_than_the_clock_can_show_is_a_step_all_the_same():
    async def main():
        await asyncio.sleep(1e7)
        for _ in range(20):
            await asyncio.sleep(1e-12)
        return asyncio.get_running_loop().time()

    assert simulate.run(main) == pytest.approx(1e7)


async def _in_own_limiter(function, *args):
    return await anyio.to_thread.run_sync(function, *args, limiter=anyio.CapacityLimiter(1))


async def _in_executor(function, *args):
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@pytest.mark.parametrize(
    "in_thread", [anyio.to_thread.run_sync, _in_own_limiter, _in_executor, asyncio.to_thread]
)
def test_the_clock_stands_still_while_a_thread_works(in_thread):
    async def main(loop):
        sleeper = asyncio.create_task(asyncio.sleep(1))
        for _ in range(3):  # the second time the thread is an old one
            loop.asked.clear()
            await in_thread(outlast_idleness, loop)
            assert loop.time() == 0
        await sleeper
        return loop.time()

    assert in_asked_loop(main) == 1


def test_the_clock_goes_on_when_the_thread_has_returned():
    async def main(loop):
        await anyio.to_thread.run_sync(outlast_idleness, loop)
        await anyio.sleep(5)
        return loop.time()

    assert in_asked_loop(main) == 5


def test_threads_return_in_the_order_in_which_they_were_asked_for():
    async def main(loop):
        async def ask(number):
            await anyio.to_thread.run_sync(*((outlast_idleness, loop) if number == 0 else (int,)))
            order.append(number)

        order = []
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(ask, number)
        return order

    assert in_asked_loop(main) == [0, 1, 2, 3, 4, 5]


def test_what_is_ready_comes_before_what_a_thread_returned_however_quick_it_was():
    async def main():
        async def ask():
            await anyio.to_thread.run_sync(returned.set)
            order.append("thread")

        returned, order = threading.Event(), []
        asked = asyncio.create_task(ask())
        turns = 0
        while turns < 100 or not returned.is_set():
            await asyncio.sleep(0)
            turns += 1
        for _ in range(100):
            await asyncio.sleep(0)
        order.append("ready")
        await asked
        return order

    assert simulate.run(main) == ["ready", "thread"]


def test_it_runs_a_function_with_arguments_or_a_coroutine_and_gives_what_came_of_it():
    async def double(number, *, plus=0):
        return 2 * number + plus

    assert simulate.run(double, 3, plus=1) == 7
    assert simulate.run(double(4)) == 8


def test_an_exception_comes_out():
    async def fail():
        await anyio.sleep(10)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        simulate.run(fail)


@pytest.mark.parametrize("wrong", [3, None, len, lambda: 3])
def test_what_is_no_coroutine_is_refused_by_name(wrong):
    arguments = ("abc",) if wrong is len else ()
    with pytest.raises(ConfigError, match=r"^what of simulate\.run\(\) must be"):
        simulate.run(wrong, *arguments)


def test_arguments_for_a_coroutine_that_has_them_already_are_refused():
    coroutine = asyncio.sleep(1)
    with pytest.raises(ConfigError, match="must be an async function if arguments follow"):
        simulate.run(coroutine, 3)
    coroutine.close()


def test_nobody_waits_for_the_disk_in_a_simulation_and_everybody_does_outside():
    async def sync():
        files.current.get().datasync(1 << 30)

    simulate.run(sync)
    with pytest.raises(OSError, match="file descriptor"):
        asyncio.run(sync())


def test_ctrl_c_ends_a_simulation_that_waits_for_ever():
    async def main(loop):
        def interrupt():
            outlast_idleness(loop)
            os.kill(os.getpid(), signal.SIGINT)
            loop.call_soon_threadsafe(int)  # it may just have been about to wait, and missed it

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            await loop.create_future()
        finally:
            thread.join()

    with pytest.raises(KeyboardInterrupt):
        in_asked_loop(main)


def test_what_another_thread_calls_off_is_not_called():
    async def main(loop):
        def call():
            loop.call_soon_threadsafe(called.append, "off").cancel()
            loop.call_soon_threadsafe(called.append, "on")

        called = []
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        await anyio.sleep(1)
        return called

    assert in_asked_loop(main) == ["on"]
