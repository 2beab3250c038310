"""The contract of loggers, as a test class to subclass. Needs pytest and pytest-asyncio.

::

    class TestMyLogger(LoggerContract):
        logger_class = MyLogger

        def read_rows(self, logdir):
            return [json.loads(line) for line in (logdir / "my.log").read_text().splitlines()]

Each test logs a trial twice: alone, as a Trainable outside of a run does, and as a run does, through the
queue of its driver.
"""

from __future__ import annotations

import copy
import math
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import anyio
import anyio.to_thread
import pytest

from asynctune.callbacks.logger_writer import LoggerWriter
from asynctune.loggers import FileLogger, Logger
from asynctune.loggers.files import make_private_dirs

_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class NewConfig:
    """A step of a logged trial: a configuration that replaces the current one."""

    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Restart:
    """A step of a logged trial: the trial continues after the last of these rows."""

    rows: list[dict[str, Any]]


Step: TypeAlias = dict[str, Any] | NewConfig | Restart
"""A step of a logged trial: a result row, a new configuration, or a restart."""

Drive: TypeAlias = Callable[..., Awaitable[None]]
"""A function that logs a trial: :func:`log_alone` or :func:`log_in_run`."""


async def log_alone(
    cls: type[Logger], logdir: Path, *steps: Step, config: dict[str, Any] | None = None
) -> None:
    """Log a trial as a Trainable outside of a run does: each call writes before it returns.

    Args:
        cls: The class of the logger.
        logdir: The directory of the trial.
        *steps: The steps of the trial.
        config: The first configuration; by default an empty one.
    """

    def log() -> None:
        if not issubclass(cls, FileLogger):  # a FileLogger creates the directory itself
            make_private_dirs(str(logdir))
        logger = cls(config or {}, str(logdir))
        for step in steps:
            if isinstance(step, NewConfig):
                logger.update_config(step.config)
            elif isinstance(step, Restart):
                logger.restart(step.rows)
            else:
                logger.on_result(step)
        logger.flush()
        logger.close()

    await anyio.to_thread.run_sync(log)


async def log_in_run(
    cls: type[Logger], logdir: Path, *steps: Step, config: dict[str, Any] | None = None
) -> None:
    """Log a trial as the driver of a run does: calls are queued and written in batches.

    Args:
        cls: The class of the logger.
        logdir: The directory of the trial.
        *steps: The steps of the trial.
        config: The first configuration; by default an empty one.
    """
    writer = LoggerWriter([cls])
    writer.open("t1", config or {}, str(logdir), None)
    for step in steps:
        if isinstance(step, NewConfig):
            writer.update_config("t1", step.config)
        elif isinstance(step, Restart):
            writer.restart("t1", step.rows)
        else:
            writer.result("t1", step)
    writer.end("t1")
    writer.close()
    with anyio.fail_after(_LIMIT_S):
        await writer.run()


def files(logdir: Path) -> dict[str, bytes]:
    """Return the contents of the files in a directory, by name."""
    return {path.name: path.read_bytes() for path in logdir.iterdir()}


class LoggerContract:
    """The promises of :class:`asynctune.loggers.Logger`. Set the class and override :meth:`read_rows`.

    Attributes:
        logger_class: The class of the logger.
        can_restart: Whether ``restart`` leaves a log of the given rows and no others.
        writes_files: Whether the log consists of files in the directory of the trial.
        keeps_files_private: Whether only their owner can read these files, whatever the umask is.
    """

    pytestmark = pytest.mark.asyncio
    logger_class: ClassVar[type[Logger]]
    can_restart: ClassVar[bool] = True
    writes_files: ClassVar[bool] = True
    keeps_files_private: ClassVar[bool] = True

    def read_rows(self, logdir: Path) -> Sequence[Mapping[str, Any]]:
        """Return the rows in the log of a trial, in order. The tests read only the key ``n`` of each row.

        Args:
            logdir: The directory of the trial.

        Returns:
            The rows; a number may be returned as its text.
        """
        raise NotImplementedError(f"{type(self).__name__} must override read_rows(logdir)")

    @pytest.fixture(params=[log_alone, log_in_run])
    def drive(self, request: pytest.FixtureRequest) -> Drive:
        """The function that logs a trial: alone, or as a run does."""
        drive: Drive = request.param
        return drive

    def numbers(self, logdir: Path) -> list[int]:
        """Return the values of the key ``n`` in the log of a trial."""
        return [int(row["n"]) for row in self.read_rows(logdir)]

    async def test_a_thousand_rows_stay_in_order(self, drive: Drive, tmp_path: Path) -> None:
        await drive(self.logger_class, tmp_path, *({"n": n, "half": n / 2} for n in range(1000)))
        assert self.numbers(tmp_path) == list(range(1000))

    async def test_a_trial_without_results_has_an_empty_log(
        self, drive: Drive, tmp_path: Path
    ) -> None:
        await drive(self.logger_class, tmp_path / "t", config={"b": 2, "a": print})
        assert list(self.read_rows(tmp_path / "t")) == []

    async def test_a_resumed_trial_continues_its_log(self, drive: Drive, tmp_path: Path) -> None:
        await drive(self.logger_class, tmp_path, {"n": 1, "b": 2}, config={"lr": 1})
        await drive(self.logger_class, tmp_path, {"b": 4, "n": 2}, config={"lr": 2})
        await drive(self.logger_class, tmp_path, {"n": 3}, config={"lr": 3})
        assert self.numbers(tmp_path) == [1, 2, 3]

    async def test_a_restart_leaves_only_the_given_rows(self, drive: Drive, tmp_path: Path) -> None:
        if not self.can_restart:
            pytest.skip("this logger cannot rewrite its log")
        first: list[dict[str, Any]] = [{"n": n} for n in range(4)]
        await drive(self.logger_class, tmp_path, *first, Restart(first[:2]), {"n": 9, "late": 1})
        assert self.numbers(tmp_path) == [0, 1, 9]
        await drive(self.logger_class, tmp_path, Restart(first[:1]), {"n": 7})
        assert self.numbers(tmp_path) == [0, 7]

    async def test_a_new_configuration_loses_no_row(self, drive: Drive, tmp_path: Path) -> None:
        steps = (NewConfig({"lr": 2}), {"n": 1}, NewConfig({"lr": 3, "f": print}), {"n": 2})
        await drive(self.logger_class, tmp_path, *steps, config={"a": 1})
        assert self.numbers(tmp_path) == [1, 2]

    async def test_new_and_missing_metrics_lose_no_row(self, drive: Drive, tmp_path: Path) -> None:
        rows = ({"n": 1}, {"n": 2, "b": "x"}, {"c": None, "n": 3, "deep": {"er": [1, None]}})
        await drive(self.logger_class, tmp_path, *rows, {"n": 4})
        assert self.numbers(tmp_path) == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        "value",
        [math.nan, -math.inf, None, True, [1, (2.5, None)], {"deep": {"er": 1}}, {1}, print],
        ids=repr,
    )
    async def test_an_odd_value_loses_no_row(
        self, drive: Drive, tmp_path: Path, value: object
    ) -> None:
        await drive(self.logger_class, tmp_path, {"n": 1, "odd": value}, {"n": 2})
        assert self.numbers(tmp_path) == [1, 2]

    @pytest.mark.parametrize(
        "text", ["a,b", 'say "no"', "two\nlines", "\r", "a\r\nb", "caf\u00e9 \u2028", "", "\ud800"],
        ids=ascii,
    )  # fmt: skip
    async def test_an_odd_text_loses_no_row(self, drive: Drive, tmp_path: Path, text: str) -> None:
        await drive(self.logger_class, tmp_path, {"n": 1, "text": text}, {"n": 2, f"key {text}": 0})
        assert self.numbers(tmp_path) == [1, 2]

    async def test_a_row_may_not_be_changed(self, drive: Drive, tmp_path: Path) -> None:
        rows = [{"n": 1, "a": [1], "config": {"x": 1}}, {"n": 2, "b": {"c": (1, 2)}}]
        originals = copy.deepcopy(rows)
        await drive(self.logger_class, tmp_path, *rows)
        assert rows == originals

    async def test_both_ways_leave_the_same_files(self, tmp_path: Path) -> None:
        if not self.writes_files:
            pytest.skip("the log is elsewhere")
        steps: list[Step] = [
            {"loss": 1.0, "config": {"lr": 0.1}},
            {"loss": math.nan, "eval": {"auc": 0.5, "bins": [1, None, 2.5]}, "config": {"lr": 0.1}},
            NewConfig({"lr": 0.2, "f": print}),
            {"note": 'a "quoted", word\r\nand a line', "loss": None},
            {"loss": -math.inf, "done": True},
        ]
        for drive, name in ((log_alone, "alone"), (log_in_run, "run")):
            await drive(self.logger_class, tmp_path / name, *steps, config={"lr": 0.1})
        assert files(tmp_path / "alone") == files(tmp_path / "run")
        assert any(files(tmp_path / "run").values())

    async def test_files_and_new_directories_belong_to_their_owner_alone(
        self, drive: Drive, tmp_path: Path
    ) -> None:
        if not (self.writes_files and self.keeps_files_private):
            pytest.skip("the files of this logger follow the umask")
        before = os.umask(0)
        try:
            for row in ({"a": 1}, {"b": 1}):
                await drive(self.logger_class, tmp_path / "run" / "t", row, NewConfig({}))
        finally:
            os.umask(before)
        made = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
        assert modes == {path.name: 0o700 if path.is_dir() else 0o600 for path in made}

    async def test_files_do_not_follow_a_changed_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not self.writes_files:
            pytest.skip("the log is elsewhere")

        def log() -> None:
            logger = self.logger_class({}, "t")
            monkeypatch.chdir(tmp_path / "elsewhere")
            logger.on_result({"n": 1})
            logger.close()

        for name in ("elsewhere", "t"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        await anyio.to_thread.run_sync(log)
        assert self.numbers(tmp_path / "t") == [1]
        assert not list((tmp_path / "elsewhere").iterdir())

    async def test_a_flushed_row_is_in_the_log(self, tmp_path: Path) -> None:
        def log() -> None:
            logger = self.logger_class({}, tmp_path)
            for n in range(3):
                logger.on_result({"n": n})
                logger.flush()
                assert self.numbers(tmp_path) == list(range(n + 1))
            logger.close()

        await anyio.to_thread.run_sync(log)

    async def test_no_descriptor_is_left_open(self, drive: Drive, tmp_path: Path) -> None:
        await drive(
            self.logger_class, tmp_path / "first", {"a": 1}
        )  # starts threads, with their files
        before = len(os.listdir("/proc/self/fd"))
        for trial in range(20):
            await drive(self.logger_class, tmp_path / str(trial), {"a": 1}, {"b": 1}, NewConfig({}))
        assert len(os.listdir("/proc/self/fd")) == before
