"""Ctrl-C, and being cancelled again: nothing that a run started is alive afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.experiment.status import StopReason

SCRIPT = """
import asyncio, os, sys, time
import asynctune as tune

def train(config):
    try:
        tune.report(step=0)
        for step in range(10**9):
            time.sleep(0.01)
            tune.report(step=step)
    finally:
        open(config["mark"] + tune.track.trial_id(), "w").close()

class Tell(tune.Callback):
    def on_trial_result(self, trial, result):
        print("pid", result["pid"], flush=True)

asyncio.run(tune.run(
    train, config={"mark": sys.argv[1]}, num_samples=2, max_concurrent_trials=2, verbose=0,
    callbacks=[Tell()],
))
"""


def wait_until_dead(pids, timeout=10.0):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                assert select.select([descriptor], [], [], timeout)[0], f"{pid} is alive"
            finally:
                os.close(descriptor)


def test_ctrl_c_under_asyncio_run_lets_trials_clean_up_and_leaves_nothing_alive(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    mark = str(tmp_path / "cleaned-")
    with subprocess.Popen(
        [sys.executable, str(script), mark],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ASYNCTUNE_RESULTS_DIR": str(tmp_path / "results")},
    ) as process:
        pids = set()
        while len(pids) < 2:
            pids.add(int(process.stdout.readline().split()[1]))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT
    wait_until_dead(pids)
    assert len(list(tmp_path.glob("cleaned-*"))) == 2
    (path,) = (tmp_path / "results").iterdir()
    trials = tune.Analysis(path).trials
    assert [trial.stop_reason for trial in trials] == [StopReason.CANCELLED] * 2


STUBBORN = """
import asyncio, os, sys, time
import asynctune as tune

class Stubborn(tune.Trainable):
    def _train(self):
        if self.iteration == 2 and os.environ["FIFO"]:
            with open(os.environ["FIFO"], "w") as file:
                file.write(f"{os.getpid()}\\n")
            while True:
                time.sleep(3600)
        return {"n": self.iteration + 1}
    def _save(self, directory):
        return {}
    def _restore(self, checkpoint):
        pass

asyncio.run(tune.run(
    Stubborn, name="stubborn",
    resume="AUTO", stop={"n": 4}, checkpoint_freq=1, grace_s=3600,
    num_samples=2, max_concurrent_trials=2, verbose=0,
))
"""


@pytest.mark.timing
def test_a_second_ctrl_c_kills_the_workers_within_two_seconds_and_it_can_be_resumed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STUBBORN)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    env = os.environ | {"ASYNCTUNE_RESULTS_DIR": str(tmp_path / "results")}
    env["FIFO"] = str(fifo)
    told = os.open(fifo, os.O_RDWR)
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL, env=env)
    try:
        pids, text = set(), b""
        while len(pids) < 2:
            assert select.select([told], [], [], 30)[0]
            text += os.read(told, 4096)
            pids = {int(word) for word in text.split()}
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # an hour of grace
        process.send_signal(signal.SIGINT)
        wait_until_dead(pids, timeout=2.0)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(told)
    (path,) = (tmp_path / "results").iterdir()
    assert [t.num_results for t in tune.Analysis(path).trials] == [2, 2]
    env["FIFO"] = ""
    subprocess.run([sys.executable, str(script)], env=env, check=True, capture_output=True)
    trials = tune.Analysis(path).trials
    assert [[row["n"] for row in trial.results] for trial in trials] == [[1, 2, 3, 4]] * 2


def never_ends(config):
    tune.report(step=0)
    threading.Event().wait()


@pytest.mark.asyncio
async def test_a_second_cancellation_ends_the_grace():
    async with ProcessExecutor(1) as pool:
        running, ending = asyncio.Event(), asyncio.Event()

        class Ready(tune.Callback):
            async def on_trial_result(self, trial, result):
                running.set()

        task = asyncio.create_task(
            tune.run(never_ends, executor=pool, grace_s=3600, callbacks=[Ready()], verbose=0)
        )
        await running.wait()
        task.cancel()
        asyncio.get_running_loop().call_soon(
            lambda: asyncio.get_running_loop().call_soon(ending.set)
        )
        await ending.wait()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.pids == []


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_a_run_cancelled_at_any_tick_leaves_nothing_behind(kind):
    """The fixtures look for tasks, threads, processes and files that are left."""

    async def steps(config):
        for step in range(3):
            await tune.report(step=step)

    async def cancelled_at(tick, pool):
        """Cancel a run at a tick of the loop; tell at which tick it was over."""
        task = asyncio.create_task(
            tune.run(steps, num_samples=4, executor=pool, loggers=[], verbose=0)
        )
        ticks = 0
        while ticks < tick and not task.done():
            await asyncio.sleep(0)
            ticks += 1
        finished = task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert finished or task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return ticks

    async with ProcessExecutor(2) if kind == "process" else InlineExecutor() as pool:
        undisturbed = await cancelled_at(10**9, pool)
        samples = 30 if kind == "process" else 150
        # The first ticks one by one: there the run is set up; later ones spread over the rest.
        ticks = {*range(samples // 2), *range(0, undisturbed, max(1, 2 * undisturbed // samples))}
        for tick in sorted(ticks):
            await cancelled_at(tick, pool)


@pytest.mark.asyncio
async def test_a_trial_that_swallows_its_stop_is_ended_after_the_grace():
    def swallows(config, reporter):
        while True:
            with contextlib.suppress(tune.TrialStopped):
                reporter(step=1)

    async with ProcessExecutor(1) as pool:
        async with tune.start(swallows, executor=pool, grace_s=0.2, verbose=0) as experiment:
            async for _ in experiment:
                experiment.stop()
                break
        assert experiment.trials[0].status == "TERMINATED"
        assert pool.pids == []
        assert "did not end" in Path(experiment.trials[0].logdir, "error.txt").read_text()


def test_a_handle_that_is_left_open_ends_with_its_loop(tmp_path):
    async def main():
        # No loggers: the loop's end cuts them in the middle of a file, whose rows the journal has.
        experiment = await tune.start(never_ends, num_samples=2, grace_s=0.1, loggers=[], verbose=0)
        async for _ in experiment:
            break
        return experiment

    experiment = asyncio.run(main())
    assert experiment.is_over


@pytest.mark.asyncio
@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.1])
async def test_a_scope_that_ends_while_workers_start_leaves_nothing(delay_s):
    with anyio.move_on_after(delay_s):
        await tune.run(never_ends, num_samples=2, grace_s=0.1, verbose=0)
