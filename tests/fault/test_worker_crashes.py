"""Whatever a trainable fails of, and wherever: its trial is told so, and nothing else is touched."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import asynctune as tune
from asynctune import Trainable, track
from asynctune.errors import NotSerializable, TrialError, WorkerDied
from asynctune.executors import ProcessExecutor
from asynctune.experiment.status import Status
from harness.crashes import FAULTS, Crashes, fork_sleeper

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="the signals are those of Linux"),
]
UNTOUCHED = ("none", "none too")
TRAVELS = ("_setup", "_restore", "_export_model", "reset_config", "_stop")
"""The phases of which the driver wants no value, or only its text."""


class Steady(Trainable):
    def _train(self):
        return {"step": self.iteration + 1, "pid": os.getpid()}


@asynccontextmanager
async def pool_with_bystander():
    """Lend a pool while one trial of it is alive; in the end that has to be as it was."""
    async with ProcessExecutor(4) as pool:
        async with pool.actor(Steady) as bystander:
            before = await bystander.train()
            with anyio.fail_after(40):
                yield pool
            after = await bystander.train()
            assert (before["step"], after["step"]) == (1, 2)
            assert after["pid"] == before["pid"]
            assert pool.pool.leased == 1
        async with pool.actor(Steady) as actor:
            assert (await actor.train())["step"] == 1
        assert pool.pool.leased == 0


def check(error, fault, phase, trial_id=None):
    """Hold an error to what is promised of it: what happened, where, and to whom."""
    said = FAULTS[fault].said
    if FAULTS[fault].kills:
        assert isinstance(error, WorkerDied)
        assert (error.signal, error.exitcode) == (FAULTS[fault].signal, FAULTS[fault].exitcode)
        assert re.search(rf"{said} during {phase}\(\)", str(error))
        assert error.oom is False
        assert error.peak_rss > 1 << 20
    else:
        assert type(error) is TrialError
        assert re.search(rf"(?s)failed in {phase}\(\): .*{said}", str(error))
        assert error.__cause__ is not None
        assert len(str(error)) < 100_000
    assert error.trial_id == trial_id
    if trial_id is not None:
        assert f"trial {trial_id}" in str(error)


async def crash_all(pool, phase, **arguments):
    """Run a trial for each fault, among some without; return the trials, by fault, and their errors."""
    failures = {}
    try:
        analysis = await tune.run(
            Crashes,
            config={
                "phase": phase,
                "fault": tune.grid_search([UNTOUCHED[0], *FAULTS, UNTOUCHED[1]]),
            },
            executor=pool,
            max_concurrent_trials=3,
            loggers=[],
            verbose=0,
            **arguments,
        )
    except TrialError as exc:
        failures, analysis = exc.failures, exc.analysis
    trials = {trial.config["fault"]: trial for trial in analysis.trials}
    assert len(trials) == len(FAULTS) + len(UNTOUCHED)
    for name in UNTOUCHED:
        trial = trials.pop(name)
        assert (trial.status, trial.error) == (Status.TERMINATED, None)
        assert [row["step"] for row in trial.results] == [1, 2, 3]
    return trials, failures


@pytest.mark.parametrize(
    ("phase", "said", "rows"),
    [
        ("_setup", "_setup", []),
        ("_train", "train", [1]),
        ("_save", "save", [1]),
        ("_restore", "restore", []),
        ("_export_model", "export_model", [1, 2, 3]),
    ],
)
async def test_a_crash_in_a_phase_is_the_error_of_its_trial(phase, said, rows, tmp_path):
    async with pool_with_bystander() as pool:
        arguments = {}
        if phase == "_save":
            arguments["checkpoint_freq"] = 1
        if phase == "_export_model":
            arguments["export_formats"] = ["model"]
        if phase == "_restore":
            async with pool.actor(Crashes) as actor:
                arguments["restore"] = await actor.save(str(tmp_path))
        trials, failures = await crash_all(pool, phase, **arguments)
    if phase in TRAVELS:
        assert trials.pop("unpicklable").status is Status.TERMINATED
    for fault, trial in trials.items():
        assert trial.status is Status.ERROR, fault
        check(failures[trial.trial_id], fault, said, trial.trial_id)
        if phase != "_restore":
            assert [row["step"] for row in trial.results] == rows
        assert str(trial.error).split("\n")[0] in Path(trial.logdir, "error.txt").read_text()
    assert len(failures) == len(trials)


async def test_a_crash_in_the_clean_up_is_noted_and_the_trial_has_ended_well():
    async with pool_with_bystander() as pool:
        trials, failures = await crash_all(pool, "_stop")
    assert failures == {}
    for fault, trial in trials.items():
        assert trial.status is Status.TERMINATED, fault
        assert [row["step"] for row in trial.results] == [1, 2, 3]
        if fault == "unpicklable":  # what a clean-up returns goes nowhere
            assert not Path(trial.logdir, "error.txt").exists()
            continue
        note = Path(trial.logdir, "error.txt").read_text()
        assert re.search(rf"(?s){FAULTS[fault].said}", note)
        assert ("during stop()" if FAULTS[fault].kills else "failed in stop()") in note
        assert f"trial {trial.trial_id}" in note


@pytest.mark.parametrize("phase", ["_stop", "reset_config"])
async def test_a_crash_is_raised_where_an_actor_is_awaited(phase):
    async def crash(fault):
        async with pool.actor(Crashes, {"phase": phase, "fault": fault}) as actor:
            await actor.train()
            if fault == "unpicklable" and phase == "_stop":
                assert await actor.stop() is None
                return
            if fault == "unpicklable":
                assert await actor.reset_config({})
                return
            with pytest.raises(TrialError) as caught:
                await (actor.stop() if phase == "_stop" else actor.reset_config({}))
            check(caught.value, fault, phase.lstrip("_"))

    async with pool_with_bystander() as pool, anyio.create_task_group() as tasks:
        for fault in FAULTS:
            tasks.start_soon(crash, fault)


MODULE = """
import os
from harness.crashes import FAULTS, Crashes

class Imported(Crashes):
    pass

if os.getpid() != {driver}:
    FAULTS[{fault!r}].commit()
"""


async def test_a_crash_in_the_import_of_the_trainable_is_told_from_one_in_its_setup(
    tmp_path, monkeypatch
):
    async def crash(number, fault):
        with pytest.raises(TrialError) as caught:
            async with pool.actor(modules[number].Imported):
                pass
        check(caught.value, fault, "import")

    monkeypatch.syspath_prepend(tmp_path)
    faults = [fault for fault in FAULTS if fault != "unpicklable"]
    for number, fault in enumerate(faults):
        text = MODULE.format(driver=os.getpid(), fault=fault)
        (tmp_path / f"crashes_at_import_{number}.py").write_text(text)
    modules = [
        importlib.import_module(f"crashes_at_import_{number}") for number in range(len(faults))
    ]
    async with pool_with_bystander() as pool, anyio.create_task_group() as tasks:
        for number, fault in enumerate(faults):
            tasks.start_soon(crash, number, fault)


async def test_a_value_that_cannot_travel_names_its_place():
    async with ProcessExecutor(1) as pool:
        config = {"phase": "_train", "fault": "unpicklable"}
        async with pool.actor(Crashes, config) as actor:
            await actor.train()
            with pytest.raises(TrialError, match=r"result\['value'\]") as caught:
                await actor.train()
            assert isinstance(caught.value.__cause__, NotSerializable)


# What else can be done to a worker from within


class ClosesEverything(Steady):
    def _train(self):
        os.closerange(3, 256)
        return super()._train()


async def test_a_worker_that_closes_its_channel_is_not_taken_for_one_out_of_memory():
    async with pool_with_bystander() as pool, pool.actor(ClosesEverything) as actor:
        with pytest.raises(WorkerDied, match="it closed its connection to the driver") as caught:
            await actor.train()
        assert "memory" not in str(caught.value)
        assert caught.value.signal == 9


class ForksAndComesBack(Steady):
    def _train(self):
        child = os.fork()
        if child == 0 and self.config["how"] == "raise":
            raise ValueError("in the child")
        if child == 0 and self.config["how"] == "exit":
            sys.exit(7)
        if child == 0:
            return {"step": -1}
        _, status = os.waitpid(child, 0)
        return {"step": 1, "code": os.waitstatus_to_exitcode(status)}


@pytest.mark.parametrize(("how", "code"), [("raise", 1), ("exit", 7), ("return", 0)])
async def test_a_forked_child_that_comes_back_does_not_answer_for_its_parent(how, code):
    async with pool_with_bystander() as pool, pool.actor(ForksAndComesBack, {"how": how}) as actor:
        for _ in range(2):
            assert (await actor.train()).items() >= {"step": 1, "code": code}.items()
        await actor.stop()
        said = Path(actor.logdir, "output.log").read_text()
        assert ("ValueError: in the child" in said) == (how == "raise")


def forks_and_comes_back(config):
    if os.fork() == 0:
        raise ValueError("in the child")
    os.wait()
    track.log(step=1)


async def test_a_forked_child_of_a_function_does_not_answer_for_its_parent():
    async with pool_with_bystander() as pool, pool.actor(forks_and_comes_back) as actor:
        assert (await actor.train())["step"] == 1


class KillsItsServer(Steady):
    def _train(self):
        fork_sleeper()
        os.kill(os.getppid(), 9)
        time.sleep(600)


async def test_a_trial_that_kills_the_server_does_not_keep_the_others_from_going_on():
    async with ProcessExecutor(2) as pool:
        with anyio.fail_after(40):
            async with pool.actor(KillsItsServer) as actor:
                with pytest.raises(WorkerDied, match=r"during train\(\): its server had ended"):
                    await actor.train()
            async with pool.actor(Steady) as actor:
                assert (await actor.train())["step"] == 1
