"""What the contract of executors trains. Workers import this module, so it imports little."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
from pathlib import Path

import asynctune as tune
from asynctune import track
from asynctune.resources import Resources
from asynctune.trainable.base import Trainable


def announce(path):
    """Tell whoever reads the FIFO that this point was reached."""
    with open(path, "w") as fifo:
        fifo.write("x")


def wait_at(path):
    """Wait for a byte in the FIFO."""
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, 1)
    os.close(descriptor)


class Counter(Trainable):
    def _setup(self, config):
        self.x = config.get("start", 0)

    def _train(self):
        self.x += 1
        row = {
            "x": self.x,
            "mean_loss": 1 / self.x,
            "pair": (1, {2: None}),
            "timesteps_this_iter": 3,
        }
        return {**row, "done": self.x >= 3}

    def _save(self, directory):
        if self.config.get("layout") != "file":
            return {"x": self.x}
        Path(directory, "state").write_text(str(self.x))
        return f"{directory}/state"

    def _restore(self, state):
        self.x = state["x"] if isinstance(state, dict) else int(Path(state).read_text())

    def _export_model(self, formats, directory):
        for name in formats:
            Path(directory, name).write_text(str(self.x))
        return {name: f"{directory}/{name}" for name in formats}

    def reset_config(self, new_config):
        self.config, self.x = new_config, new_config["start"]
        return True

    def _stop(self):
        with Path(self.logdir, "stops").open("a") as file:
            file.write("stop\n")
        if self.config.get("stop_fails"):
            raise ValueError("the clean-up failed")


class AsyncCounter(Counter):
    async def _setup(self, config):
        await asyncio.sleep(0)
        Counter._setup(self, config)
        self.task = asyncio.current_task()

    async def _train(self):
        await asyncio.sleep(0)
        assert asyncio.current_task() is self.task, "all hooks run in one task"
        return Counter._train(self)

    async def _save(self, directory):
        return Counter._save(self, directory)

    async def _restore(self, state):
        Counter._restore(self, state)

    async def _export_model(self, formats, directory):
        return Counter._export_model(self, formats, directory)

    async def reset_config(self, new_config):
        return Counter.reset_config(self, new_config)

    async def _stop(self):
        await asyncio.sleep(0)
        Counter._stop(self)


class Gated(Counter):
    def _train(self):
        announce(self.config["started"])
        wait_at(self.config["gate"])
        return super()._train()


class SlowStop(Counter):
    def _stop(self):
        again = Path(self.logdir, "stops").exists()
        super()._stop()
        if not again:
            announce(self.config["started"])
            wait_at(self.config["gate"])


def plain(config):
    for loss in config["losses"]:
        track.log(loss=loss)


def with_reporter(config, reporter):
    for loss in config["losses"]:
        reporter(loss=loss)


def modern(config):
    for loss in config["losses"]:
        tune.report({"loss": loss})


def scaled(config, factor):
    for loss in config["losses"]:
        track.log(loss=factor * loss)


def generator(config):
    for loss in config["losses"]:
        yield {"loss": loss}


async def async_plain(config):
    for loss in config["losses"]:
        await track.log(loss=loss)


async def async_with_reporter(config, reporter):
    for loss in config["losses"]:
        await asyncio.sleep(0)
        await reporter(loss=loss)


async def async_generator(config):
    for loss in config["losses"]:
        await asyncio.sleep(0)
        yield {"loss": loss}


class Bound:
    factor = 1

    def __call__(self, config):
        scaled(config, self.factor)

    def method(self, config, reporter):
        with_reporter(config, reporter)


FORMS = {
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
    def _train(self):
        return {"loss": self.config["losses"][self.iteration]}


def note(config, text):
    with open(config["out"], "a") as file:
        file.write(f"{text}\n")


def stop_plain(config):
    try:
        while True:
            track.log(x=1)
    except StopIteration as exc:
        note(config, isinstance(exc, tune.TrialStopped))
        raise
    finally:
        note(config, "finally")


async def stop_async(config):
    try:
        while True:
            await track.log(x=1)
    except StopAsyncIteration as exc:
        note(config, isinstance(exc, tune.TrialStopped))
        raise
    finally:
        await asyncio.sleep(0)
        note(config, "finally")


def stop_generator(config):
    try:
        while True:
            yield {"x": 1}
    finally:
        note(config, sys.exc_info()[0] is GeneratorExit)
        note(config, "finally")


async def stop_async_generator(config):
    try:
        while True:
            yield {"x": 1}
    finally:
        note(config, sys.exc_info()[0] is GeneratorExit)
        note(config, "finally")


def swallows(config):
    try:
        while True:
            track.log(x=1)
    except tune.TrialStopped:
        wait_at(config["gate"])


async def swallows_async(config):
    try:
        while True:
            await track.log(x=1)
    except tune.TrialStopped:
        await asyncio.Event().wait()


async def never_reports(config):
    await asyncio.Event().wait()


def fails_when_stopped(config):
    try:
        track.log(x=1)
    finally:
        raise ValueError("left behind")


async def fails_when_stopped_async(config):
    try:
        await track.log(x=1)
    finally:
        raise ValueError("left behind")


def resumes(config, reporter):
    start = reporter.checkpoint["x"] if reporter.checkpoint else 0
    for x in range(start + 1, start + 4):
        reporter(x=x, checkpoint={"x": x})


async def resumes_async(config):
    start = (tune.get_checkpoint() or {"x": 0})["x"]
    for x in range(start + 1, start + 4):
        await tune.report(x=x, checkpoint={"x": x})


class Odd(BaseException):
    """Something that no ``except Exception`` catches."""


RAISED = {
    "ValueError": ValueError("boom"),
    "SystemExit": SystemExit("boom"),
    "BaseException": Odd("boom"),
    "StopIteration": StopIteration("boom"),
    "CancelledError": asyncio.CancelledError("boom"),
}


def raise_it(config):
    raise RAISED[config["raised"]]


class RaisesInSetup(Counter):
    def _setup(self, config):
        raise_it(config)


class RaisesInTrain(Counter):
    def _train(self):
        raise_it(self.config)


class RaisesInAsyncTrain(AsyncCounter):
    async def _train(self):
        await asyncio.sleep(0)
        raise_it(self.config)


def raises(config):
    raise_it(config)


async def raises_async(config):
    await asyncio.sleep(0)
    raise_it(config)


def raises_in_generator(config):
    yield from ()
    raise_it(config)


def reports_odd_value(config):
    track.log(fine=1, outer={"bad": [object()]})


class ReturnsOddValue(Trainable):
    def _train(self):
        return {"fine": 1, "outer": {"bad": [object()]}}


def reports_huge_value(config):
    track.log(fine=1, huge="x" * (17 << 20))


class Whoami(Trainable):
    def _train(self):
        logdir = os.path.realpath(self.logdir)
        return {
            "ids": [self.trial_id, self.trial_name],
            "dir": logdir,
            "cwd": os.path.realpath("."),
        }


def whoami():
    ids = [track.trial_id(), track.trial_name()]
    directory = os.path.realpath(track.trial_dir())
    return {"ids": ids, "dir": directory, "cwd": os.path.realpath(".")}


def whoami_plain(config):
    for _ in range(3):
        track.log(**whoami())


async def whoami_async(config):
    for _ in range(3):
        await track.log(**whoami())


def whoami_generator(config):
    for _ in range(3):
        yield whoami()


async def whoami_async_generator(config):
    for _ in range(3):
        yield whoami()


def whoami_in_thread(config):
    thread = threading.Thread(target=lambda: track.log(**whoami()))
    thread.start()
    thread.join()


class Greedy(Counter):
    @classmethod
    def default_resource_request(cls, config):
        return Resources(cpu=config.get("cpu", 1))

    @classmethod
    def resource_help(cls, config):
        return f"This one needs {config['cpu']} CPUs for its simulators."
