"""The contract of executors: inherit :class:`ExecutorContract` and override ``make_executor``.

What an executor cannot do it says in its flags ``can_kill``, ``owns_cwd`` and ``captures_output``;
the tests of that are skipped then. What is trained lies in ``executor_trainables``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import traceback
from pathlib import Path

import anyio
import executor_trainables as given
import pytest
from executor_harness import (
    ExecutorHarness,
    alone,
    cancel_everywhere,
    comparable,
    in_thread,
    is_readable,
    stops,
    watched,
)

from asynctune import track
from asynctune.errors import ConfigError, ExecutorError, NotSerializable, TrialError, TrialTimeout
from asynctune.executors.base import Farewell
from asynctune.function_runner import wrap_function
from asynctune.result import TRAINING_ITERATION
from asynctune.trainable import Trainable

COUNTERS = [given.Counter, given.AsyncCounter]
LOSSES = {"losses": [3.0, 2.0, 0.5]}


class ExecutorContract(ExecutorHarness):
    """What every executor keeps."""

    # -- training, saving, restoring ----------------------------------------------------------

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_every_method_of_a_trainable_can_be_awaited(self, cls, tmp_path):
        async with self.make_executor() as pool, pool.actor(cls, {"start": 4}) as actor:
            assert (await actor.train())["x"] == 5
            assert await actor.get_config() == {"start": 4}
            path, elsewhere = await actor.save(), await actor.save(str(tmp_path))
            assert Path(path).exists()
            assert Path(path).is_relative_to(actor.logdir)
            assert Path(elsewhere).relative_to(tmp_path).parts[0] == "checkpoint_1"
            state = await actor.save_to_object()
            assert (await actor.train())["x"] == 6
            await actor.restore(path)
            assert (await actor.train())["x"] == 6
            await actor.restore_from_object(state)
            assert (await actor.train())["x"] == 6
            await actor.delete_checkpoint(elsewhere)
            assert not Path(elsewhere).exists()
            exported = await actor.export_model(["a", "b"], str(tmp_path))
            assert exported == {name: f"{tmp_path}/{name}" for name in "ab"}
            assert (tmp_path / "a").read_text() == "6"
            assert Path((await actor.export_model("a"))["a"]).is_relative_to(actor.logdir)
            assert await actor.reset_config({"start": 10}) is True
            assert (await actor.train())["x"] == 11
            assert await actor.get_config() == {"start": 10}
            assert await actor.stop() is None
        assert stops(actor) == 1

    async def test_reset_config_is_false_for_what_does_not_override_it(self):
        async with self.make_executor() as pool:
            for trainable in (given.Losses, given.plain, given.async_plain):
                async with pool.actor(trainable, LOSSES) as actor:
                    assert await actor.reset_config(LOSSES) is False

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_the_results_are_those_of_the_same_class_alone(self, cls):
        config = {"start": 2, "tuple": (1, 2)}
        async with self.make_executor() as pool, pool.actor(cls, config) as actor:
            rows = [comparable(await actor.train()) for _ in range(3)]
        assert rows == await in_thread(alone, cls, config, 3)
        assert rows[1]["pair"] == [1, {"2": None}]

    @pytest.mark.parametrize("form", given.FORMS)
    async def test_the_results_are_those_of_the_same_function_alone(self, form):
        function = given.FORMS[form]
        async with self.make_executor() as pool, pool.actor(function, LOSSES) as actor:
            steps = [await actor.step() for _ in range(4)]
            assert "__duplicate__" in await actor.train(), (
                "after its end it repeats its last result"
            )
        assert [step.ended for step in steps] == [False, False, False, True]
        rows = [comparable(step.row) for step in steps]
        assert rows == await in_thread(alone, wrap_function(function), LOSSES, 4)
        assert rows[:3] == await in_thread(alone, given.Losses, LOSSES, 3)

    @pytest.mark.parametrize("by_object", [False, True])
    @pytest.mark.parametrize("layout", ["dict", "file"])
    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_one_actor_restores_what_another_saved(self, cls, layout, by_object):
        config = {"start": 1, "layout": layout}
        async with (
            self.make_executor() as pool,
            pool.actor(cls, config) as donor,
            pool.actor(cls, config) as heir,
        ):
            first = await donor.train()
            if by_object:
                await heir.restore_from_object(await donor.save_to_object())
            else:
                await heir.restore(await donor.save())
            row = await heir.train()
            assert comparable(row) | {"iterations_since_restore": 2} == comparable(
                await donor.train()
            )
            assert row["experiment_id"] == first["experiment_id"]

    @pytest.mark.parametrize("function", [given.resumes, given.resumes_async])
    async def test_a_function_goes_on_from_a_checkpoint_that_another_reported(self, function):
        async with self.make_executor() as pool:
            async with pool.actor(function) as donor:
                step = await donor.step()
                assert step.checkpoint
                assert "checkpoint" not in step.row
                path, state = await donor.save(), await donor.save_to_object()
            async with pool.actor(function) as heir, pool.actor(function) as other:
                await heir.restore(path)
                await other.restore_from_object(state)
                assert [(await actor.train())["x"] for actor in (heir, other)] == [2, 2]
                assert (await heir.train())[TRAINING_ITERATION] == 3

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
        self, trainable, method, raised
    ):
        async def use(pool):
            nonlocal actor, farewell
            async with pool.actor(trainable, {"raised": raised}, grace_s=1) as actor:
                try:
                    with anyio.fail_after(10):
                        await actor.train()
                finally:
                    farewell = await actor.farewell(1)

        actor, farewell = None, Farewell()
        async with self.make_executor() as pool:
            with pytest.raises(TrialError, match=rf"failed in {method}\(\)") as caught:
                await use(pool)
            shown = "".join(traceback.format_exception(caught.value))
            assert 'raise RAISED[config["raised"]]' in shown
            assert 'raise RAISED[config["raised"]]' in caught.value.traceback
            assert "boom" in shown
            assert farewell.error is None, "after a failure it is stopped as usual"
            if trainable in (given.RaisesInTrain, given.RaisesInAsyncTrain):
                assert stops(actor) == 1
            async with pool.actor(given.Counter) as actor:
                assert (await actor.train())["x"] == 1
            assert pool.pool.lent == 0

    @pytest.mark.parametrize(
        ("trainable", "name"),
        [
            (given.ReturnsOddValue, r"result\['outer'\]\['bad'\]\[0\]"),
            (given.reports_odd_value, r"result\['outer'\]\['bad'\]\[0\]"),
            (given.reports_huge_value, r"result\['huge'\]"),
        ],
    )
    async def test_a_result_that_cannot_travel_names_its_key(self, trainable, name):
        async with self.make_executor() as pool, pool.actor(trainable) as actor:
            with pytest.raises(TrialError, match=name) as caught:
                await actor.train()
            assert isinstance(caught.value.__cause__, NotSerializable)

    async def test_reporting_from_a_class_is_an_error_that_says_what_to_do(self):
        class Reports(Trainable):
            def _train(self):
                track.log(x=1)

        async with self.make_executor() as pool, pool.actor(Reports) as actor:
            with pytest.raises(TrialError, match="returns its results from _train"):
                await actor.train()

    async def test_restoring_what_is_not_there_is_an_error_that_names_it(self, tmp_path):
        async with self.make_executor() as pool, pool.actor(given.Counter) as actor:
            with pytest.raises(TrialError, match=r"restore\(\).*nowhere"):
                await actor.restore(str(tmp_path / "nowhere"))
            assert (await actor.train())["x"] == 1

    # -- stopping ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "function",
        [given.stop_plain, given.stop_async, given.stop_generator, given.stop_async_generator],
    )
    async def test_a_stop_reaches_the_function_and_its_finally_blocks_run(self, function, tmp_path):
        out = tmp_path / "out"
        async with self.make_executor() as pool, pool.actor(function, {"out": str(out)}) as actor:
            await actor.train()
            await actor.train()
            assert not out.exists()
        assert out.read_text().split() == ["True", "finally"]

    async def test_what_a_stopped_function_raises_instead_is_noted(self):
        async with self.make_executor() as pool:
            for function in (given.fails_when_stopped, given.fails_when_stopped_async):
                async with pool.actor(function) as actor:
                    await actor.train()
                    assert "ValueError: left behind" in (await actor.stop())

    @pytest.mark.parametrize("function", [given.swallows, given.swallows_async])
    async def test_a_function_that_swallows_the_stop_is_ended_or_reported(self, function, meeting):
        tasks = asyncio.all_tasks()
        async with self.make_executor() as pool:
            async with pool.actor(function, meeting.config) as actor:
                with watched((await actor.train())["pid"]) as process:
                    farewell = await actor.farewell(0.2)
                    assert isinstance(farewell.error, TrialTimeout)
                    assert "did not end" in str(farewell.error)
                    assert not pool.can_kill or await is_readable(process)
            assert asyncio.all_tasks() == tasks
            meeting.let_go()
            async with pool.actor(given.Counter) as actor:
                assert (await actor.train())["x"] == 1

    async def test_leaving_the_block_ends_a_thread_that_hangs_or_says_that_it_cannot(
        self, meeting, caplog
    ):
        async with self.make_executor() as pool:
            with caplog.at_level(logging.WARNING, "asynctune"), anyio.move_on_after(10) as scope:
                async with pool.actor(given.Gated, meeting.config, grace_s=0.1) as actor:
                    train = asyncio.ensure_future(actor.train())
                    await meeting.begun()
                    train.cancel()
            assert not scope.cancelled_caught
            meeting.let_go()
            assert pool.pool.lent == 0
        assert pool.can_kill or "cannot be killed" in caplog.text

    async def test_leaving_the_block_ends_an_async_function_that_never_reports(self):
        tasks = asyncio.all_tasks()
        async with self.make_executor() as pool:
            async with pool.actor(given.never_reports, grace_s=0.1) as actor:
                with anyio.move_on_after(0.1):
                    await actor.train()
            assert asyncio.all_tasks() == tasks

    async def test_a_result_that_was_under_way_when_the_stop_came_is_not_lost(self, meeting):
        async with self.make_executor() as pool, pool.actor(given.Gated, meeting.config) as actor:
            train = asyncio.ensure_future(actor.train())
            await meeting.begun()
            train.cancel()
            ending = asyncio.ensure_future(actor.farewell(30))
            meeting.let_go()
            farewell = await ending
            assert farewell.late is not None
            assert farewell.late.row["x"] == 1
            assert farewell.error is None
        assert stops(actor) == 1

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_leaving_the_block_stops_also_when_an_exception_leaves_it(self, cls):
        async with self.make_executor() as pool:
            with pytest.raises(LookupError, match="mine"):
                async with pool.actor(cls) as actor:
                    raise LookupError("mine")
            assert stops(actor) == 1
            async with pool.actor(cls) as actor:
                pass
            assert stops(actor) == 1

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_a_clean_up_that_fails_is_not_run_again(self, cls):
        async with self.make_executor() as pool:
            async with pool.actor(cls, {"stop_fails": True}) as actor:
                with pytest.raises(TrialError, match="the clean-up failed"):
                    await actor.stop()
            assert stops(actor) == 1
            async with pool.actor(cls, {"stop_fails": True}) as actor:
                farewell = await actor.farewell(10)
                assert "the clean-up failed" in str(farewell.error)
            assert stops(actor) == 1

    async def test_a_clean_up_whose_wait_was_cancelled_is_not_run_again(self, meeting):
        async with self.make_executor() as pool:
            async with pool.actor(given.SlowStop, meeting.config) as actor:
                stop = asyncio.ensure_future(actor.stop())
                await meeting.begun()
                stop.cancel()
                await asyncio.wait([stop])
                meeting.let_go()
            assert stops(actor) == 1

    async def test_an_actor_does_one_thing_at_a_time(self, meeting):
        async with self.make_executor() as pool, pool.actor(given.Gated, meeting.config) as actor:
            train = asyncio.ensure_future(actor.train())
            await meeting.begun()
            with pytest.raises(ExecutorError, match=r"save\(\).*train\(\)"):
                await actor.save()
            meeting.let_go()
            assert (await train)["x"] == 1

    async def test_a_stopped_actor_refuses_and_an_unknown_method_too(self):
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
    async def test_a_cancellation_at_any_moment_leaks_nothing(self, trainable):
        async with self.make_executor() as pool:

            async def scenario():
                async with pool.actor(trainable, LOSSES, grace_s=5) as actor:
                    await actor.train()
                    await actor.train()

            tasks = asyncio.all_tasks()
            await cancel_everywhere(scenario)
            assert pool.pool.lent == 0
            assert asyncio.all_tasks() == tasks

    # -- identity ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "trainable",
        [
            given.Whoami,
            given.whoami_plain,
            given.whoami_async,
            given.whoami_generator,
            given.whoami_async_generator,
        ],
    )
    async def test_trials_never_share_a_session_or_a_directory(self, trainable, tmp_path):
        def expected(trial_id, iteration):
            here = os.path.realpath(tmp_path / trial_id)
            cwd = here if pool.owns_cwd else os.path.realpath(".")
            return {"ids": [trial_id, f"name of {trial_id}"], "dir": here, "cwd": cwd,
                    TRAINING_ITERATION: iteration, "trial_id": trial_id}  # fmt: skip

        async with self.make_executor() as pool:
            for one, two in (("t1", "t2"), ("t3", "t4")):
                async with (
                    self.trial(pool, trainable, tmp_path / one, one) as first,
                    self.trial(pool, trainable, tmp_path / two, two) as second,
                ):
                    for iteration in (1, 2, 3):
                        for actor, trial_id in ((first, one), (second, two)):
                            wanted = expected(trial_id, iteration)
                            assert (await actor.train()).items() >= wanted.items()
                            assert os.path.realpath(actor.logdir) == wanted["dir"]

    async def test_a_thread_of_a_function_reports_for_its_trial(self, tmp_path):
        async with self.make_executor() as pool:
            if not pool.owns_cwd:
                pytest.skip("trials share the process")
            for trial_id in ("t1", "t2"):
                logdir = tmp_path / trial_id
                async with self.trial(pool, given.whoami_in_thread, logdir, trial_id) as actor:
                    assert (await actor.train())["ids"][0] == trial_id
                    assert (await actor.step()).ended

    async def test_what_a_trial_prints_goes_to_its_own_file(self, tmp_path):
        def prints(config):
            for step in range(2):
                print(f"{track.trial_id()} prints {step}")
                track.log(step=step)

        async with self.make_executor() as pool:
            if not pool.captures_output:
                pytest.skip("output is not captured")
            for trial_id in ("t1", "t2"):
                async with self.trial(pool, prints, tmp_path / trial_id, trial_id) as actor:
                    await actor.train()
                    await actor.train()
                log = (tmp_path / trial_id / "output.log").read_text()
                assert log == f"{trial_id} prints 0\n{trial_id} prints 1\n"

    async def test_a_config_is_the_trials_own(self):
        config = {"nested": {"x": 1}}

        def changes(config):
            config["nested"]["x"] += 1
            return {"x": config["nested"]["x"]}

        async with self.make_executor() as pool:
            for _ in range(2):
                async with pool.actor(changes, config) as actor:
                    assert (await actor.train())["x"] == 2
        assert config == {"nested": {"x": 1}}

    async def test_many_actors_are_served(self):
        got = {}

        async def one(pool, start):
            async with pool.actor(COUNTERS[start % 2], {"start": start}) as actor:
                got[start] = [(await actor.train())["x"] for _ in range(2)]

        async with self.make_executor() as pool:
            async with asyncio.TaskGroup() as tasks:
                for start in range(40):
                    tasks.create_task(one(pool, start))
            assert pool.pool.lent == 0
        assert got == {start: [start + 1, start + 2] for start in range(40)}

    async def test_two_functions_of_one_name_run_their_own_code(self):
        def make(number):
            def train(config):
                track.log(number=number)

            return train

        def train(config):
            track.log(number="other code")

        async with self.make_executor() as pool:
            async with pool.actor(make(1)) as one, pool.actor(train) as other:
                assert (await one.train())["number"] == 1
                assert (await other.train())["number"] == "other code"
            for number in (2, 3):
                async with pool.actor(make(number)) as actor:
                    assert (await actor.train())["number"] == number

    # -- wrong use -----------------------------------------------------------------------------

    async def test_an_executor_that_is_not_open_says_so(self):
        pool = self.make_executor()
        for _ in range(2):
            with pytest.raises(ExecutorError, match="async with"):
                async with pool.actor(given.Counter):
                    pass
            async with pool, pool.actor(given.Counter) as actor:
                assert (await actor.train())["x"] == 1

    async def test_an_executor_of_another_loop_says_so(self):
        async with self.make_executor() as pool:

            async def use():
                async with pool.actor(given.Counter):
                    pass

            with pytest.raises(ExecutorError, match="another event loop"):
                await in_thread(asyncio.run, use())

    async def test_impossible_resources_are_an_error_that_carries_the_advice(self):
        async with self.make_executor() as pool:
            with pytest.raises(ConfigError, match="unknown key 'gpus'"):
                async with pool.actor(given.Counter, resources={"gpus": 1}):
                    pass
            if math.isinf(pool.pool.cpus):
                pytest.skip("CPUs are not counted")
            for config, resources in (({"cpu": 9999}, None), ({"cpu": 1}, {"cpu": 9999})):
                advice = f"Greedy asks for 9999 cpu.*This one needs {config['cpu']} CPUs"
                with pytest.raises(ConfigError, match=advice):
                    async with pool.actor(given.Greedy, config, resources=resources):
                        pass
            async with pool.actor(given.Greedy, {"cpu": 1}) as actor:
                assert (await actor.train())["x"] == 1
