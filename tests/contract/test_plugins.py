"""Plug-ins that are written from public names alone keep the same contracts as those of asynctune."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from plugins.behind_best import StopBehindBest
from plugins.event_tally import EventTally
from plugins.fork_executor import ForkExecutor
from plugins.lines_logger import LinesLogger, read_lines
from plugins.local_search import LocalSearch
from plugins.sqlite_storage import SQLiteStorage

import asynctune as tune
from asynctune.callbacks import Reported, TrialEnded
from asynctune.testing.executors import ExecutorContract
from asynctune.testing.loggers import LoggerContract
from asynctune.testing.schedulers import SchedulerContract
from asynctune.testing.searchers import LearningSearcherContract
from asynctune.testing.storages import StorageContract

FILES = [Path(__file__), *sorted(Path(__file__, "..", "plugins").resolve().glob("*.py"))]
FACES = {
    "asynctune",
    "asynctune.callbacks",
    *(f"asynctune.{name}" for name in ("executors", "loggers", "schedulers", "storage", "suggest")),
}


# From Python 3.12 on a fork of a process with threads warns; this plug-in forks all the same.
WARNS_OF_FORKS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@WARNS_OF_FORKS
class TestForkExecutor(ExecutorContract):
    def make_executor(self):
        return ForkExecutor(2)


class TestLinesLogger(LoggerContract):
    logger_class = LinesLogger

    def read_rows(self, logdir):
        return read_lines(logdir)


class TestStopBehindBest(SchedulerContract):
    grace = 2

    def make_scheduler(self):
        return StopBehindBest(margin=5, grace_period=2, max_t=9)


class TestLocalSearch(LearningSearcherContract):
    def make_searcher(self):
        return LocalSearch()


class TestSQLiteStorage(StorageContract):
    many = 100

    def make_storage(self, directory):
        return SQLiteStorage(directory)


@WARNS_OF_FORKS
@pytest.mark.asyncio
async def test_a_run_uses_them_all_together(tmp_path):
    def train(config):
        for step in range(4):
            tune.report(loss=(config["x"] - 0.5) ** 2 + 1 / (step + 1), checkpoint={"step": step})

    remote, tally = SQLiteStorage(tmp_path / "remote.db"), EventTally()
    async with ForkExecutor(2) as executor:
        analysis = await tune.run(
            train,
            config={"x": tune.uniform(0, 1)},
            metric="loss",
            mode="min",
            num_samples=3,
            executor=executor,
            scheduler=StopBehindBest(margin=5, grace_period=2, max_t=3),
            search_alg=LocalSearch(),
            loggers=[LinesLogger],
            callbacks=[tally],
            storage_path=str(tmp_path / "local"),
            upload_dir=remote,
            verbose=0,
        )
    assert [trial.status for trial in analysis.trials] == ["TERMINATED"] * 3
    for trial in analysis.trials:
        rows = read_lines(Path(trial.logdir))
        assert [row["training_iteration"] for row in rows] == [1, 2, 3]
        assert any(trial.trial_id in entry.key for entry in remote.list(""))
        assert tally.losses[trial.trial_id] == [row["loss"] for row in rows]
    assert tally.kinds[Reported] == 9
    assert tally.kinds[TrialEnded] == 3
    assert tally.reason == "done"


def names_of_asynctune(path):
    """Yield each module and name of asynctune that a file imports or reads."""
    tree = ast.parse(path.read_text())
    packages = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "asynctune":
                    yield alias.name, None
                    packages[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asynctune":
            for alias in node.names:
                yield node.module, alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = packages.get(node.value.id)
            if module is not None:
                yield module, node.attr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_plug_in_uses_public_names_only(path):
    for module, name in names_of_asynctune(path):
        parts = [*module.split("."), *([name] if name else [])]
        assert not any(part.startswith("_") for part in parts), (module, name)
        if not module.startswith("asynctune.testing."):
            assert module in FACES, module
            assert name is None or name in importlib.import_module(module).__all__, (module, name)


def test_the_check_of_names_sees_private_and_deep_ones(tmp_path):
    for line in (
        "from asynctune.executors.actor import Actor",
        "from asynctune.executors import _machine",
        "import asynctune._threads",
        "from asynctune.storage import make_directories",
        "import asynctune as tune\nasync def f(): await tune.launch()",
        "from asynctune.testing._executor_harness import Meeting",
    ):
        path = tmp_path / "plugin.py"
        path.write_text(line)
        with pytest.raises(AssertionError):
            test_a_plug_in_uses_public_names_only(path)
