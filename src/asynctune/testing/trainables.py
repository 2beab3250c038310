"""The trainables of the contract of executors. Workers import this module, so it must import little."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import asynctune as tune
from asynctune import track
from asynctune.resources import Resources
from asynctune.result import Row
from asynctune.trainable.base import Trainable

# In async def both return an awaitable, which their types cannot tell.
_log: Any = track.log
_report: Any = tune.report


def announce(path: str) -> None:
    """Write a byte to a FIFO, so that its reader notices that this point was reached."""
    with open(path, "w") as fifo:
        fifo.write("x")


def wait_at(path: str) -> None:
    """Wait for a byte in a FIFO."""
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, 1)
    os.close(descriptor)


class Counter(Trainable):
    def _setup(self, config: dict[str, Any]) -> Any:
        self.x = config.get("start", 0)

    def _train(self) -> Any:
        self.x += 1
        row = {
            "x": self.x,
            "mean_loss": 1 / self.x,
            "pair": (1, {2: None}),
            "timesteps_this_iter": 3,
        }
        return {**row, "done": self.x >= 3}

    def _save(self, directory: str) -> Any:
        if self.config.get("layout") != "file":
            return {"x": self.x}
        Path(directory, "state").write_text(str(self.x))
        return f"{directory}/state"

    def _restore(self, state: Any) -> Any:
        self.x = state["x"] if isinstance(state, dict) else int(Path(state).read_text())

    def _export_model(self, formats: list[str], directory: str) -> Any:
        for name in formats:
            Path(directory, name).write_text(str(self.x))
        return {name: f"{directory}/{name}" for name in formats}

    def reset_config(self, new_config: dict[str, Any]) -> Any:
        self.config, self.x = new_config, new_config["start"]
        return True

    def _stop(self) -> Any:
        with Path(self.logdir, "stops").open("a") as file:
            file.write("stop\n")
        if self.config.get("stop_fails"):
            raise ValueError("the clean-up failed")


class AsyncCounter(Counter):
    async def _setup(self, config: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        Counter._setup(self, config)
        self.task = asyncio.current_task()

    async def _train(self) -> Any:
        await asyncio.sleep(0)
        assert asyncio.current_task() is self.task, "all hooks run in one task"
        return Counter._train(self)

    async def _save(self, directory: str) -> Any:
        return Counter._save(self, directory)

    async def _restore(self, state: Any) -> Any:
        Counter._restore(self, state)

    async def _export_model(self, formats: list[str], directory: str) -> Any:
        return Counter._export_model(self, formats, directory)

    async def reset_config(self, new_config: dict[str, Any]) -> Any:
        return Counter.reset_config(self, new_config)

    async def _stop(self) -> Any:
        await asyncio.sleep(0)
        Counter._stop(self)


class Gated(Counter):
    def _train(self) -> Any:
        announce(self.config["started"])
        wait_at(self.config["gate"])
        return super()._train()


class SlowStop(Counter):
    def _stop(self) -> Any:
        again = Path(self.logdir, "stops").exists()
        super()._stop()
        if not again:
            announce(self.config["started"])
            wait_at(self.config["gate"])


def plain(config: dict[str, Any]) -> None:
    for loss in config["losses"]:
        track.log(loss=loss)


def with_reporter(config: dict[str, Any], reporter: Any) -> None:
    for loss in config["losses"]:
        reporter(loss=loss)


def modern(config: dict[str, Any]) -> None:
    for loss in config["losses"]:
        tune.report({"loss": loss})


def scaled(config: dict[str, Any], factor: float) -> None:
    for loss in config["losses"]:
        track.log(loss=factor * loss)


def generator(config: dict[str, Any]) -> Iterator[Row]:
    for loss in config["losses"]:
        yield {"loss": loss}


async def async_plain(config: dict[str, Any]) -> None:
    for loss in config["losses"]:
        await _log(loss=loss)


async def async_with_reporter(config: dict[str, Any], reporter: Any) -> None:
    for loss in config["losses"]:
        await asyncio.sleep(0)
        await reporter(loss=loss)


async def async_generator(config: dict[str, Any]) -> AsyncIterator[Row]:
    for loss in config["losses"]:
        await asyncio.sleep(0)
        yield {"loss": loss}


class Bound:
    factor = 1

    def __call__(self, config: dict[str, Any]) -> None:
        scaled(config, self.factor)

    def method(self, config: dict[str, Any], reporter: Any) -> None:
        with_reporter(config, reporter)


FORMS: dict[str, Any] = {
    "def(config)": plain,
    "def(config, reporter)": with_reporter,
    "def with report": modern,
    "generator": generator,
    "partial": functools.partial(scaled, factor=1),
    "bound method": Bound().method,
    "callable object": Bound(),
    "async def(config)": async_plain,
    "async def(config, reporter)": async_with_reporter,
    "async generator": async_generator,
}


class Losses(Trainable):
    def _train(self) -> Any:
        return {"loss": self.config["losses"][self.iteration]}


def note(config: dict[str, Any], text: object) -> None:
    with open(config["out"], "a") as file:
        file.write(f"{text}\n")


def stop_plain(config: dict[str, Any]) -> None:
    try:
        while True:
            track.log(x=1)
    except StopIteration as exc:
        note(config, isinstance(exc, tune.TrialStopped))
        raise
    finally:
        note(config, "finally")


async def stop_async(config: dict[str, Any]) -> None:
    try:
        while True:
            await _log(x=1)
    except StopAsyncIteration as exc:
        note(config, isinstance(exc, tune.TrialStopped))
        raise
    finally:
        await asyncio.sleep(0)
        note(config, "finally")


def stop_generator(config: dict[str, Any]) -> Iterator[Row]:
    try:
        while True:
            yield {"x": 1}
    finally:
        note(config, sys.exc_info()[0] is GeneratorExit)
        note(config, "finally")


async def stop_async_generator(config: dict[str, Any]) -> AsyncIterator[Row]:
    try:
        while True:
            yield {"x": 1}
    finally:
        note(config, sys.exc_info()[0] is GeneratorExit)
        note(config, "finally")


def swallows(config: dict[str, Any]) -> None:
    try:
        while True:
            track.log(x=1)
    except tune.TrialStopped:
        wait_at(config["gate"])


async def swallows_async(config: dict[str, Any]) -> None:
    try:
        while True:
            await _log(x=1)
    except tune.TrialStopped:
        await asyncio.Event().wait()


async def never_reports(config: dict[str, Any]) -> None:
    await asyncio.Event().wait()


def fails_when_stopped(config: dict[str, Any]) -> None:
    try:
        track.log(x=1)
    finally:
        raise ValueError("left behind")


async def fails_when_stopped_async(config: dict[str, Any]) -> None:
    try:
        await _log(x=1)
    finally:
        raise ValueError("left behind")


def resumes(config: dict[str, Any], reporter: Any) -> None:
    start = reporter.checkpoint["x"] if reporter.checkpoint else 0
    for x in range(start + 1, start + 4):
        reporter(x=x, checkpoint={"x": x})


async def resumes_async(config: dict[str, Any]) -> None:
    checkpoint: Any = tune.get_checkpoint() or {"x": 0}
    start = checkpoint["x"]
    for x in range(start + 1, start + 4):
        await _report(x=x, checkpoint={"x": x})


class Odd(BaseException):
    """An exception that no ``except Exception`` catches."""


RAISED: dict[str, BaseException] = {
    "ValueError": ValueError("boom"),
    "SystemExit": SystemExit("boom"),
    "BaseException": Odd("boom"),
    "StopIteration": StopIteration("boom"),
    "CancelledError": asyncio.CancelledError("boom"),
}


def raise_it(config: dict[str, Any]) -> NoReturn:
    raise RAISED[config["raised"]]


class RaisesInSetup(Counter):
    def _setup(self, config: dict[str, Any]) -> Any:
        raise_it(config)


class RaisesInTrain(Counter):
    def _train(self) -> Any:
        raise_it(self.config)


class RaisesInAsyncTrain(AsyncCounter):
    async def _train(self) -> Any:
        await asyncio.sleep(0)
        raise_it(self.config)


def raises(config: dict[str, Any]) -> None:
    raise_it(config)


async def raises_async(config: dict[str, Any]) -> None:
    await asyncio.sleep(0)
    raise_it(config)


def raises_in_generator(config: dict[str, Any]) -> Iterator[Row]:
    yield from ()
    raise_it(config)


def reports_odd_value(config: dict[str, Any]) -> None:
    track.log(fine=1, outer={"bad": [object()]})


class ReturnsOddValue(Trainable):
    def _train(self) -> Any:
        return {"fine": 1, "outer": {"bad": [object()]}}


def reports_huge_value(config: dict[str, Any]) -> None:
    track.log(fine=1, huge="x" * (17 << 20))


class Whoami(Trainable):
    def _train(self) -> Any:
        logdir = os.path.realpath(self.logdir)
        return {
            "ids": [self.trial_id, self.trial_name],
            "dir": logdir,
            "cwd": os.path.realpath("."),
        }


def whoami() -> dict[str, Any]:
    ids = [track.trial_id(), track.trial_name()]
    directory = os.path.realpath(track.trial_dir())
    return {"ids": ids, "dir": directory, "cwd": os.path.realpath(".")}


def whoami_plain(config: dict[str, Any]) -> None:
    for _ in range(3):
        track.log(**whoami())


async def whoami_async(config: dict[str, Any]) -> None:
    for _ in range(3):
        await _log(**whoami())


def whoami_generator(config: dict[str, Any]) -> Iterator[Row]:
    for _ in range(3):
        yield whoami()


async def whoami_async_generator(config: dict[str, Any]) -> AsyncIterator[Row]:
    for _ in range(3):
        yield whoami()


def whoami_in_thread(config: dict[str, Any]) -> None:
    thread = threading.Thread(target=lambda: track.log(**whoami()))
    thread.start()
    thread.join()


class Greedy(Counter):
    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Resources:
        return Resources(cpu=config.get("cpu", 1))

    @classmethod
    def resource_help(cls, config: dict[str, Any]) -> str:
        return f"This one needs {config['cpu']} CPUs for its simulators."
