"""Counts the survivors of ``kill -9`` of a driver or of a worker server, in every state of the workers.

Run as a module, this file is such a driver, which its parent kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from asynctune.callbacks.base import Callback
from asynctune.errors import WorkerDied
from asynctune.executors.process import ProcessExecutor
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status
from asynctune.runner.api import run
from harness.crashes import STATES, Hangs, fork_sleeper

LIMIT_S = 2.0
_READY_S = 60.0
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """A driver and its workers.

    Args:
        state: The state of its workers, one of :data:`STATES`.
        thread: Whether the pool was started in a thread, which has ended since.
        forked: Whether the driver has forked a child of its own, which stays alive.
    """

    state: str
    thread: bool = False
    forked: bool = False

    def __str__(self) -> str:
        origin = "short-lived thread" if self.thread else "main thread"
        return f"{self.state}, {origin}" + (", forked child" if self.forked else "")


CASES = tuple(Case(*parts) for parts in product(STATES, (False, True), (False, True)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a kill.

    Args:
        case: The killed case, as text.
        processes: The number of processes that should have ended.
        alive: The commands of the processes that were still alive two seconds later.
        seconds: The seconds from the kill to the end of the last process.
        faults: The other faults.
    """

    case: str
    processes: int
    alive: tuple[str, ...] = ()
    seconds: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether all processes ended, without another fault."""
        return not self.alive and not self.faults


class Census:
    """Processes by their pidfds, which stay valid if another process gets the same pid."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids: dict[int, int] = {}
        for pid in pids:
            self._pids[os.pidfd_open(pid)] = pid

    def __len__(self) -> int:
        return len(self._pids)

    def wait(self, limit_s: float) -> tuple[tuple[str, ...], float]:
        """Wait until all processes have ended, or the limit is over.

        Returns:
            The commands of the processes that are alive, and the seconds of the wait.
        """
        begin = time.monotonic()
        left = set(self._pids)
        while left:
            rest = begin + limit_s - time.monotonic()
            ended, _, _ = select.select(list(left), [], [], max(0.0, rest))
            left -= set(ended)
            if not ended:
                break
        return tuple(_command(self._pids[fd]) for fd in left), time.monotonic() - begin

    def close(self) -> None:
        """Kill the processes that are alive, and close the pidfds."""
        for descriptor in self._pids:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
        self._pids.clear()


class Told:
    """A FIFO to which processes write their roles and pids."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "fifo")
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)

    def read(self, count: int) -> list[tuple[str, int]]:
        """Wait for the entries of a number of processes."""
        text, end = b"", time.monotonic() + _READY_S
        while text.count(b" ") < count:
            if not select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(
                    f"only {text.count(b' ')} of {count} processes are ready: {text!r}"
                )
            text += os.read(self._fd, 4096)
        pairs = [word.split(":") for word in text.decode().split()]
        return [(role, int(pid)) for role, pid in pairs]

    def close(self) -> None:
        """Close the FIFO."""
        os.close(self._fd)


# -- the driver is killed -------------------------------------------------------------------------


class Driver:
    """A driver that is about to be killed."""

    def __init__(self, case: Case, folder: str) -> None:
        self.case = case
        self._told = Told(folder)
        arguments = [
            case.state,
            str(int(case.thread)),
            str(int(case.forked)),
            self._told.path,
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.orphans", *arguments],
            env=os.environ
            | {
                "ASYNCTUNE_RESULTS_DIR": folder,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdin=subprocess.DEVNULL,
        )

    def kill(self) -> Outcome:
        """Kill the driver when all its processes have started, and count the survivors."""
        case = self.case
        each = 3 if case.state == "children" else 1
        told = self._told.read(_WORKERS * each + case.forked)
        own = {pid for role, pid in told if role == "own"}
        tree = _family(self._process.pid) - own
        faults = [f"{role} {pid} is none of its processes" for role, pid in told
                  if pid not in tree | own]  # fmt: skip
        census, spared = Census(tree), Census(own)
        try:
            if case.state == "stopped":
                for role, pid in told:
                    if role == "worker":
                        os.kill(pid, signal.SIGSTOP)
            self._process.kill()
            alive, seconds = census.wait(LIMIT_S)
            if len(spared.wait(0)[0]) != case.forked:
                faults.append("its own child is gone")
            return Outcome(str(case), len(census), alive, seconds, tuple(faults))
        finally:
            census.close()
            spared.close()

    def close(self) -> None:
        """Kill the driver, and close its FIFO."""
        self._process.kill()
        self._process.wait()
        self._told.close()


def kill_drivers(cases: Sequence[Case]) -> list[Outcome]:
    """Prepare drivers side by side, kill one after another, and return the outcome of each kill."""
    with contextlib.ExitStack() as stack:
        drivers = []
        for case in cases:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            drivers.append(Driver(case, folder))
            stack.callback(drivers[-1].close)
        return [driver.kill() for driver in drivers]


async def _train(state: str, fifo: str, training: asyncio.Event) -> None:
    begun: list[asyncio.Future[Any]] = []

    async def one() -> None:
        async with pool.actor(Hangs, {"state": state, "fifo": fifo}) as actor:
            begun.append(asyncio.ensure_future(actor.train()))
            if len(begun) == _WORKERS:
                asyncio.get_running_loop().call_soon(training.set)
            await begun[-1]

    async with ProcessExecutor(_WORKERS) as pool, asyncio.TaskGroup() as tasks:
        for _ in range(_WORKERS):
            tasks.create_task(one())


def _drive(state: str, *, thread: bool, forked: bool, fifo: str) -> None:
    """Run as a driver until a signal kills this process."""
    loop = asyncio.new_event_loop()
    kept: list[asyncio.Task[None]] = []

    async def start() -> None:
        training = asyncio.Event()
        kept.append(asyncio.create_task(_train(state, fifo, training)))
        await training.wait()

    if thread:
        threading.Thread(target=loop.run_until_complete, args=(start(),)).start()
        for other in threading.enumerate():
            if other is not threading.current_thread():
                other.join()  # also those that the loop has started, and with them the server's
    else:
        loop.run_until_complete(start())
    if forked:
        pid = fork_sleeper()
        with open(fifo, "w", encoding="ascii") as file:
            file.write(f"own:{pid} ")
    if thread:
        signal.pause()
    loop.run_forever()


# -- the server is killed -------------------------------------------------------------------------


class _Failures(Callback):
    def __init__(self) -> None:
        self.types: dict[str, list[str]] = {}

    async def on_event(self, event: ev.Event) -> None:
        if isinstance(event, ev.TrialFailed):
            self.types.setdefault(event.trial_id, []).append(event.error_type)


def kill_servers(states: Sequence[str]) -> list[Outcome]:
    """For each state, run trials that hang, kill the server of their workers, and return the outcomes.

    All runs share one pool.
    """

    async def all_of_them() -> list[Outcome]:
        async with ProcessExecutor(_WORKERS) as pool:
            return [await _kill_server(pool, state) for state in states]

    return asyncio.run(all_of_them())


async def _kill_server(pool: ProcessExecutor, state: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Told(folder)) as told:
        failures = _Failures()
        tuned = asyncio.ensure_future(
            run(
                Hangs,
                config={"state": state, "fifo": told.path},
                num_samples=_WORKERS,
                max_failures=1,
                raise_on_failed_trial=False,
                executor=pool,
                callbacks=[failures],
                storage_path=folder,
                verbose=0,
                grace_s=0.5,
            )
        )
        each = 3 if state == "children" else 1
        try:
            pids = [pid for _, pid in await asyncio.to_thread(told.read, _WORKERS * each)]
            server = _parent(pool.pids[0])
            census = Census([server, *pids])
            try:
                if state == "stopped":
                    for pid in pids:
                        os.kill(pid, signal.SIGSTOP)
                os.kill(server, signal.SIGKILL)
                alive, seconds = await asyncio.to_thread(census.wait, LIMIT_S)
                processes = len(census)
            finally:
                census.close()
            analysis = await asyncio.wait_for(tuned, _READY_S)
        finally:
            tuned.cancel()
            await asyncio.wait([tuned])
        faults = []
        for trial in analysis.trials:
            if failures.types.get(trial.trial_id) != [WorkerDied.__name__]:
                faults.append(f"failures of a trial: {failures.types.get(trial.trial_id)}")
            if trial.status is not Status.TERMINATED or not trial.results:
                faults.append(f"a trial was not retried: {trial.status}")
        return Outcome(f"server killed, {state}", processes, alive, seconds, tuple(faults))


# -- small helpers --------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> str:
    """Count outcomes by case."""
    lines = [f"{'case':44} {'kills':>6} {'processes':>10} {'alive':>6} {'wrong':>6} {'slowest':>9}"]
    for name in [*dict.fromkeys(outcome.case for outcome in outcomes), None]:
        these = [o for o in outcomes if name is None or o.case == name]
        slowest = max((o.seconds for o in these), default=0.0)
        lines.append(
            f"{name or 'all':44} {len(these):6} {sum(o.processes for o in these):10} "
            f"{sum(len(o.alive) for o in these):6} {sum(bool(o.faults) for o in these):6} "
            f"{slowest * 1000:6.0f} ms"
        )
    return "\n".join(lines)


def _stat(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _family(of: int) -> set[int]:
    """Find the children of a process, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(_parent(int(name)), []).append(int(name))
    found: set[int] = set()
    ahead = [of]
    while ahead:
        children = parents.get(ahead.pop(), [])
        found.update(children)
        ahead += children
    return found


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip() or "a zombie"
    except OSError:
        return "it ended just now"


if __name__ == "__main__":
    _state, _thread, _forked, _fifo = sys.argv[1:]
    _drive(_state, thread=_thread == "1", forked=_forked == "1", fifo=_fifo)
