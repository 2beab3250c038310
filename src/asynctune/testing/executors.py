"""The contract of executors, as a test class to subclass. Needs pytest and pytest-asyncio.

::

    class TestMyExecutor(ExecutorContract):
        can_kill = False

        def make_executor(self):
            return MyExecutor(2)

The trainables of the tests are in :mod:`asynctune.testing.trainables`. They are pickled by reference, so
workers must be able to import this package. The suite needs Linux.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynctune import track
from asynctune.errors import ConfigError, ExecutorError
from asynctune.executors.base import Executor
from asynctune.function_runner import wrap_function
from asynctune.result import TRAINING_ITERATION
from asynctune.testing import trainables as given
from asynctune.testing._executor_endings import EndingContract
from asynctune.testing._executor_harness import (
    COUNTERS,
    LOSSES,
    alone,
    comparable,
    in_thread,
    stops,
)
from asynctune.trainable.base import Trainable


class ExecutorContract(EndingContract):
    """The promises of :class:`asynctune.executors.Executor`. Override :meth:`make_executor`.

    Attributes:
        can_kill: Whether code that does not return can be killed. An executor without this ability logs a
            warning with the words "cannot be killed" when it abandons such code.
        owns_cwd: Whether each trial has a process of its own, with a working directory and environment.
        captures_output: Whether the printed output of a trial goes to its own file.
    """

    # -- training, saving, restoring ----------------------------------------------------------

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_every_method_of_a_trainable_can_be_awaited(
        self, cls: type[Trainable], tmp_path: Path
    ) -> None:
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

    async def test_reset_config_is_false_for_what_does_not_override_it(self) -> None:
        async with self.make_executor() as pool:
            for trainable in (given.Losses, given.plain, given.async_plain):
                async with pool.actor(trainable, LOSSES) as actor:
                    assert await actor.reset_config(LOSSES) is False

    @pytest.mark.parametrize("cls", COUNTERS)
    async def test_the_results_are_those_of_the_same_class_alone(
        self, cls: type[Trainable]
    ) -> None:
        config = {"start": 2, "tuple": (1, 2)}
        async with self.make_executor() as pool, pool.actor(cls, config) as actor:
            rows = [comparable(await actor.train()) for _ in range(3)]
        assert rows == await in_thread(alone, cls, config, 3)
        assert rows[1]["pair"] == [1, {"2": None}]

    @pytest.mark.parametrize("form", given.FORMS)
    async def test_the_results_are_those_of_the_same_function_alone(self, form: str) -> None:
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
    async def test_one_actor_restores_what_another_saved(
        self, cls: type[Trainable], layout: str, by_object: bool
    ) -> None:
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
    async def test_a_function_goes_on_from_a_checkpoint_that_another_reported(
        self, function: Any
    ) -> None:
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
    async def test_trials_never_share_a_session_or_a_directory(
        self, trainable: Any, tmp_path: Path
    ) -> None:
        def expected(trial_id: str, iteration: int) -> dict[str, Any]:
            here = os.path.realpath(tmp_path / trial_id)
            cwd = here if self.owns_cwd else os.path.realpath(".")
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

    async def test_a_thread_of_a_function_reports_for_its_trial(self, tmp_path: Path) -> None:
        async with self.make_executor() as pool:
            if not self.owns_cwd:
                pytest.skip("trials share the process")
            for trial_id in ("t1", "t2"):
                logdir = tmp_path / trial_id
                async with self.trial(pool, given.whoami_in_thread, logdir, trial_id) as actor:
                    assert (await actor.train())["ids"][0] == trial_id
                    assert (await actor.step()).ended

    async def test_what_a_trial_prints_goes_to_its_own_file(self, tmp_path: Path) -> None:
        def prints(config: dict[str, Any]) -> None:
            for step in range(2):
                print(f"{track.trial_id()} prints {step}")
                track.log(step=step)

        async with self.make_executor() as pool:
            if not self.captures_output:
                pytest.skip("output is not captured")
            for trial_id in ("t1", "t2"):
                async with self.trial(pool, prints, tmp_path / trial_id, trial_id) as actor:
                    await actor.train()
                    await actor.train()
                log = (tmp_path / trial_id / "output.log").read_text()
                assert log == f"{trial_id} prints 0\n{trial_id} prints 1\n"

    async def test_a_config_is_the_trials_own(self) -> None:
        config: dict[str, Any] = {"nested": {"x": 1}}

        def changes(config: dict[str, Any]) -> dict[str, Any]:
            config["nested"]["x"] += 1
            return {"x": config["nested"]["x"]}

        async with self.make_executor() as pool:
            for _ in range(2):
                async with pool.actor(changes, config) as actor:
                    assert (await actor.train())["x"] == 2
        assert config == {"nested": {"x": 1}}

    async def test_many_actors_are_served(self) -> None:
        got: dict[int, list[int]] = {}

        async def one(pool: Executor, start: int) -> None:
            async with pool.actor(COUNTERS[start % 2], {"start": start}) as actor:
                got[start] = [(await actor.train())["x"] for _ in range(2)]

        async with self.make_executor() as pool:
            async with asyncio.TaskGroup() as tasks:
                for start in range(40):
                    tasks.create_task(one(pool, start))
            assert pool.pool.leased == 0
        assert got == {start: [start + 1, start + 2] for start in range(40)}

    async def test_two_functions_of_one_name_run_their_own_code(self) -> None:
        def make(number: int) -> Callable[[dict[str, Any]], None]:
            def train(config: dict[str, Any]) -> None:
                track.log(number=number)

            return train

        def train(config: dict[str, Any]) -> None:
            track.log(number="other code")

        async with self.make_executor() as pool:
            async with pool.actor(make(1)) as one, pool.actor(train) as other:
                assert (await one.train())["number"] == 1
                assert (await other.train())["number"] == "other code"
            for number in (2, 3):
                async with pool.actor(make(number)) as actor:
                    assert (await actor.train())["number"] == number

    # -- wrong use -----------------------------------------------------------------------------

    async def test_an_executor_that_is_not_open_says_so(self) -> None:
        pool = self.make_executor()
        for _ in range(2):
            with pytest.raises(ExecutorError, match="async with"):
                async with pool.actor(given.Counter):
                    pass
            async with pool, pool.actor(given.Counter) as actor:
                assert (await actor.train())["x"] == 1

    async def test_an_executor_of_another_loop_says_so(self) -> None:
        async with self.make_executor() as pool:

            async def use() -> None:
                async with pool.actor(given.Counter):
                    pass

            with pytest.raises(ExecutorError, match="another event loop"):
                await in_thread(asyncio.run, use())

    async def test_impossible_resources_are_an_error_that_carries_the_advice(self) -> None:
        async with self.make_executor() as pool:
            with pytest.raises(
                ConfigError, match=r"key of resources must be one of cpu, .*, got 'gpus'"
            ):
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
