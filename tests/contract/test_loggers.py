"""The loggers that come with asynctune keep the contract of loggers, and the formats of their files."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctune.loggers import CSVLogger, FileLogger, JsonLogger, Logger, NoopLogger, UnifiedLogger
from asynctune.loggers.files import Append, Replace, Rewrite, carry_out
from asynctune.testing.loggers import (
    Drive,
    LoggerContract,
    NewConfig,
    files,
    log_alone,
    log_in_run,
)

both_paths = pytest.mark.parametrize("drive", [log_alone, log_in_run])
every_logger = pytest.mark.parametrize("cls", [JsonLogger, CSVLogger, UnifiedLogger])
json_loggers = pytest.mark.parametrize("cls", [JsonLogger, UnifiedLogger])
csv_loggers = pytest.mark.parametrize("cls", [CSVLogger, UnifiedLogger])


def results(logdir: Path) -> list[Any]:
    def refuse(token: str) -> Any:
        raise AssertionError(f"{token} is not JSON")

    lines = (logdir / "result.json").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def table(logdir: Path) -> list[dict[str, str]]:
    with open(logdir / "progress.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def header(logdir: Path) -> list[str]:
    with open(logdir / "progress.csv", newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


class TestJsonLogger(LoggerContract):
    logger_class = JsonLogger

    def read_rows(self, logdir: Path) -> list[Any]:
        return results(logdir)


class TestCSVLogger(LoggerContract):
    logger_class = CSVLogger

    def read_rows(self, logdir: Path) -> list[dict[str, str]]:
        return table(logdir)


class TestUnifiedLogger(LoggerContract):
    logger_class = UnifiedLogger

    def read_rows(self, logdir: Path) -> list[Any]:
        assert [str(row.get("n")) for row in results(logdir)] == [row["n"] for row in table(logdir)]
        return results(logdir)


@pytest.mark.asyncio
@both_paths
async def test_a_trial_without_results_has_empty_files(drive: Drive, tmp_path: Path) -> None:
    await drive(UnifiedLogger, tmp_path / "t", config={"b": 2, "a": 1})
    assert files(tmp_path / "t") == {
        "params.json": b'{\n  "a": 1,\n  "b": 2\n}\n',
        "result.json": b"",
        "progress.csv": b"",
    }


@pytest.mark.asyncio
@both_paths
@json_loggers
async def test_nan_and_infinities_are_null_in_strict_json(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    row = {"loss": math.nan, "deep": {"list": [math.inf, 1.5]}, "low": -math.inf}
    await drive(cls, tmp_path, row, config={"limit": math.inf})
    assert results(tmp_path) == [{"loss": None, "deep": {"list": [None, 1.5]}, "low": None}]
    assert json.loads((tmp_path / "params.json").read_text()) == {"limit": None}


@pytest.mark.asyncio
@both_paths
@json_loggers
async def test_what_json_cannot_hold_is_written_as_its_repr(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    await drive(cls, tmp_path, {"x": {1}, "y": (math.nan,)}, config={"act": len})
    assert results(tmp_path) == [{"x": "{1}", "y": [None]}]
    assert json.loads((tmp_path / "params.json").read_text()) == {"act": repr(len)}


@pytest.mark.asyncio
@both_paths
@every_logger
async def test_a_thousand_rows_stay_in_order(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    await drive(cls, tmp_path, *({"n": n, "half": n / 2} for n in range(1000)))
    if cls is not CSVLogger:
        assert results(tmp_path) == [{"n": n, "half": n / 2} for n in range(1000)]
    if cls is not JsonLogger:
        assert [int(row["n"]) for row in table(tmp_path)] == list(range(1000))


@pytest.mark.asyncio
@both_paths
@json_loggers
async def test_update_config_rewrites_params_json(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    await drive(
        cls, tmp_path, NewConfig({"lr": 2}), {"n": 1}, NewConfig({"lr": 3}), config={"a": 1}
    )
    assert json.loads((tmp_path / "params.json").read_text()) == {"lr": 3}
    assert results(tmp_path) == [{"n": 1}]


@pytest.mark.asyncio
@both_paths
@csv_loggers
async def test_nested_metrics_are_flat_columns_without_config(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    row = {"eval": {"auc": 0.5, "by": {"fold": 3}}, "bins": [1, [2.0, None]], "config": {"lr": 1}}
    await drive(cls, tmp_path, row)
    assert table(tmp_path) == [{"eval/auc": "0.5", "eval/by/fold": "3", "bins": "[1,[2.0,null]]"}]


@pytest.mark.asyncio
@both_paths
@csv_loggers
async def test_a_new_metric_widens_the_header(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    await drive(cls, tmp_path, {"a": 1}, {"a": 2, "b": "x"}, {"b": "y"}, {"c": None, "a": 4})
    assert header(tmp_path) == ["a", "b", "c"]
    assert table(tmp_path) == [
        {"a": "1", "b": "", "c": ""},
        {"a": "2", "b": "x", "c": ""},
        {"a": "", "b": "y", "c": ""},
        {"a": "4", "b": "", "c": ""},
    ]


@pytest.mark.asyncio
@both_paths
@csv_loggers
async def test_awkward_text_survives_in_cells_and_headers(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    texts = ["a,b", 'say "no"', "two\nlines", "\r", "a\r\nb", "caf\u00e9 \u2028", "", " pad "]
    name = 'm"1",\nloss'
    await drive(cls, tmp_path, *({name: text} for text in texts), {"late": 1})
    assert [row[name] for row in table(tmp_path)] == [*texts, ""]


@pytest.mark.asyncio
@both_paths
@csv_loggers
async def test_a_lone_surrogate_does_not_lose_the_row(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    await drive(cls, tmp_path, {"name": "\ud800"}, {"name": "next"})
    assert [row["name"] for row in table(tmp_path)] == ["\\ud800", "next"]


@pytest.mark.asyncio
@both_paths
@csv_loggers
async def test_a_cell_longer_than_the_csv_modules_limit_can_be_widened(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    cell = "x" * (csv.field_size_limit() + 1)
    await drive(cls, tmp_path, {"a": cell})
    await drive(cls, tmp_path, {"a": "", "b": 1})
    text = (tmp_path / "progress.csv").read_text()
    assert text == f"a,b\n{cell},\n,1\n"


@pytest.mark.asyncio
@both_paths
@every_logger
async def test_a_resumed_trial_continues_its_files(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    await drive(cls, tmp_path, {"a": 1, "b": 2}, config={"lr": 1})
    await drive(cls, tmp_path, {"b": 4, "a": 3}, config={"lr": 2})
    await drive(cls, tmp_path, {"c": 5}, config={"lr": 3})
    if cls is not CSVLogger:
        assert results(tmp_path) == [{"a": 1, "b": 2}, {"b": 4, "a": 3}, {"c": 5}]
        assert json.loads((tmp_path / "params.json").read_text()) == {"lr": 3}
    if cls is not JsonLogger:
        text = (tmp_path / "progress.csv").read_text()
        assert text == "a,b,c\n1,2,\n3,4,\n,,5\n"


@pytest.mark.asyncio
@both_paths
@csv_loggers
async def test_an_existing_empty_table_still_gets_its_header(
    drive: Drive, cls: type[Logger], tmp_path: Path
) -> None:
    (tmp_path / "progress.csv").touch()
    await drive(cls, tmp_path, {"a": 1})
    assert table(tmp_path) == [{"a": "1"}]


@pytest.mark.asyncio
@both_paths
async def test_what_a_killed_driver_left_unfinished_is_removed(
    drive: Drive, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text('{"a":1}\n{"a":2,"b"')
    (tmp_path / "progress.csv").write_text('a,b\n1,x\n2,"y\nhalf a ce')
    await drive(UnifiedLogger, tmp_path, {"a": 3, "b": "z"})
    assert results(tmp_path) == [{"a": 1}, {"a": 3, "b": "z"}]
    assert table(tmp_path) == [{"a": "1", "b": "x"}, {"a": "3", "b": "z"}]


@pytest.mark.asyncio
@both_paths
async def test_a_last_json_line_that_only_lacks_its_line_end_is_kept(
    drive: Drive, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text('{"a":1}\n{"a":2}')
    await drive(JsonLogger, tmp_path, {"a": 3})
    assert results(tmp_path) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.asyncio
@both_paths
async def test_windows_line_ends_of_an_existing_table_do_not_get_into_cells(
    drive: Drive, tmp_path: Path
) -> None:
    (tmp_path / "progress.csv").write_bytes(b"a,b\r\n1,2\r\n")
    await drive(CSVLogger, tmp_path, {"a": 3, "c": 4})
    assert (tmp_path / "progress.csv").read_bytes() == b"a,b,c\n1,2,\n3,,4\n"


@pytest.mark.asyncio
@both_paths
async def test_files_and_new_directories_belong_to_their_owner_alone(
    drive: Drive, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        for cls in (JsonLogger, CSVLogger):
            await drive(cls, tmp_path / "run" / "t", {"a": 1}, NewConfig({}))
            await drive(cls, tmp_path / "run" / "t", {"b": 1})
    finally:
        os.umask(before)
    made = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes == {
        "run": 0o700,
        "t": 0o700,
        "params.json": 0o600,
        "result.json": 0o600,
        "progress.csv": 0o600,
    }


_CELLS = st.none() | st.integers() | st.text() | st.booleans() | st.lists(st.integers())
_ROWS = st.lists(st.dictionaries(st.text(), _CELLS, min_size=1), max_size=6)


def _expected(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    return text.encode("utf-8", "backslashreplace").decode()


@given(sessions=st.lists(_ROWS, max_size=4))
@settings(deadline=None, max_examples=40)
def test_any_rows_over_any_resumes_can_be_read_back(sessions: list[list[dict[str, Any]]]) -> None:
    async def drive_all(drive: Drive, logdir: Path) -> None:
        for rows in sessions:
            await drive(CSVLogger, logdir, *rows)

    rows = [row for session in sessions for row in session]
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "config"))
    wanted = [[_expected(row.get(key)) for key in columns] for row in rows]
    for drive in (log_alone, log_in_run):
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(drive_all, drive, Path(folder))
            if not columns:
                continue
            with open(Path(folder, "progress.csv"), newline="", encoding="utf-8") as file:
                found = list(csv.reader(file))
        assert found[0] == [_expected(column) for column in columns]
        assert found[1:] == wanted


def test_rows_with_new_keys_in_one_batch_are_one_rewrite(tmp_path: Path) -> None:
    logger = CSVLogger({}, tmp_path)
    logger.on_result({"a": 1})
    for n in range(50):
        logger.add_result({f"k{n}": n})
    (write,) = logger.take()
    assert isinstance(write, Rewrite)
    carry_out(write)
    assert len(header(tmp_path)) == 51
    assert [row["k49"] for row in table(tmp_path)] == [""] * 50 + ["49"]
    logger.add_result({"a": 2})
    assert [type(write) for write in logger.take()] == [Append]


def test_taking_hands_over_each_write_once_and_touches_nothing(tmp_path: Path) -> None:
    logger = JsonLogger({}, tmp_path)
    before = files(tmp_path)
    logger.add_result({"a": 1})
    logger.add_result({"a": 2})
    logger.add_config({"lr": 1})
    assert set(logger.take()) == {
        Append(str(tmp_path / "result.json"), '{"a":1}\n{"a":2}\n'),
        Replace(str(tmp_path / "params.json"), '{\n  "lr": 1\n}\n'),
    }
    assert logger.take() == []
    logger.flush()
    assert files(tmp_path) == before


def test_each_result_is_in_its_file_when_a_logger_by_itself_returns(tmp_path: Path) -> None:
    logger = UnifiedLogger({}, tmp_path)
    for n in range(3):
        logger.on_result({"n": n})
        assert len(results(tmp_path)) == len(table(tmp_path)) == n + 1


def test_a_replacement_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        carry_out(Replace(str(path), None))  # type: ignore[arg-type]
    assert files(tmp_path) == {"params.json": b"old"}


class Recorder(Logger):
    """Keeps what it is told, and raises where it is told to."""

    raises_in: str = ""
    built: list[Recorder]

    def __init_subclass__(cls) -> None:
        cls.built = []

    def _init(self) -> None:
        self.calls: list[str] = []
        type(self).built.append(self)
        self._call("_init")

    def on_result(self, result: Mapping[str, Any]) -> None:
        self._call("on_result")

    def update_config(self, config: dict[str, Any]) -> None:
        self._call("update_config")

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.raises_in:
            raise RuntimeError(f"no {name} today")


@pytest.mark.parametrize("method", ["_init", "on_result", "update_config", "flush", "close"])
def test_a_logger_that_raises_is_dropped_with_one_message(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Recorder):
        raises_in = method

    class Good(Recorder):
        pass

    unified = UnifiedLogger({}, tmp_path, "trial", [Bad, Good])
    for _ in range(2):
        unified.on_result({"a": 1})
        unified.update_config({"lr": 1})
        unified.flush()
    unified.close()
    rounds = ["on_result", "update_config", "flush"] * 2
    assert Good.built[0].calls == ["_init", *rounds, "close"]
    assert Bad.built[0].calls.count(method) == 1
    (record,) = caplog.records
    assert record.name == "asynctune.loggers"
    assert "Bad" in record.getMessage()
    assert str(tmp_path) in record.getMessage()
    assert f"no {method} today" in caplog.text  # the traceback
    assert unified.logdir == str(tmp_path)


def test_a_dropped_logger_is_closed_even_if_that_raises_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Recorder):
        def _call(self, name: str) -> None:
            self.calls.append(name)
            if name != "_init":
                raise RuntimeError(name)

    unified = UnifiedLogger({}, tmp_path, loggers=[Bad])
    unified.on_result({})
    unified.close()
    assert Bad.built[0].calls == ["_init", "on_result", "close"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_unified_logs_nothing_with_no_loggers_and_the_defaults_with_none(tmp_path: Path) -> None:
    UnifiedLogger({}, tmp_path, loggers=[]).on_result({"a": 1})
    assert files(tmp_path) == {}
    UnifiedLogger({}, tmp_path).on_result({"a": 1})
    assert set(files(tmp_path)) == {"params.json", "result.json", "progress.csv"}


@pytest.mark.parametrize("cls", [Logger, FileLogger])
def test_a_logger_must_override_what_receives_results(cls: type[Logger], tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=cls.__name__):
        cls({}, tmp_path).on_result({})


def test_a_logger_holds_its_arguments_and_noop_writes_nothing(tmp_path: Path) -> None:
    trial = object()
    logger = NoopLogger({"a": 1}, tmp_path / "t", trial)
    logger.on_result({"a": 1})
    logger.update_config({"a": 2})
    logger.flush()
    logger.close()
    assert (logger.config, logger.logdir, logger.trial) == ({"a": 2}, str(tmp_path / "t"), trial)
    assert not (tmp_path / "t").exists()


def test_the_rows_given_are_left_untouched(tmp_path: Path) -> None:
    rows: Sequence[dict[str, Any]] = ({"a": [1], "config": {"x": 1}}, {"b": {"c": (1, 2)}})
    logger = UnifiedLogger({}, tmp_path)
    for row in rows:
        logger.on_result(row)
    assert rows == ({"a": [1], "config": {"x": 1}}, {"b": {"c": (1, 2)}})
