"""``kill -9`` of a driver leaves nothing alive, whatever its workers do and whoever started them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from asynctune import Trainable
from asynctune.errors import ExecutorError, WorkerDied
from asynctune.executors import ProcessExecutor
from harness import orphans
from harness.crashes import STATES

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc, and waits for pidfds"
)


@pytest.fixture
def told(tmp_path):
    told = orphans.Told(str(tmp_path))
    yield told
    told.close()


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("state", STATES)
def test_nothing_is_alive_two_seconds_after_kill_9_of_the_driver(state):
    cases = [case for case in orphans.CASES if case.state == state]
    assert len(cases) == 4, "from two threads, with and without a forked child of the driver"
    outcomes = orphans.kill_drivers(cases)
    assert [outcome for outcome in outcomes if not outcome.is_clean] == []
    assert [outcome.case for outcome in outcomes] == [str(case) for case in cases]
    # The server and two workers, each with its two children.
    assert {outcome.processes for outcome in outcomes} == {7 if state == "children" else 3}


def test_the_count_of_what_is_alive_counts():
    with subprocess.Popen(["sleep", "600"]) as child:
        census = orphans.Census([child.pid])
        alive, seconds = census.wait(0.05)
        census.close()
        assert alive == ("sleep 600",)
        assert seconds >= 0.05
        assert child.wait(10) == -9, "what was left is ended"


def test_a_server_that_is_still_importing_ends_with_its_driver(tmp_path, told):
    (tmp_path / "imports_for_ever.py").write_text(
        "import os, re\n"
        f"with open({told.path!r}, 'w') as fifo:\n"
        "    fifo.write(f'server:{os.getpid()} ')\n"
        "re.match(r'(a+)+$', 'a' * 60 + 'b')\n"
    )
    script = (
        "import asyncio\n"
        "from asynctune.executors.worker_server import WorkerServer\n"
        "asyncio.run(WorkerServer.start(['imports_for_ever'], print))\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )
    census = None
    try:
        census = orphans.Census([pid for _, pid in told.read(1)])
        driver.kill()
        assert census.wait(2.0)[0] == ()
    finally:
        driver.kill()
        driver.wait()
        if census is not None:
            census.close()


class Steady(Trainable):
    def _train(self):
        return {"step": 1}


@pytest.mark.asyncio
async def test_a_pool_that_is_left_while_its_server_starts_leaves_none(tmp_path, monkeypatch, told):
    async def use():
        async with pool.actor(Steady) as actor:
            await actor.train()

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "waits_at_the_gate.py").write_text(
        "import os\n"
        f"with open({told.path!r}, 'w') as fifo:\n"
        "    fifo.write(f'server:{os.getpid()} ')\n"
        f"open({str(gate)!r}).close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    async with ProcessExecutor(1, preload=["waits_at_the_gate"]) as pool:
        using = asyncio.ensure_future(use())
        ((_, server),) = await asyncio.to_thread(told.read, 1)
        census = await asyncio.to_thread(orphans.Census, [server])
        opening = asyncio.get_running_loop().call_later(0.05, lambda: gate.open("w").close())
    try:
        assert (await asyncio.to_thread(census.wait, 2.0))[0] == ()
        with pytest.raises((ExecutorError, WorkerDied), match=r"not open|its pool was closed"):
            await using
        assert pool.pids == []
    finally:
        opening.cancel()
        census.close()
