"""How a LoggerWriter queues, batches, isolates and ends; what loggers write is a contract test."""

from __future__ import annotations

import asyncio
import csv
import gc
import json
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest

from asynctune.callbacks.logger_writer import LoggerWriter
from asynctune.errors import TuneError
from asynctune.loggers import CSVLogger, FileLogger, JsonLogger, Logger, UnifiedLogger
from asynctune.loggers.files import Append, Rewrite, Write


async def drain(writer: LoggerWriter) -> None:
    writer.close()
    with anyio.fail_after(60):
        await writer.run()


@asynccontextmanager
async def running(writer: LoggerWriter) -> AsyncIterator[None]:
    """Run a writer beside the block, then let it drain."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run)
            yield
            writer.close()


def numbers(logdir: Path) -> list[int]:
    lines = (logdir / "result.json").read_text().splitlines()
    return [json.loads(line)["n"] for line in lines]


class Recorder(Logger):
    """A logger of a user's own; a test derives its own class, whose instances are in ``built``."""

    built: ClassVar[list[Any]]

    def __init_subclass__(cls) -> None:
        cls.built = []

    def _init(self) -> None:
        self.seen: list[Any] = []
        self.threads: set[int] = {threading.get_ident()}
        type(self).built.append(self)

    def on_result(self, result: Mapping[str, Any]) -> None:
        self._note(result["n"])

    def update_config(self, config: dict[str, Any]) -> None:
        self._note(config)

    def flush(self) -> None:
        self._note("flush")

    def close(self) -> None:
        self._note("close")

    def _note(self, what: Any) -> None:
        self.seen.append(what)
        self.threads.add(threading.get_ident())


class Watched(JsonLogger):
    """Counts the batches that hold something, and lets a test wait for the next one."""

    batches: ClassVar[list[list[Write]]]
    taken: ClassVar[anyio.Event]

    @classmethod
    def watch(cls) -> None:
        cls.batches = []
        cls.taken = anyio.Event()

    def take(self) -> list[Write]:
        writes = super().take()
        if any(write.path.endswith("result.json") and write != self._start() for write in writes):
            type(self).batches.append(writes)
            type(self).taken.set()
            type(self).taken = anyio.Event()
        return writes

    def _start(self) -> Append:
        return Append(self._results, "")


@pytest.mark.asyncio
async def test_nothing_touches_the_disk_before_run(tmp_path: Path) -> None:
    class Mine(Recorder):
        pass

    logdir = tmp_path / "t1"
    writer = LoggerWriter([JsonLogger, CSVLogger, Mine])
    writer.open("t1", {"lr": 1}, str(logdir), None)
    writer.result("t1", {"n": 1})
    writer.update_config("t1", {"lr": 2})
    writer.end("t1")
    assert not logdir.exists()
    assert Mine.built == []
    await drain(writer)
    assert numbers(logdir) == [1]
    assert Mine.built[0].seen == [1, {"lr": 2}, "flush", "close"]


def test_a_writer_may_be_made_and_fed_before_the_loop_runs(tmp_path: Path) -> None:
    writer = LoggerWriter([JsonLogger])
    writer.open("t1", {}, str(tmp_path), None)
    writer.result("t1", {"n": 1})
    anyio.run(drain, writer)
    assert numbers(tmp_path) == [1]


@pytest.mark.asyncio
async def test_a_logger_that_may_block_never_runs_on_the_loops_thread(tmp_path: Path) -> None:
    class Mine(Recorder):
        pass

    writer = LoggerWriter([Mine])
    async with running(writer):
        for trial in ("a", "b"):
            writer.open(trial, {}, str(tmp_path), trial)
        for n in range(250):
            writer.result("ab"[n % 2], {"n": n})
            if n % 50 == 0:
                await anyio.lowlevel.checkpoint()
        writer.update_config("a", {"lr": 2})
        writer.end("a")
    first, second = sorted(Mine.built, key=lambda logger: str(logger.trial))
    assert first.seen == [*range(0, 250, 2), {"lr": 2}, "flush", "close"]
    assert second.seen == [*range(1, 250, 2), "flush", "close"]
    assert threading.get_ident() not in first.threads | second.threads


@pytest.mark.asyncio
async def test_a_logger_gets_the_trial_and_a_directory_that_exists(tmp_path: Path) -> None:
    existed = []

    class Mine(Recorder):
        def _init(self) -> None:
            super()._init()
            existed.append(Path(self.logdir).is_dir())

    trial, config = object(), {"lr": 1}
    writer = LoggerWriter([Mine])
    writer.open("t1", config, str(tmp_path / "run" / "t1"), trial)
    await drain(writer)
    assert Mine.built[0].trial is trial
    assert Mine.built[0].config is config
    assert existed == [True]


@pytest.mark.asyncio
async def test_a_file_logger_that_writes_in_its_own_way_runs_in_a_thread(tmp_path: Path) -> None:
    threads = []

    class Shorter(JsonLogger):
        def on_result(self, result: Mapping[str, Any]) -> None:
            threads.append(threading.get_ident())
            super().on_result({"n": result["n"]})

    writer = LoggerWriter([Shorter])
    writer.open("t1", {}, str(tmp_path), None)
    writer.result("t1", {"n": 1, "long": "x"})
    await drain(writer)
    assert (tmp_path / "result.json").read_text() == '{"n":1}\n'
    assert threads != [threading.get_ident()]


@pytest.mark.asyncio
async def test_a_logger_that_changes_its_row_changes_no_one_elses(tmp_path: Path) -> None:
    class Greedy(Recorder):
        def on_result(self, result: Mapping[str, Any]) -> None:
            assert isinstance(result, dict)
            result["deep"].clear()
            result.clear()
            self._note("ate")

    row = {"n": 1, "deep": {"x": 1}}
    writer = LoggerWriter([Greedy, JsonLogger])
    writer.open("t1", {}, str(tmp_path), None)
    writer.result("t1", row)
    await drain(writer)
    assert Greedy.built[0].seen == ["ate", "flush", "close"]
    assert row == {"n": 1, "deep": {"x": 1}}


@pytest.mark.asyncio
async def test_rows_wait_for_the_interval_and_the_end_of_a_trial_does_not(tmp_path: Path) -> None:
    Watched.watch()
    writer = LoggerWriter([Watched], interval_s=3600)
    async with running(writer):
        first = Watched.taken
        writer.open("t1", {}, str(tmp_path), None)
        writer.result("t1", {"n": 0})
        await first.wait()
        for n in range(1, 6):
            writer.result("t1", {"n": n})
            # Another writer's whole life gives this one every opportunity.
            other = LoggerWriter([JsonLogger])
            other.open("t2", {}, str(tmp_path / "other"), None)
            other.result("t2", {"n": n})
            await drain(other)
        assert len(Watched.batches) == 1
        second = Watched.taken
        writer.end("t1")
        await second.wait()
    assert len(Watched.batches) == 2
    assert numbers(tmp_path) == list(range(6))


@pytest.mark.asyncio
async def test_rows_flow_on_their_own_once_the_interval_has_passed(tmp_path: Path) -> None:
    Watched.watch()
    writer = LoggerWriter([Watched], interval_s=0)
    async with running(writer):
        writer.open("t1", {}, str(tmp_path), None)
        for n in range(5):
            taken = Watched.taken
            writer.result("t1", {"n": n})
            await taken.wait()
    assert len(Watched.batches) == 5
    assert numbers(tmp_path) == list(range(5))


@pytest.mark.asyncio
async def test_a_table_widens_across_batches_with_one_rewrite_each(tmp_path: Path) -> None:
    writes: list[Write] = []
    taken = [anyio.Event(), anyio.Event(), anyio.Event()]

    class Table(CSVLogger):
        def take(self) -> list[Write]:
            new = super().take()
            if new and new != [Append(self._path, "")]:
                writes.extend(new)
                taken[len(writes) - 1].set()
            return new

    writer = LoggerWriter([Table], interval_s=0)
    async with running(writer):
        writer.open("t1", {}, str(tmp_path), None)
        for batch, event in zip(([{"a": 1}], [{"b": 2}, {"c": 3}], [{"a": 4}]), taken, strict=True):
            for row in batch:
                writer.result("t1", row)
            await event.wait()
    assert [type(write) for write in writes] == [Append, Rewrite, Append]
    with open(tmp_path / "progress.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["a", "b", "c"],
            ["1", "", ""],
            ["", "2", ""],
            ["", "", "3"],
            ["4", "", ""],
        ]


@pytest.mark.asyncio
async def test_a_logger_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    let_go = threading.Event()

    class Hangs(Recorder):
        def on_result(self, result: Mapping[str, Any]) -> None:
            let_go.wait()

    Watched.watch()
    writer = LoggerWriter([Hangs, Watched], interval_s=0)
    async with running(writer):
        for n, trial in enumerate(("t1", "t2")):
            taken = Watched.taken
            writer.open(trial, {}, str(tmp_path / trial), None)
            writer.result(trial, {"n": n})
            await taken.wait()
        # A queue keeps its order: at t2, the work for t1 is done.
        assert numbers(tmp_path / "t1") == [0]
        let_go.set()
    assert numbers(tmp_path / "t2") == [1]


@pytest.mark.asyncio
async def test_many_rows_are_formatted_in_slices_between_which_others_run(tmp_path: Path) -> None:
    turns = 0
    seen: list[int] = []

    class Counts(JsonLogger):
        def add_result(self, result: Mapping[str, Any]) -> None:
            seen.append(turns)
            super().add_result(result)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    writer = LoggerWriter([Counts])
    writer.open("t1", {}, str(tmp_path), None)
    for n in range(1000):
        writer.result("t1", {"n": n})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await drain(writer)
        tasks.cancel_scope.cancel()
    assert len(set(seen)) == 10
    assert numbers(tmp_path) == list(range(1000))


class Breaks(Recorder):
    """Raises in the method that a subclass names; trial "b" is spared."""

    where: ClassVar[str] = ""
    what: ClassVar[type[BaseException]] = RuntimeError

    def _init(self) -> None:
        super()._init()
        self._maybe("_init")

    def on_result(self, result: Mapping[str, Any]) -> None:
        super().on_result(result)
        self._maybe("on_result")

    def update_config(self, config: dict[str, Any]) -> None:
        super().update_config(config)
        self._maybe("update_config")

    def flush(self) -> None:
        super().flush()
        self._maybe("flush")

    def close(self) -> None:
        super().close()
        self._maybe("close")

    def _maybe(self, method: str) -> None:
        if method == self.where and self.trial != "b":
            raise self.what(f"no {method} today")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error", [RuntimeError, SystemExit, StopIteration, asyncio.CancelledError, KeyboardInterrupt]
)
@pytest.mark.parametrize("method", ["_init", "on_result", "update_config", "flush", "close"])
async def test_a_logger_that_raises_is_dropped_for_its_trial_with_one_message(
    method: str, error: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Breaks):
        where = method
        what = error

    caplog.set_level(logging.DEBUG, "asynctune.loggers")
    writer = LoggerWriter([Bad, JsonLogger])
    for trial in "abc":
        writer.open(trial, {}, str(tmp_path / trial), trial)
        for n in range(2):
            writer.result(trial, {"n": n})
            writer.update_config(trial, {"lr": n})
        writer.end(trial)
    await drain(writer)
    a, b, c = Bad.built
    every_call = [0, {"lr": 0}, 1, {"lr": 1}, "flush", "close"]
    assert b.seen == every_call
    assert a.seen == c.seen
    if method == "on_result":
        assert a.seen == [0, "close"]
    assert all(numbers(tmp_path / trial) == [0, 1] for trial in "abc")
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.DEBUG]
    message = caplog.records[0].getMessage()
    assert "Bad" in message
    assert "trial a" in message
    assert f"no {method} today" in caplog.text  # the traceback


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
async def test_a_dropped_logger_whose_close_raises_too_ends_quietly(
    error: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Recorder):
        def _note(self, what: Any) -> None:
            super()._note(what)
            raise error(f"no {what}")

    writer = LoggerWriter([Bad])
    for trial in "ab":
        writer.open(trial, {}, str(tmp_path), None)
        writer.result(trial, {"n": 1})
    await drain(writer)
    assert [logger.seen for logger in Bad.built] == [[1, "close"], [1, "close"]]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.asyncio
async def test_a_file_logger_that_raises_has_written_the_rows_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(JsonLogger):
        def add_result(self, result: Mapping[str, Any]) -> None:
            if result["n"] == 2:
                raise ValueError("two is too many")
            super().add_result(result)

    writer = LoggerWriter([Picky, CSVLogger])
    writer.open("t1", {}, str(tmp_path), None)
    for n in range(4):
        writer.result("t1", {"n": n})
    await drain(writer)
    assert numbers(tmp_path) == [0, 1]
    assert (tmp_path / "progress.csv").read_text() == "n\n0\n1\n2\n3\n"
    (record,) = caplog.records
    assert "Picky of trial t1 is dropped, since on_result raised ValueError" in record.getMessage()
    assert "two is too many" in caplog.text


@pytest.mark.asyncio
async def test_a_write_that_fails_drops_its_logger_and_names_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Lost(FileLogger):
        def add_result(self, result: Mapping[str, Any]) -> None:
            self._writes.append(Append(self.logdir, "a directory is no file"))

    writer = LoggerWriter([Lost, JsonLogger])
    for trial in ("t1", "t2"):
        writer.open(trial, {}, str(tmp_path / trial), None)
        writer.result(trial, {"n": 1})
    await drain(writer)
    (record,) = caplog.records
    assert f"writing {tmp_path / 't1'} raised IsADirectoryError" in record.getMessage()
    assert numbers(tmp_path / "t1") == numbers(tmp_path / "t2") == [1]


@pytest.mark.asyncio
async def test_a_replacement_that_fails_leaves_no_temporary_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Watched.watch()
    writer = LoggerWriter([Watched], interval_s=0)
    async with running(writer):
        taken = Watched.taken
        writer.open("t1", {}, str(tmp_path), None)
        writer.result("t1", {"n": 1})
        await taken.wait()
        (tmp_path / "params.json").unlink()
        (tmp_path / "params.json").mkdir()
        writer.update_config("t1", {"lr": 2})
    assert "params.json raised IsADirectoryError" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.json", "result.json"]


@pytest.mark.asyncio
async def test_a_directory_that_cannot_be_made_drops_the_loggers_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    writer = LoggerWriter([JsonLogger, CSVLogger])
    writer.open("t1", {}, str(tmp_path / "file" / "t1"), None)
    writer.result("t1", {"n": 1})
    await drain(writer)
    names = {record.getMessage().split()[0] for record in caplog.records}
    assert names == {"JsonLogger", "CSVLogger"}


@pytest.mark.asyncio
async def test_a_cancelled_writer_can_still_be_drained(tmp_path: Path) -> None:
    Watched.watch()
    writer = LoggerWriter([Watched], interval_s=0)
    for trial in range(20):
        writer.open(str(trial), {}, str(tmp_path / str(trial)), None)
        writer.result(str(trial), {"n": trial})
    with anyio.fail_after(60):
        taken = Watched.taken
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run)
            await taken.wait()
            tasks.cancel_scope.cancel()
    assert len(Watched.batches) < 20
    await drain(writer)
    assert [numbers(tmp_path / str(trial)) for trial in range(20)] == [[n] for n in range(20)]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.asyncio
async def test_cancelling_does_not_wait_for_a_logger_that_hangs(tmp_path: Path) -> None:
    let_go, entered = threading.Event(), anyio.Event()
    loop = asyncio.get_running_loop()

    class Hangs(Recorder):
        def on_result(self, result: Mapping[str, Any]) -> None:
            loop.call_soon_threadsafe(entered.set)
            let_go.wait()

    writer = LoggerWriter([Hangs])
    writer.open("t1", {}, str(tmp_path), None)
    writer.result("t1", {"n": 1})
    try:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.run)
                await entered.wait()
                tasks.cancel_scope.cancel()
        await drain(writer)
        (logger,) = Hangs.built
        assert logger.seen == []  # what hangs is not used again
    finally:
        let_go.set()


@pytest.mark.asyncio
async def test_a_trial_that_ends_and_is_opened_again_continues_its_files(tmp_path: Path) -> None:
    writer = LoggerWriter([JsonLogger, CSVLogger])
    for n in range(5):
        writer.open("t1", {}, str(tmp_path), None)
        writer.result("t1", {"n": n})
        writer.end("t1")
    await drain(writer)
    assert numbers(tmp_path) == list(range(5))
    assert (tmp_path / "progress.csv").read_text() == "n\n0\n1\n2\n3\n4\n"


@pytest.mark.asyncio
async def test_nothing_of_an_ended_trial_stays_in_memory(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Mine(Logger):
        def _init(self) -> None:
            alive.add(self)

        def on_result(self, result: Mapping[str, Any]) -> None:
            pass

    class Files(JsonLogger):
        def _init(self) -> None:
            alive.add(self)
            super()._init()

    class Trial:
        pass

    writer = LoggerWriter([Mine, Files])
    for number in range(10):
        trial = Trial()
        alive.add(trial)
        writer.open(str(number), {}, str(tmp_path), trial)
        writer.result(str(number), {"n": number})
        writer.end(str(number))
    del trial
    assert len(alive) == 10
    await drain(writer)
    gc.collect()
    assert not list(alive)
    assert numbers(tmp_path) == list(range(10))


@pytest.mark.asyncio
async def test_open_trials_hold_no_descriptors(tmp_path: Path) -> None:
    counts = []

    class Counts(JsonLogger):
        def take(self) -> list[Write]:
            counts.append(len(os.listdir("/proc/self/fd")))
            return super().take()

    writer = LoggerWriter([Counts])
    for trial in range(50):
        writer.open(str(trial), {}, str(tmp_path / str(trial)), None)
        writer.result(str(trial), {"n": trial})
    await drain(writer)
    assert len(counts) >= 50
    assert max(counts) <= counts[0] + 1  # a constructor looks at what there is


@pytest.mark.asyncio
async def test_close_ends_the_trials_that_are_open(tmp_path: Path) -> None:
    class Mine(Recorder):
        pass

    writer = LoggerWriter([Mine])
    async with running(writer):
        writer.open("t1", {}, str(tmp_path), None)
        writer.result("t1", {"n": 1})
    assert Mine.built[0].seen == [1, "flush", "close"]


@pytest.mark.asyncio
async def test_a_class_that_is_listed_twice_logs_once(tmp_path: Path) -> None:
    writer = LoggerWriter([JsonLogger, JsonLogger])
    writer.open("t1", {}, str(tmp_path), None)
    writer.result("t1", {"n": 1})
    await drain(writer)
    assert numbers(tmp_path) == [1]


@pytest.mark.asyncio
async def test_unified_loggers_and_no_loggers_serve_too(tmp_path: Path) -> None:
    for name, classes in (("some", [UnifiedLogger]), ("none", [])):
        writer = LoggerWriter(classes)
        writer.open("t1", {}, str(tmp_path / name), None)
        writer.result("t1", {"n": 1})
        await drain(writer)
    assert numbers(tmp_path / "some") == [1]
    assert not (tmp_path / "none").exists()


def test_calls_out_of_order_are_errors_that_name_the_trial() -> None:
    writer = LoggerWriter([JsonLogger])
    with pytest.raises(TuneError, match="on_result for trial 't1'"):
        writer.result("t1", {})
    with pytest.raises(TuneError, match="update_config for trial 't1'"):
        writer.update_config("t1", {})
    writer.open("t1", {}, "somewhere", None)
    with pytest.raises(TuneError, match="'t1' is being logged already"):
        writer.open("t1", {}, "somewhere", None)
    writer.end("t1")
    writer.end("t1")  # nothing is left to end, which is fine
    with pytest.raises(TuneError, match="'t1'"):
        writer.result("t1", {})
