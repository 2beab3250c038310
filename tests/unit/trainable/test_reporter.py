"""StatusReporter, built and stopped by hand, over both kinds of primitives."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading

import pytest

from asynctune.errors import TrialStopped, TuneError
from asynctune.function_runner import StatusReporter

WAIT_S = 5.0


class Threaded:
    """Reports in a thread each, for plain functions."""

    stop_kind = StopIteration

    def __init__(self, size=1):
        self.queue, self.semaphore = queue.Queue(size), threading.Semaphore(0)
        self.reporter = StatusReporter(self.queue, self.semaphore, "name", "id", "/logdir")

    def begin(self, *reports):
        """Make reports one after another; return what gives the list of how each ended."""
        ended, over = [], threading.Event()

        def run():
            for metrics in reports:
                try:
                    ended.append(self.reporter(**metrics))
                except BaseException as exc:
                    ended.append(exc)
            over.set()

        threading.Thread(target=run, daemon=True).start()

        async def outcome():
            assert await asyncio.to_thread(over.wait, WAIT_S), "the report still waits"
            return ended

        outcome.ended = ended
        return outcome

    async def get(self):
        return await asyncio.to_thread(self.queue.get, True, WAIT_S)


class Asynchronous(Threaded):
    """Reports in a task each, for ``async def``."""

    stop_kind = StopAsyncIteration

    def __init__(self, size=1):
        self.queue, self.semaphore = asyncio.Queue(size), asyncio.Semaphore(0)
        self.reporter = StatusReporter(self.queue, self.semaphore, "name", "id", "/logdir")

    def begin(self, *reports):
        ended = []

        async def run():
            for metrics in reports:
                try:
                    ended.append(await self.reporter(**metrics))
                except Exception as exc:
                    ended.append(exc)

        task = asyncio.create_task(run())

        async def outcome():
            await asyncio.wait_for(task, WAIT_S)
            return ended

        outcome.ended = ended
        return outcome

    async def get(self):
        return await asyncio.wait_for(self.queue.get(), WAIT_S)


both = pytest.mark.parametrize("kind", [Threaded, Asynchronous])


def is_the_stop(exc, kind):
    return isinstance(exc, kind.stop_kind) and isinstance(exc, TrialStopped)


@pytest.mark.asyncio
@both
async def test_a_report_waits_until_it_is_let_go_and_returns_none(kind):
    k = kind()
    outcome = k.begin({"loss": 1, "nested": {"a": 2}}, {"loss": 2})
    first = await k.get()
    assert (first.pop("time_this_iter_s") >= 0, first) == (True, {"loss": 1, "nested": {"a": 2}})
    assert k.queue.empty()
    assert outcome.ended == []
    k.semaphore.release()
    assert (await k.get())["loss"] == 2
    assert outcome.ended == [None]
    k.semaphore.release()
    assert await outcome() == [None, None]


@pytest.mark.asyncio
@both
@pytest.mark.parametrize(("given", "kept"), [({"time_this_iter_s": 7}, True), ({}, False),
                                             ({"time_this_iter_s": None}, False),
                                             ({"time_this_iter_s": 0}, True)])  # fmt: skip
async def test_the_time_of_the_iteration_is_filled_in_unless_given(kind, given, kept):
    k = kind()
    outcome = k.begin({"done": True, **given})
    row = await k.get()
    assert row["done"] is True
    assert (
        row["time_this_iter_s"] == given["time_this_iter_s"]
        if kept
        else row["time_this_iter_s"] > 0
    )
    k.reporter.stop()
    assert is_the_stop((await outcome())[0], kind)


@pytest.mark.asyncio
@both
async def test_a_stop_is_raised_by_the_pending_report_and_by_each_later_one(kind):
    k = kind()
    outcome = k.begin(*[{"x": i} for i in range(4)])
    assert (await k.get())["x"] == 0
    k.reporter.stop()
    ended = await outcome()
    assert all(is_the_stop(exc, kind) for exc in ended)
    assert len(ended) == 4
    assert k.queue.empty(), "a stopped function has nothing to report"


@pytest.mark.asyncio
@both
@pytest.mark.parametrize("times", [1, 3])
async def test_a_stop_before_the_first_report_is_raised_by_it(kind, times):
    k = kind()
    for _ in range(times):
        k.reporter.stop()
    ended = await k.begin({"x": 1})()
    assert is_the_stop(ended[0], kind)
    assert not isinstance(ended[0], TuneError)
    assert k.queue.empty()


@pytest.mark.asyncio
@both
async def test_one_stop_reaches_all_reports_that_wait(kind):
    k = kind(size=3)
    outcomes = [k.begin({"x": i}) for i in range(3)]
    assert sorted([(await k.get())["x"] for _ in range(3)]) == [0, 1, 2]
    k.reporter.stop()
    ended = [(await outcome())[0] for outcome in outcomes]
    assert all(is_the_stop(exc, kind) for exc in ended)


@pytest.mark.asyncio
@both
async def test_reports_that_queue_up_come_one_by_one_and_then_the_stop_reaches_all(kind):
    k = kind(size=1)
    outcomes = [k.begin({"x": i}) for i in range(3)]
    seen = {(await k.get())["x"]}
    k.reporter.stop()
    while len(seen) < 3:  # those that already hold out a result are read, as a stopping driver does
        seen.add((await k.get())["x"])
    ended = [(await outcome())[0] for outcome in outcomes]
    assert all(is_the_stop(exc, kind) for exc in ended)


@pytest.mark.asyncio
@both
async def test_metrics_may_have_any_name(kind):
    k = kind()
    names = ["self", "metrics", "cls", "args", "not an identifier", "é", ""]
    outcome = k.begin(dict.fromkeys(names, 1))
    k.semaphore.release()
    assert await outcome() == [None]
    assert set(await k.get()) == {*names, "time_this_iter_s"}


@pytest.mark.asyncio
@both
async def test_what_is_queued_is_a_copy(kind):
    k, given = kind(), {"x": 1}
    outcome = k.begin(given)
    row = await k.get()
    given["x"] = 2
    k.reporter.stop()
    await outcome()
    assert row["x"] == 1
    assert "time_this_iter_s" not in given


@both
def test_it_knows_its_trial_and_has_no_checkpoint_at_first(kind):
    k = kind()
    r = k.reporter
    assert (r.trial_name, r.trial_id, r.logdir, r.checkpoint) == ("name", "id", "/logdir", None)
    bare = StatusReporter(k.queue, k.semaphore)
    assert (bare.trial_name, bare.trial_id, bare.logdir) == (None, None, None)
    for name in ("trial_name", "trial_id", "logdir", "checkpoint"):
        with pytest.raises(AttributeError):
            setattr(r, name, "x")


@pytest.mark.parametrize(
    ("results", "permits"),
    [(queue.Queue(1), asyncio.Semaphore(0)), (asyncio.Queue(1), threading.Semaphore(0)),
     (asyncio.Queue(1), None)],
    ids=["asyncio's semaphore", "asyncio's queue", "no semaphore"],
)  # fmt: skip
def test_primitives_of_two_kinds_are_refused_when_it_is_built(results, permits):
    with pytest.raises((TypeError, ValueError), match="StatusReporter"):
        StatusReporter(results, permits)


# -- only in async def --------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_asynchronous_report_does_not_block_its_loop():
    k, ticks = Asynchronous(), []
    outcome = k.begin({"x": 1})
    for _ in range(5):
        ticks.append(await asyncio.sleep(0, len(ticks)))
    assert outcome.ended == []
    k.semaphore.release()
    assert await outcome() == [None]


@pytest.mark.asyncio
async def test_cancelling_a_pending_report_is_a_cancellation():
    k = Asynchronous()
    task = asyncio.ensure_future(k.reporter(x=1))
    await k.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "how", ["gather", "tasks", "group", "wait_for", "timeout", "shield", "late"]
)
async def test_every_way_to_await_a_report_counts_as_awaiting_it(how):
    k = Asynchronous(size=2)

    async def function():
        r = k.reporter
        match how:
            case "gather":
                await asyncio.gather(r(x=1), r(x=2))
            case "tasks":
                await asyncio.wait([asyncio.create_task(r(x=1)), asyncio.create_task(r(x=2))])
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(r(x=1))
                    group.create_task(r(x=2))
            case "wait_for":
                await asyncio.wait_for(r(x=1), WAIT_S)
                await asyncio.wait_for(r(x=2), WAIT_S)
            case "timeout":
                async with asyncio.timeout(WAIT_S):
                    await r(x=1)
                    await r(x=2)
            case "shield":
                await asyncio.shield(r(x=1))
                await asyncio.shield(r(x=2))
            case "late":
                first, second = r(x=1), r(x=2)
                await first
                await second
        r.refuse_unawaited(at_end=True)

    k.semaphore.release()
    k.semaphore.release()
    await asyncio.wait_for(function(), WAIT_S)
    assert [k.queue.get_nowait()["x"], k.queue.get_nowait()["x"]] == [1, 2]


@pytest.mark.asyncio
@pytest.mark.parametrize("at_end", [False, True])
async def test_a_report_that_is_not_awaited_is_an_error_that_says_so_once(at_end):
    k = Asynchronous()
    forgotten = k.reporter(x=1)
    for _ in range(0 if at_end else 5):
        await asyncio.sleep(0)
    with pytest.raises(TuneError, match="await"):
        k.reporter.refuse_unawaited(at_end=True) if at_end else k.reporter(x=2)
    del forgotten
    k.semaphore.release()
    await asyncio.wait_for(k.reporter(x=3), WAIT_S)
    assert (await k.get())["x"] == 3
    assert k.queue.empty()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_asynchronous_report_outside_of_its_loop_is_refused_clearly():
    k, raised = Asynchronous(), None
    try:
        k.reporter(x=1)
    except Exception as exc:
        raised = f"{type(exc).__name__}: {exc}"
    gc.collect()  # that something was never awaited would be a warning in another test
    assert "TuneError" in raised
    assert "loop" in raised
