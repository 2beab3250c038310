"""A worker that was killed says whether the kernel lacked memory; one that cannot be started says why."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

import asynctune as tune
from asynctune import Trainable
from asynctune.errors import TrialError, WorkerDied
from asynctune.executors import ProcessExecutor
from asynctune.executors.worker_server import Death
from asynctune.experiment.status import Status
from asynctune.trainable.worker.server import oom_kills
from harness.crashes import FAULTS, Hangs
from harness.orphans import Told

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the counters are those of Linux")
MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("nr_free_pages 5\noom_kill 17\noom_kill_process 3\n", 17),
        ("nr_free_pages 5\n", None),
        ("oom_kill many\n", None),
        (None, None),
    ],
)
def test_the_counter_of_the_kernel_is_read_or_unknown(tmp_path, text, count):
    path = tmp_path / "vmstat"
    if text is not None:
        path.write_text(text)
    assert oom_kills(str(path)) == count


def test_the_counter_of_this_kernel_is_known():
    assert oom_kills("/proc/vmstat") >= 0


@pytest.mark.parametrize(
    ("status", "known", "text", "oom"),
    [
        (9, {"oom": True, "peak_rss": 3300 * MIB},
         ("killed by signal 9 (SIGKILL) during train(): the kernel's out-of-memory killer struck "
          "meanwhile; its peak memory was 3.2 GiB"), True),
        (9, {"oom": False, "peak_rss": 40 * MIB},
         "killed by signal 9 (SIGKILL) during train(); its peak memory was 40.0 MiB", False),
        (9, {}, "killed by signal 9 (SIGKILL, perhaps out of memory) during train()", False),
        (9, {"why": "its driver ended it", "oom": False, "peak_rss": 1},
         "ended during train(): its driver ended it", False),
        (15, {"oom": True, "peak_rss": 3}, "killed by signal 15 (SIGTERM) during train()", False),
        (3 << 8, {"peak_rss": 5}, "ended by itself with exit code 3 during train()", False),
        (None, {}, "ended during train()", False),
    ],
)  # fmt: skip
def test_the_text_of_a_death_says_what_is_known_of_it(status, known, text, oom):
    error = Death(status, **known).error("a_1", "train()")
    assert str(error).removeprefix("the worker of trial a_1 ").removeprefix("was ") == text
    assert (error.oom, error.peak_rss) == (oom, known.get("peak_rss"))


class Counted(ProcessExecutor):
    """Reads the counters of the kernel from the file of the test."""


@pytest.fixture
def vmstat(tmp_path, monkeypatch):
    path = tmp_path / "vmstat"
    path.write_text("oom_kill 5\n")
    monkeypatch.setattr(Counted, "_vmstat", str(path))
    return path


@pytest.fixture
def told(tmp_path):
    told = Told(str(tmp_path))
    yield told
    told.close()


class Dies(Trainable):
    """Takes memory, lets the counter of the kernel go to where the test wants it, and dies."""

    def _train(self):
        memory = bytearray(self.config.get("mib", 0) * MIB)
        memory[::4096] = b"x" * len(memory[::4096])
        if "counter" in self.config:
            Path(self.config["vmstat"]).write_text(f"oom_kill {self.config['counter']}\n")
        FAULTS[self.config.get("fault", "SIGKILL")].commit()


async def death_of(pool, trainable=Dies, **config):
    with pytest.raises(WorkerDied) as caught:
        async with pool.actor(trainable, config) as actor:
            await actor.train()
    return caught.value


@pytest.mark.asyncio
async def test_a_kill_is_put_down_to_lack_of_memory_if_the_kernel_struck_meanwhile(vmstat):
    async with Counted(1) as pool:
        error = await death_of(pool, vmstat=str(vmstat), counter=6, mib=100)
        assert error.oom
        assert error.signal == 9
        assert 100 * MIB < error.peak_rss < 300 * MIB
        assert "out-of-memory killer struck meanwhile; its peak memory was 1" in str(error)
        error = await death_of(pool)
        assert not error.oom, "that strike was for the one before"
        assert error.peak_rss < 100 * MIB
        assert "out-of-memory" not in str(error)
        error = await death_of(pool, vmstat=str(vmstat), counter=7, fault="SIGTERM")
        assert not error.oom, "it does not terminate, it kills"


@pytest.mark.asyncio
async def test_one_strike_of_the_kernel_is_the_death_of_one_worker(vmstat, told):
    config = {"state": "asleep", "fifo": told.path}
    async with Counted(3) as pool:
        deaths = [asyncio.ensure_future(death_of(pool, Hangs, **config)) for _ in range(3)]
        pids = [pid for _, pid in await asyncio.to_thread(told.read, 3)]
        vmstat.write_text("oom_kill 7\n")
        for pid in pids:
            os.kill(pid, 9)
        errors = await asyncio.gather(*deaths)
    assert sorted(error.oom for error in errors) == [False, True, True]


@pytest.mark.asyncio
async def test_without_a_counter_lack_of_memory_is_a_guess(vmstat):
    vmstat.unlink()
    async with Counted(1) as pool:
        error = await death_of(pool)
    assert not error.oom
    assert re.search(r"\(SIGKILL, perhaps out of memory\).*; its peak memory was", str(error))


FORKS_ONLY_SOMETIMES = """
import errno, os

def fork():
    if os.path.exists({path!r}):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return original()

original, os.fork = os.fork, fork
"""


@pytest.fixture
def full(tmp_path, monkeypatch):
    """While this file is there, no process can be forked."""
    path = tmp_path / "full"
    (tmp_path / "forks_only_sometimes.py").write_text(FORKS_ONLY_SOMETIMES.format(path=str(path)))
    monkeypatch.syspath_prepend(tmp_path)
    path.touch()
    return path


def trains(config):
    tune.report(x=1)


@pytest.mark.asyncio
async def test_a_worker_that_cannot_be_forked_is_an_error_that_says_why(full):
    said = r"no worker could be started for trial \w+: \[Errno 11\] Resource temporarily unavail"
    async with ProcessExecutor(2, preload=["forks_only_sometimes"]) as pool:
        with pytest.raises(WorkerDied, match=said) as caught:
            await tune.run(trains, num_samples=3, executor=pool, verbose=0)
        assert len(caught.value.failures) == 3
        assert all(re.match(said, str(error)) for error in caught.value.failures.values())
        with pytest.raises(TrialError, match=r"^no worker could be started: "):
            async with pool.actor(trains):
                pass
        assert pool.pids == []
        assert pool.pool.leased == 0
        full.unlink()
        analysis = await tune.run(trains, num_samples=3, executor=pool, verbose=0)
        assert [trial.status for trial in analysis.trials] == [Status.TERMINATED] * 3


@pytest.mark.asyncio
async def test_a_trial_whose_worker_could_not_be_forked_is_tried_again(full):
    class MakesRoom(tune.Callback):
        def on_trial_error(self, trial, error):
            full.unlink(missing_ok=True)

    async with ProcessExecutor(1, preload=["forks_only_sometimes"]) as pool:
        analysis = await tune.run(
            trains, executor=pool, callbacks=[MakesRoom()], max_failures=-1, verbose=0
        )
    (trial,) = analysis.trials
    assert trial.status is Status.TERMINATED
    assert trial.num_failures >= 1
