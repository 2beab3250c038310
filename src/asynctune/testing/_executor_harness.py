"""The tools of the contract of executors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest

from asynctune.executors.actor import Actor, ActorSpec
from asynctune.executors.base import Executor
from asynctune.resources import Resources
from asynctune.result import AUTO_FILLED, TIMESTEPS_TOTAL, TRAINING_ITERATION, normalise
from asynctune.testing import trainables as given
from asynctune.trainable.base import Trainable

COUNTERS = [given.Counter, given.AsyncCounter]
LOSSES = {"losses": [3.0, 2.0, 0.5]}
COMPARED = {"done", "config", TRAINING_ITERATION, TIMESTEPS_TOTAL, "iterations_since_restore"}


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    left_out = AUTO_FILLED - COMPARED  # ids, times, hosts
    return {key: value for key, value in normalise(row).items() if key not in left_out}


def alone(cls: type[Trainable], config: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    """Train outside of an executor, and return the rows."""
    trainable = cls(config)
    rows = [comparable(trainable.train()) for _ in range(steps)]
    trainable.stop()
    return rows


def stops(actor: Actor) -> int:
    return Path(actor.logdir, "stops").read_text().count("stop")


async def in_thread(function: Any, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


async def is_readable(descriptor: int, within_s: float = 10.0) -> bool:
    """Wait for a byte in a FIFO, or for the end of a pidfd's process. Return whether it came in time."""
    with anyio.move_on_after(within_s) as scope:
        await anyio.wait_readable(descriptor)
    return not scope.cancelled_caught


def children() -> list[int]:
    """Return the pids of the children of this process, zombies included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


@contextmanager
def watched(pid: int) -> Iterator[int]:
    """Yield a pidfd, which refers to this process even if another one gets its number."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Meeting:
    """A meeting point of a test and its trainable, in whatever process: two FIFOs, so that no code polls.

    Args:
        directory: The directory of the FIFOs.

    Attributes:
        config: The configuration of the trainable, with the paths of the FIFOs.
    """

    def __init__(self, directory: Path) -> None:
        self.config = {name: str(directory / name) for name in ("started", "gate")}
        for path in self.config.values():
            os.mkfifo(path)
        # Reading and writing: opening blocks neither side.
        self._open = {name: os.open(path, os.O_RDWR) for name, path in self.config.items()}

    async def begun(self) -> None:
        """Wait until the trainable has announced itself."""
        assert await is_readable(self._open["started"])
        os.read(self._open["started"], 1)

    def let_go(self) -> None:
        """Let the trainable continue that waits, or will wait."""
        os.write(self._open["gate"], b"x")

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class CancelledAt:
    """Awaits a coroutine, and cancels its task when the coroutine suspends for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], n: int) -> None:
        self.coroutine, self.n, self.was_reached = coroutine, n, False

    def __await__(self) -> Generator[Any, Any, Any]:
        act: Any = self.coroutine.send
        argument: Any = None
        suspensions = 0
        while True:
            try:
                waiting = act(argument)
            except StopIteration as stop:
                return stop.value
            if suspensions == self.n:
                self.was_reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            suspensions += 1
            try:
                yield waiting
            except BaseException as exc:
                act, argument = self.coroutine.throw, exc
            else:
                act, argument = self.coroutine.send, None


async def cancel_everywhere(
    scenario: Callable[[], Coroutine[Any, Any, Any]],
    afterwards: Callable[[], Coroutine[Any, Any, Any]] | None = None,
) -> None:
    """Run a coroutine function again and again, and cancel each run one suspension later.

    Args:
        scenario: The coroutine function.
        afterwards: A coroutine function that is called after each cancelled run, to check its traces.
    """
    for n in range(1000):
        run = CancelledAt(scenario(), n)
        task = asyncio.ensure_future(_awaited(run))
        await asyncio.wait([task])
        try:
            if not run.was_reached:
                task.result()
                return
            assert task.cancelled(), f"the cancelled scenario ended with {task!r}"
            if afterwards is not None:
                await afterwards()
        except BaseException as exc:
            exc.add_note(f"The scenario was cancelled at its suspension number {n}.")
            raise
    raise AssertionError("the scenario does not end")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


class ExecutorHarness:
    """The base of the contract of executors: creates executors, and actors as a run does."""

    pytestmark = pytest.mark.asyncio
    can_kill: ClassVar[bool] = True
    owns_cwd: ClassVar[bool] = True
    captures_output: ClassVar[bool] = True

    def make_executor(self) -> Executor:
        """Return a new executor, not yet open, for at least two actors of one CPU at once."""
        raise NotImplementedError(f"{type(self).__name__} must override make_executor()")

    @pytest.fixture(autouse=True)
    def _results_dir(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(tmp_path / "results"))

    @pytest.fixture
    def meeting(self, tmp_path: Path) -> Iterator[Meeting]:
        meeting = Meeting(tmp_path)
        yield meeting
        meeting.close()

    @asynccontextmanager
    async def trial(
        self, pool: Executor, trainable: Any, logdir: Path, trial_id: str, grace_s: float = 10.0
    ) -> AsyncIterator[Actor]:
        """Lease an actor as a run does."""
        serialized = await in_thread(pool.prepare, trainable)
        with await pool.slots.lease(Resources(), self) as lease:
            ids: dict[str, Any] = {
                "trial_id": trial_id,
                "trial_name": f"name of {trial_id}",
                "tag": "x=1",
            }
            log = str(logdir / "output.log")
            spec = ActorSpec(
                serialized, {}, lease.share, str(logdir), log=log, grace_s=grace_s, **ids
            )
            async with pool.start(spec) as actor:
                yield actor
