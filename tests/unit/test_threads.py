"""A call in a thread is finished, and undone if nobody takes its result."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest

from asynctune._threads import log_warning, run_in_thread, run_uninterrupted, thread_limiter

pytestmark = pytest.mark.asyncio


class OpenExperiment:
    """Something that is opened in a thread, when it may, and counts how often it was closed."""

    def __init__(self):
        self.may_open = threading.Event()
        self.closed = 0

    def open(self):
        self.may_open.wait()
        return self

    def close(self):
        self.closed += 1


async def test_a_call_of_ours_waits_for_no_thread_of_the_users():
    shared = anyio.to_thread.current_default_thread_limiter()
    busy = [object() for _ in range(int(shared.total_tokens))]
    for user in busy:
        await shared.acquire_on_behalf_of(user)
    with anyio.fail_after(20):
        assert await run_in_thread(threading.get_ident) != threading.get_ident()
        assert await run_uninterrupted(int, "3", undo=pytest.fail) == 3
        await log_warning("heard")
    for user in busy:
        shared.release_on_behalf_of(user)


async def test_a_loop_that_lets_one_thread_work_at_a_time_is_obeyed():
    shared = anyio.to_thread.current_default_thread_limiter()
    assert thread_limiter(7).total_tokens == 7
    shared.total_tokens = 1
    assert thread_limiter(7) is shared


async def test_a_result_comes_back_and_is_not_undone():
    opened = OpenExperiment()
    opened.may_open.set()
    assert await run_uninterrupted(opened.open, undo=OpenExperiment.close) is opened
    assert opened.closed == 0


async def test_an_exception_comes_back_and_there_is_nothing_to_undo():
    def fails():
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        await run_uninterrupted(fails, undo=pytest.fail)


async def test_a_task_that_is_cancelled_again_and_again_undoes_once_and_is_cancelled():
    opened = OpenExperiment()
    task = asyncio.create_task(run_uninterrupted(opened.open, undo=OpenExperiment.close))
    for _ in range(50):
        await asyncio.sleep(0)
        task.cancel()
    assert not task.done()
    opened.may_open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opened.closed == 1


async def test_a_cancelled_scope_gets_the_result_first_and_the_cancellation_at_its_next_wait():
    opened = OpenExperiment()
    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_later(0, opened.may_open.set)
        assert await run_uninterrupted(opened.open, undo=OpenExperiment.close) is opened
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert opened.closed == 0
