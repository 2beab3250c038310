"""What is special to worker processes; what every executor keeps is in the contract tests.

Functions that are defined inside a test travel by value, so a worker knows nothing of this module.
"""

from __future__ import annotations

import asyncio
import errno
import linecache
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
import process_trainables as given
import pytest
from process_helpers import pid_of, watching
from process_trainables import THREAD_COUNTS, environ, pid

from asynctune import track
from asynctune.errors import ExecutorError, NotSerializable, TrialError
from asynctune.executors import ProcessExecutor

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and waits for pidfds"),
]


def out_of_files(*args):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("where", ["_spawn", "WorkerServer.fork"])
async def test_a_worker_that_cannot_be_started_for_want_of_files_names_their_limit(
    where, monkeypatch
):
    async with ProcessExecutor(1) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(f"asynctune.executors.worker_server.{where}", out_of_files)
            with pytest.raises(
                ExecutorError, match=r"no worker.*limit of open files \(ulimit -n\)"
            ):
                await pid_of(pool)
        assert await pid_of(pool) in pool.pids


# -- workers are used again, or not --------------------------------------------------------------


async def test_a_worker_is_used_again_and_its_pid_is_known():
    async with ProcessExecutor(1) as pool:
        first = await pid_of(pool)
        assert pool.pids == [first]
        assert await pid_of(pool) == first
        async with pool.actor(given.Idle):
            assert pool.pids == [first]
    assert pool.pids == []


@pytest.mark.parametrize(
    "leaves", [given.fails, given.changes_environment, given.leaves_child, given.leaves_thread]
)
async def test_a_worker_that_is_not_as_good_as_new_is_not_used_again(leaves):
    with watching() as watch:
        async with ProcessExecutor(1) as pool:
            async with pool.actor(leaves) as actor:
                row = await actor.train()
                watch.add(row["pid"], *([row["child"]] if "child" in row else []))
                with suppress(TrialError):
                    await actor.train()
            assert await watch.all_end()
            assert await pid_of(pool) != row["pid"]


async def test_what_a_trial_does_to_the_environment_no_other_sees(monkeypatch):
    monkeypatch.setenv("KEPT", "0")
    monkeypatch.setenv("REMOVED", "0")
    async with ProcessExecutor(1) as pool:
        for _ in range(2):
            async with pool.actor(given.changes_environment) as actor:
                assert (await actor.train())["seen"] == ["0", "0", None]
                assert (await actor.step()).ended


async def test_a_worker_that_held_a_gpu_or_has_another_environment_is_not_used_again(monkeypatch):
    async with ProcessExecutor(1, gpus=1) as pool:
        async with pool.actor(pid, resources={"gpu": 1}) as actor:
            held = (await actor.train())["pid"]
        assert held not in pool.pids, "it would go on to hold memory of the GPU"
        plain = await pid_of(pool)
        assert plain != held
        monkeypatch.setenv("ANOTHER", "1")
        other = await pid_of(pool)
        assert other not in (held, plain)
        assert await pid_of(pool, resources={"gpu": 1}) not in (held, plain, other)


async def test_a_worker_that_is_used_again_finds_what_can_be_imported_by_now(tmp_path, monkeypatch):
    async with ProcessExecutor(1) as pool:
        first = await pid_of(pool)
        (tmp_path / "new_module.py").write_text("def train(config):\n    return {'x': 1}\n")
        monkeypatch.syspath_prepend(tmp_path)
        import new_module

        async with pool.actor(new_module.train) as actor:
            assert (await actor.train()).items() >= {"x": 1, "pid": first}.items()


async def test_a_relative_logdir_is_one_below_the_callers_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with ProcessExecutor(1) as pool, pool.actor(pid, logdir="here") as actor:
        await actor.train()
        assert Path(actor.logdir) == tmp_path / "here"
        assert (tmp_path / "here" / "output.log").exists()


# -- shares: GPUs, threads -----------------------------------------------------------------------


async def test_gpus_are_lent_by_environment_and_fractions_share_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,9")

    async def visible(actor):
        return (await actor.train())["CUDA_VISIBLE_DEVICES"]

    async with ProcessExecutor(3) as pool:
        async with pool.actor(environ) as none, pool.actor(environ, resources={"gpu": 2}) as both:
            assert [await visible(none), await visible(both)] == ["", "7,9"]
        async with (
            pool.actor(environ, resources={"gpu": 0.5}) as one,
            pool.actor(environ, resources={"gpu": 0.5}) as half,
            pool.actor(environ, resources={"gpu": 1}) as whole,
        ):
            assert [await visible(actor) for actor in (one, half, whole)] == ["7", "7", "9"]


async def test_thread_counts_are_the_trials_cpus_unless_the_user_set_them(monkeypatch):
    for name in THREAD_COUNTS:
        monkeypatch.delenv(name, raising=False)
    async with ProcessExecutor(cpus=4) as pool:
        for cpu, threads in ((3, "3"), (0.5, "1"), (2, "2")):
            async with pool.actor(environ, resources={"cpu": cpu, "extra_cpu": 1}) as actor:
                row = await actor.train()
                assert {row[name] for name in THREAD_COUNTS} == {threads}
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        async with pool.actor(environ) as actor:
            row = await actor.train()
            assert (row["OMP_NUM_THREADS"], row["MKL_NUM_THREADS"]) == ("7", "1")
    assert "MKL_NUM_THREADS" not in os.environ


async def test_preloaded_modules_are_there_limited_and_seeded_anew(monkeypatch):
    pytest.importorskip("numpy")
    for name in THREAD_COUNTS:
        monkeypatch.delenv(name, raising=False)

    def draws(config):
        import sys

        loaded = "numpy" in sys.modules
        import numpy as np
        import threadpoolctl

        threads = [library["num_threads"] for library in threadpoolctl.threadpool_info()]
        drawn = np.random.rand()  # noqa: NPY002 - the generator that a fork would share
        track.log(loaded=loaded, drawn=drawn, threads=threads)

    async with (
        ProcessExecutor(2, preload=("numpy.random",)) as pool,
        pool.actor(draws) as one,
        pool.actor(draws) as other,
    ):
        rows = [await one.train(), await other.train()]
    assert [row["loaded"] for row in rows] == [True, True]
    assert [set(row["threads"]) for row in rows] == [{1}, {1}]
    assert rows[0]["pid"] != rows[1]["pid"]
    assert rows[0]["drawn"] != rows[1]["drawn"]


async def test_a_module_that_cannot_be_preloaded_is_an_error_that_names_it(capfd):
    with pytest.raises(Exception, match="no_such_module"):
        async with ProcessExecutor(1, preload=("no_such_module",)) as pool, pool.actor(pid):
            pass


async def test_a_worker_has_imported_little_before_the_users_code():
    def loaded(config):
        import sys

        track.log(modules=sorted(sys.modules))

    async with ProcessExecutor(1) as pool, pool.actor(loaded) as actor:
        modules = (await actor.train())["modules"]
    assert not {"anyio", "aiofiles", "numpy", "multiprocessing", "pytest"} & set(modules)
    ours = {name for name in modules if name.partition(".")[0] == "asynctune"}
    ours.discard("asynctune.track")  # what this function uses
    drivers = ("callbacks", "executors", "experiment", "runner", "schedulers", "suggest")
    assert not {name for name in ours if name.split(".")[1:2] and name.split(".")[1] in drivers}
    assert len(ours) <= 27  # each takes time at the start of the server, and memory in each worker
    assert "asynctune.trainable.worker.loop" in modules


# -- output --------------------------------------------------------------------------------------


async def test_output_by_whatever_way_goes_to_the_log_and_never_breaks_the_protocol():
    def prints(config):
        import ctypes
        import sys

        print("from print")
        track.log(before=Path(track.trial_dir(), "output.log").read_text())
        print("from stderr", file=sys.stderr)
        os.system("echo from a shell")
        os.write(1, b"from a descriptor\n")
        os.write(2, b"\0\xff\x1b[0m\n")
        print("a lone \ud800 surrogate")
        ctypes.CDLL(None).printf(b"from C\n")
        track.log(x=1)
        os.close(1)
        os.close(2)

    async with ProcessExecutor(1) as pool:
        async with pool.actor(prints) as actor:
            assert (await actor.train())["before"] == "from print\n", "it is there at once"
            assert (await actor.train())["x"] == 1
            assert (await actor.step()).ended
        text = Path(actor.logdir, "output.log").read_bytes()
        for line in (
            b"from stderr", b"from a shell", b"from a descriptor", b"\0\xff\x1b[0m",
            rb"a lone \ud800 surrogate", b"from C",
        ):  # fmt: skip
            assert line in text.splitlines()
        async with pool.actor(prints) as actor:
            assert (await actor.train())["before"] == "from print\n", (
                "and nothing of the last trial"
            )


async def test_a_trial_that_replaces_stdout_takes_nothing_of_the_next():
    def replaces(config):
        import io
        import sys

        print("from print")
        sys.stdout = io.StringIO()
        track.log()

    async with ProcessExecutor(1) as pool:
        for _ in range(2):
            async with pool.actor(replaces) as actor:
                await actor.train()
            assert Path(actor.logdir, "output.log").read_text() == "from print\n"


async def test_the_input_of_the_driver_is_not_the_trials():
    def reads(config):
        import sys

        track.log(read=sys.stdin.read(), descriptors=sorted(map(int, os.listdir("/proc/self/fd"))))

    async with ProcessExecutor(1) as pool, pool.actor(reads) as actor:
        row = await actor.train()
    assert row["read"] == ""
    # Input, output, errors, the channel, and the directory that is listed.
    assert len(row["descriptors"]) == 5


# -- code that travels, and what is not touched --------------------------------------------------

SCRIPT = """
import asyncio
import asynctune as tune
from asynctune import track
from asynctune.executors import ProcessExecutor

class Scale:
    def __init__(self, factor):
        self.factor = factor

def helper(scale, x):
    return scale.factor * x

def function(config):
    for x in range(3):
        track.log(x=helper(config["scale"], x + 1))

class Cls(tune.Trainable):
    def _train(self):
        return {"x": helper(self.config["scale"], self.iteration + 1)}

    def reset_config(self, new_config):
        self.config = new_config
        return True

async def main():
    async with ProcessExecutor(1) as pool:
        for trainable in (function, Cls):
            async with pool.actor(trainable, {"scale": Scale(2)}) as actor:
                print([(await actor.train())["x"] for _ in range(3)])
        async with pool.actor(Cls, {"scale": Scale(2)}) as actor:
            print(await actor.reset_config({"scale": Scale(5)}), (await actor.train())["x"])

asyncio.run(main())
"""


async def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, check=False, capture_output=True, text=True)
    )
    assert done.stdout.splitlines()[:2] == ["[2, 4, 6]", "[2, 4, 6]"], done.stderr
    assert done.stdout.splitlines()[2:] == ["True 5"], done.stderr
    assert done.stderr == ""


async def test_the_lines_of_a_notebook_cell_are_in_its_traceback():
    source = "def train(config):\n    raise ValueError('boom')  # in the cell\n"
    name = "/tmp/ipykernel_1/1234.py"
    namespace = {"__name__": "__main__"}
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        exec(compile(source, name, "exec"), namespace)
        async with ProcessExecutor(1) as pool, pool.actor(namespace["train"]) as actor:
            with pytest.raises(TrialError, match="boom") as caught:
                await actor.train()
    finally:
        del linecache.cache[name]
    assert "raise ValueError('boom')  # in the cell" in caught.value.traceback
    assert "raise ValueError('boom')  # in the cell" in str(caught.value.__cause__)


async def test_a_config_that_cannot_travel_is_an_error_that_names_the_key():
    def impossible():
        return {"outer": [1, {"lock": threading.Lock()}]}

    name = r"config\['outer'\]\[1\]\['lock'\]"
    async with ProcessExecutor(1) as pool:
        with pytest.raises(NotSerializable, match=name):
            async with pool.actor(pid, impossible()):
                pass
        async with pool.actor(pid) as actor:
            with pytest.raises(NotSerializable, match=name):
                await actor.reset_config(impossible())
            assert (await actor.train())["pid"] > 0


async def test_a_config_that_can_be_pickled_but_not_unpickled_fails_its_trial_alone():
    class Unloadable:
        def __reduce__(self):
            return (int, ("not a number",))

    async with ProcessExecutor(1) as pool:
        with pytest.raises(TrialError, match="not a number"):
            async with pool.actor(pid, {"x": Unloadable()}):
                pass
        assert await pid_of(pool) > 0


async def test_a_loop_in_a_thread_leaves_the_process_as_it_was():
    def state():
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.stdout, sys.stderr)
        return handlers, hooks, dict(os.environ), os.getcwd(), list(sys.path)

    async def use():
        async with ProcessExecutor(1) as pool, pool.actor(pid) as actor:
            during.append(state())
            return (await actor.train())["pid"]

    during, pids = [], []
    before = state()
    thread = threading.Thread(target=lambda: pids.append(asyncio.run(use())))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    assert pids
    assert [*during, state()] == [before, before]


async def test_pools_in_one_process_know_nothing_of_each_other():
    async with ProcessExecutor(1) as one:
        first = await pid_of(one)
        async with ProcessExecutor(1) as other:
            assert await pid_of(other) != first
        assert await pid_of(one) == first
