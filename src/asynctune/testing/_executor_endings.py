"""The contract of executors, the part about failures and the ends of trials."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynctune import track
from asynctune.errors import ExecutorError, NotSerializable, TrialError, TrialTimeout
from asynctune.executors.actor import Actor, ShutdownResult
from asynctune.executors.base import Executor
from asynctune.testing import trainables as given
from asynctune.testing._executor_harness import (
    COUNTERS,
    LOSSES,
    ExecutorHarness,
    Meeting,
    cancel_everywhere,
    is_readable,
    stops,
    watched,
)
from asynctune.trainable.base import Trainable


class EndingContract(ExecutorHarness):
    """However a trial ends, its error is reported, it is stopped once, and it leaves nothing behind."""

    # -- failures ------------------------------------------------------------------------------

    @pytest.mark.parametrize("raised", given.RAISED)
    @pytest.mark.parametrize(
        ("trainable", "method"),
        [
            (given.RaisesInSetup, "_setup"),
            (given.RaisesInTrain, "train"),
            (given.RaisesInAsyncTrain, "train"),
            (given.raises, "train"),
            (given.raises_async, "train"),
            (given.raises_in_generator, "train"),
        ],
    )
    async def test_an_exception_of_the_user_is_a_trial_error_with_its_traceback(
        self, trainable: Any, method: str, raised: str
    ) -> None:
        actor: Actor | None = None
        shut_down = ShutdownResult()

        async def use(pool: Executor) -> None:
            nonlocal actor, shut_down
            async with pool.actor(trainable, {"raised": raised}, grace_s=1) as actor:
                try:
                    with anyio.fail_after(10):
                        await actor.train()
                finally:
                    shut_down = await actor.shut_down(1)

        async with self.make_executor() as pool:
            with pytest.raises(TrialError, match=rf"failed in {method}\(\)") as caught:
                await use(pool)
            shown = "".join(traceback.format_exception(caught.value))
            assert 'raise RAISED[config["raised"]]' in shown
            assert 'raise RAISED[config["raised"]]' in str(caught.value.traceback)
            assert "boom" in shown
            assert shut_down.error is None, "after a failure it is stopped as usual"
            if trainable in (given.RaisesInTrain, given.RaisesInAsyncTrain):
                assert actor is not None
                assert stops(actor) == 1
            async with pool.actor(given.Counter) as another:
                assert (await another.train())["x"] == 1
            assert pool.pool.leased == 0

    @pytest.mark.parametrize(
        ("trainable", "name"),
        [
            (given.ReturnsOddValue, r"result\['outer'\]\['bad'\]\[0\]"),
            (given.reports_odd_value, r"result\['outer'\]\['bad'\]\[0\]"),
            (given.reports_huge_value, r"result\['huge'\]"),
        ],
    )
    async def test_a_result_that_cannot_travel_names_its_key(
        self, trainable: Any, name: str
    ) -> None:
        async with self.make_executor() as pool, pool.actor(trainable) as actor:
            with pytest.raises(TrialError, match=name) as caught:
                await actor.train()
            assert isinstance(caught.value.__cause__, NotSerializable)

    async def test_reporting_from_a_class_is_an_error_that_says_what_to_do(self) -> None:
        class Reports(Trainable):
            def _train(self) -> None:
                track.log(x=1)

        async with self.make_executor() as pool, pool.actor(Reports) as actor:
            with pytest.raises(TrialError, match="returns its results from _train"):
                await actor.train()

    async def test_restoring_what_is_not_there_is_an_error_that_names_it(
        self, tmp_path: Path
    ) -> None:
        async with self.make_executor() as pool, pool.actor(given.Counter) as actor:
            with pytest.raises(TrialError, match=r"restore\(\).*nowhere"):
                await actor.restore(str(tmp_path / "nowhere"))
            assert (await actor.train())["x"] == 1

    # -- stopping ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "function",
        [given.stop_plain, given.stop_async, given.stop_generator, given.stop_async_generator],
    )
    async def test_a_stop_reaches_the_function_and_its_finally_blocks_run(
        self, function: Any, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        async with self.make_executor() as pool, pool.actor(function, {"out": str(out)}) as actor:
            await actor.train()
            await actor.train()
            assert not out.exists()
        assert out.read_text().split() == ["True", "finally"]

    async def test_what_a_stopped_function_raises_instead_is_noted(self) -> None:
        async with self.make_executor() as pool:
            for function in (given.fails_when_stopped, given.fails_when_stopped_async):
                async with pool.actor(function) as actor:
                    await actor.train()
                    assert "ValueError: left behind" in str(await actor.stop())

    @pytest.mark.parametrize("function", [given.swallows, given.swallows_async])
    async def test_a_function_that_swallows_the_stop_is_ended_or_reported(
        self, function: Any, meeting: Meeting
    ) -> None:
        tasks = asyncio.all_tasks()
        async with self.make_executor() as pool:
            async with pool.actor(function, meeting.config) as actor:
                with watched((await actor.train())["pid"]) as process:
                    shut_down = await actor.shut_down(0.2)
                    assert isinstance(shut_down.error, TrialTimeout)
                    assert "did not end" in str(shut_down.error)
                    assert not self.can_kill or await is_readable(process)
            assert asyncio.all_tasks() == tasks
            meeting.let_go()
            async with pool.actor(given.Counter) as actor:
                assert (await actor.train())["x"] == 1

    async def test_leaving_the_block_ends_a_thread_that_hangs_or_says_that_it_cannot(
        self, meeting: Meeting, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.make_executor() as pool:
            with caplog.at_level(logging.WARNING, "asynctune"), anyio.move_on_after(10) as scope:
                async with pool.actor(given.Gated, meeting.config, grace_s=0.1) as actor:
                    train = asyncio.ensure_future(actor.train())
                    await meeting.begun()
                    train.cancel()
            assert not scope.cancelled_caught
            meeting.let_go()
            assert pool.pool.leased == 0
        assert self.can_kill or "cannot be killed" in caplog.text

    async def test_a_function_that_could_not_be_ended_is_never_kept_quiet(
        self, meeting: Meeting, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.make_executor() as pool:
            for _ in range(6):  # the executor or the trainable may look at its clock first
                with caplog.at_level(logging.WARNING, "asynctune"):
                    async with pool.actor(given.swallows, meeting.config, grace_s=0.05) as actor:
                        await actor.train()
                assert self.can_kill or caplog.records
                caplog.clear()
            for _ in range(6):  # at the end, or a slow thread would take the turn of the next one
                meeting.let_go()

    async def test_leaving_the_block_ends_an_async_function_that_never_reports(self) -> None:
        tasks = asyncio.all_tasks()
        async with self.make_executor() as pool:
            async with pool.actor(given.never_reports, grace_s=0.1) as actor:
                with anyio.move_on_after(0.1):
                    await actor.train()
            assert asyncio.all_tasks() == tasks

    async def test_a_result_that_was_under_way_when_the_stop_came_is_not_lost(
        self, meeting: Meeting
    ) -> None:
        async with self.make_executor() as pool, pool.actor(given.Gated, meeting.config) as actor:
            train = asyncio.ensure_future(actor.train())
            await meeting.begun()
            train.cancel()
            ending = asyncio.ensure_future(actor.shut_down(30))
            meeting.let_go()
            shut_down = await ending
            assert shut_down.late is not None
            assert shut_down.late.row["x"] == 1
            assert shut_down.error is None
        assert stops(actor) == 1

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_leaving_the_block_stops_also_when_an_exception_leaves_it(
        self, cls: type[Trainable]
    ) -> None:
        async with self.make_executor() as pool:
            with pytest.raises(LookupError, match="mine"):
                async with pool.actor(cls) as actor:
                    raise LookupError("mine")
            assert stops(actor) == 1
            async with pool.actor(cls) as actor:
                pass
            assert stops(actor) == 1

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_a_clean_up_that_fails_is_not_run_again(self, cls: type[Trainable]) -> None:
        async with self.make_executor() as pool:
            async with pool.actor(cls, {"stop_fails": True}) as actor:
                with pytest.raises(TrialError, match="the clean-up failed"):
                    await actor.stop()
            assert stops(actor) == 1
            async with pool.actor(cls, {"stop_fails": True}) as actor:
                shut_down = await actor.shut_down(10)
                assert "the clean-up failed" in str(shut_down.error)
            assert stops(actor) == 1

    async def test_a_clean_up_whose_wait_was_cancelled_is_not_run_again(
        self, meeting: Meeting
    ) -> None:
        async with self.make_executor() as pool:
            async with pool.actor(given.SlowStop, meeting.config) as actor:
                stop = asyncio.ensure_future(actor.stop())
                await meeting.begun()
                stop.cancel()
                await asyncio.wait([stop])
                meeting.let_go()
            assert stops(actor) == 1

    async def test_an_actor_does_one_thing_at_a_time(self, meeting: Meeting) -> None:
        async with self.make_executor() as pool, pool.actor(given.Gated, meeting.config) as actor:
            train = asyncio.ensure_future(actor.train())
            await meeting.begun()
            with pytest.raises(ExecutorError, match=r"save\(\).*train\(\)"):
                await actor.save()
            meeting.let_go()
            assert (await train)["x"] == 1

    async def test_a_stopped_actor_refuses_and_an_unknown_method_too(self) -> None:
        async with self.make_executor() as pool, pool.actor(given.Counter) as actor:
            with pytest.raises(AttributeError, match="fly"):
                await actor.call("fly")
            await actor.stop()
            with pytest.raises(ExecutorError, match=r"train\(\).*stopped"):
                await actor.train()
        with pytest.raises(ExecutorError, match=r"save\(\).*stopped"):
            await actor.save()
        assert stops(actor) == 1

    @pytest.mark.parametrize("trainable", [given.Counter, given.AsyncCounter, given.modern])
    async def test_a_cancellation_at_any_moment_leaks_nothing(self, trainable: Any) -> None:
        async with self.make_executor() as pool:

            async def scenario() -> None:
                async with pool.actor(trainable, LOSSES, grace_s=5) as actor:
                    await actor.train()
                    await actor.train()

            tasks = asyncio.all_tasks()
            await cancel_everywhere(scenario)
            assert pool.pool.leased == 0
            assert asyncio.all_tasks() == tasks
