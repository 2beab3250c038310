"""The executors that come with asynctune keep the contract of executors."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest

from asynctune import Trainable, TrialError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.testing import trainables as given
from asynctune.testing._executor_harness import cancel_everywhere, children, is_readable, watched
from asynctune.testing.executors import ExecutorContract


class TestProcessExecutor(ExecutorContract):
    def make_executor(self):
        return ProcessExecutor(2)

    async def test_a_cancellation_at_any_moment_leaves_no_worker_to_nobody(self):
        async def scenario():
            async with pool.actor(given.Counter, grace_s=5) as actor:
                await actor.train()

        async def look():
            async with pool.actor(given.Counter) as actor:
                used = (await actor.train())["pid"]
                pids.add(used)
                for pid in set(pool.pids) - {used}:
                    with suppress(ProcessLookupError), watched(pid) as process:
                        assert await is_readable(process, within_s=3), f"{pid} is nobody's"

        pids = set()
        async with ProcessExecutor(1) as pool:
            await cancel_everywhere(scenario, look)
        assert len(pids) > 1, "some of them were cancelled at work"

    @pytest.mark.slow
    async def test_a_cancellation_at_any_moment_leaves_no_process(self):
        async def scenario():
            async with ProcessExecutor(1) as pool, pool.actor(given.Counter, grace_s=5) as actor:
                await actor.train()

        async def look():
            gc.collect()  # a process that nobody waited for would warn now
            for pid in set(children()) - before:
                with suppress(ProcessLookupError), watched(pid) as process:
                    assert await is_readable(process), f"{pid} is alive"

        before = set(children())
        await cancel_everywhere(scenario, look)


class TestInlineExecutor(ExecutorContract):
    can_kill = False
    owns_cwd = False
    captures_output = False

    def make_executor(self):
        return InlineExecutor()

    async def test_more_hooks_that_block_work_at_once_than_a_loop_lends_threads(self):
        class Meets(Trainable):
            async def _setup(self, config):
                pass

            def _train(self):
                meeting.wait(40)
                return {"met": True}

        async def train():
            async with pool.actor(Meets) as actor:
                assert (await actor.train())["met"]

        there = int(anyio.to_thread.current_default_thread_limiter().total_tokens) + 1
        meeting = threading.Barrier(there)
        async with InlineExecutor() as pool, anyio.create_task_group() as tasks:
            for _ in range(there):
                tasks.start_soon(train)

    async def test_a_constructor_that_fails_while_a_thread_of_its_loop_works_can_be_abandoned(self):
        class Fails(Trainable):
            def __init__(self, config):
                super().__init__(config)
                raise LookupError("mine")

            def _setup(self, config):
                return self._start()

            async def _start(self):
                asyncio.get_running_loop().run_in_executor(None, gate.wait)

            def _train(self):
                return {}

        gate = threading.Event()
        late = threading.Timer(20, gate.set)
        late.start()
        async with InlineExecutor() as pool:
            with anyio.move_on_after(0.2) as scope:
                async with pool.actor(Fails):
                    pass
            assert scope.cancelled_caught
            assert not gate.is_set()
            late.cancel()
            gate.set()
            with pytest.raises(TrialError, match="mine"):
                async with pool.actor(Fails):
                    pass
