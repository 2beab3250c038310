"""One driver at a time, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

import asynctune as tune
from asynctune.errors import ExperimentLocked
from asynctune.executors import InlineExecutor
from asynctune.experiment.lock import ExperimentLock
from asynctune.storage.filesystem import FileSystem

HOLDER = """
import os, sys
from asynctune.storage.filesystem import FileSystem
from asynctune.experiment.lock import ExperimentLock
lock = ExperimentLock(sys.argv[1], FileSystem(), "journal")
lock.acquire()
if sys.argv[2] == "forks" and os.fork() == 0:
    os.write(1, f"child {os.getpid()}\\n".encode())
    os.read(0, 1)
    os._exit(0)
os.write(1, f"held {os.getpid()}\\n".encode())
os.read(0, 1)
"""


@contextlib.contextmanager
def held_by_another(directory, how):
    """A process that holds the lock, and perhaps has a forked child that lives on."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        told = dict(process.stdout.readline().split() for _ in range(1 + (how == "forks")))
        try:
            yield process, int(told.get("child", 0))
        finally:
            process.kill()
            if "child" in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(told["child"]), signal.SIGKILL)


@pytest.mark.parametrize("how", ["alone", "forks"])
def test_a_second_driver_is_refused_at_once_and_a_dead_one_leaves_nothing_locked(how, tmp_path):
    lock = ExperimentLock(str(tmp_path), FileSystem(), "journal")
    with held_by_another(tmp_path, how) as (process, child):
        with pytest.raises(ExperimentLocked, match=rf"run by process {process.pid} on ") as caught:
            lock.acquire()
        assert (caught.value.pid, caught.value.host) == (process.pid, socket.gethostname())
        process.kill()
        process.wait()
        if child:
            os.kill(child, 0)  # it lives on, and holds nothing
        lock.acquire()
    lock.release()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_second_driver_is_kept_out_even_if_somebody_has_removed_the_lock(tmp_path):
    first, second = (ExperimentLock(str(tmp_path), FileSystem(), "journal") for _ in range(2))
    with held_by_another(tmp_path, "forks") as (process, _):
        (tmp_path / "lock").unlink()
        for _ in range(2):
            with pytest.raises(ExperimentLocked):
                first.acquire()
        process.kill()
        process.wait()
        first.acquire()
    with pytest.raises(ExperimentLocked, match=f"run by process {os.getpid()} on "):
        second.acquire()
    first.release()


def test_a_forked_child_does_not_let_go_of_its_parents_lock(tmp_path):
    lock, other = (ExperimentLock(str(tmp_path), FileSystem(), "journal") for _ in range(2))
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(ExperimentLocked):
        other.acquire()
    lock.release()
    other.acquire()
    other.release()


@pytest.mark.asyncio
async def test_two_runs_of_one_experiment_exclude_each_other_in_one_process_too():
    class Steady(tune.Trainable):
        async def _train(self):
            return {"n": 1}

    given = {"name": "one", "verbose": 0, "num_samples": 1, "grace_s": 1}
    async with InlineExecutor(2) as pool:
        async with tune.start(Steady, executor=pool, **given) as experiment:
            async for _ in experiment:
                break
            for resume in (True, "AUTO", "errored"):
                with pytest.raises(ExperimentLocked, match=str(os.getpid())):
                    await tune.run(Steady, executor=pool, resume=resume, **given)
            experiment.stop()
        again = await tune.run(
            Steady, executor=pool, resume=True, stop={"training_iteration": 1}, **given
        )
    assert again.trials
