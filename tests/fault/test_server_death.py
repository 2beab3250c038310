"""When the worker server is killed its workers end, and their trials are told and tried again."""

from __future__ import annotations

import sys
import time
from contextlib import closing, suppress

import pytest

from asynctune import Trainable
from asynctune.errors import WorkerDied
from asynctune.executors import ProcessExecutor
from harness import orphans
from harness.crashes import STATES

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc, and waits for pidfds"
)


@pytest.mark.slow
@pytest.mark.timing
def test_a_killed_server_takes_its_workers_along_and_their_trials_are_tried_again():
    states = [STATES[turn % len(STATES)] for turn in range(10)]
    outcomes = orphans.kill_servers(states)
    assert [outcome for outcome in outcomes if not outcome.is_clean] == []
    assert len(outcomes) == 10
    assert {outcome.processes for outcome in outcomes} == {3, 7}, "the server is one of them"


DIES_AFTER_A_FORK = """
import os

def fork():
    pid = original()
    if pid and not os.path.exists({path!r}):
        with open({path!r}, "w") as file:
            file.write(str(pid))
        os.kill(os.getpid(), 9)
    return pid

original, os.fork = os.fork, fork
"""


class SleepsInSetup(Trainable):
    def _setup(self, config):
        time.sleep(600)

    def _train(self):
        return {}


def trains(config):
    return {"x": 1}


@pytest.mark.asyncio
async def test_a_worker_that_its_server_could_not_tell_of_any_more_is_ended(tmp_path, monkeypatch):
    path = tmp_path / "pid"
    (tmp_path / "dies_after_a_fork.py").write_text(DIES_AFTER_A_FORK.format(path=str(path)))
    monkeypatch.syspath_prepend(tmp_path)
    async with ProcessExecutor(1, preload=["dies_after_a_fork"]) as pool:
        with pytest.raises(WorkerDied, match="its server had ended"):
            async with pool.actor(SleepsInSetup):
                pass
        with suppress(ProcessLookupError), closing(orphans.Census([int(path.read_text())])) as left:
            assert left.wait(2.0)[0] == ()
        async with pool.actor(trains) as actor:
            assert (await actor.train())["x"] == 1
