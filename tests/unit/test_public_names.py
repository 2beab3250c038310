"""What ``import asynctune as tune`` offers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import asynctune as tune

SOURCE = Path(tune.__file__)


@pytest.mark.parametrize("name", tune.__all__)
def test_every_public_name_is_there_whatever_module_was_imported_first(name):
    for path in SOURCE.parent.glob("*.py"):
        importlib.import_module(
            f"asynctune.{path.stem}" if path.stem != "__init__" else "asynctune"
        )
    value = getattr(tune, name)
    is_module = type(value).__name__ == "module"
    assert is_module == (
        name
        in (
            "callbacks",
            "executors",
            "loggers",
            "schedulers",
            "simulate",
            "storage",
            "suggest",
            "track",
            "utils",
        )
    )


def test_type_checkers_see_the_same_names():
    tree = ast.parse(SOURCE.read_text())
    (checking,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in checking.body for alias in node.names}
    assert seen == {"__version__", *tune.__all__}
    assert seen == {"__version__", *tune._MODULE_OF, *tune._SUBPACKAGES}


def test_run_and_start_show_their_arguments_and_every_one_is_documented():
    import inspect
    from dataclasses import fields

    from asynctune.runner.plan.options import Options

    names = [field.name for field in fields(Options)]
    for function in (tune.run, tune.start):
        assert list(inspect.signature(function).parameters) == ["trainable", *names]
        shown = inspect.getdoc(function)
        for name in names:
            assert f"\n    {name}: " in shown, name
    assert inspect.iscoroutinefunction(tune.run)
    assert inspect.signature(tune.run).parameters["grace_s"].default == 10.0


CALLS = """
from datetime import timedelta
import asynctune as tune

def train(config: dict[str, float]) -> None:
    tune.report(loss=1)

async def main() -> None:
    analysis = await tune.run(train, config={"x": tune.uniform(0, 1)}, mode="min", grace_s=timedelta(1))
    reveal_type(analysis)
    tune.start(train, resume="AUTO", executor=tune.executors.InlineExecutor())
    await tune.run(train, num_smples=3)
    await tune.run(train, mode="minimum")
"""


@pytest.mark.slow
def test_type_checkers_know_the_arguments_of_run_and_their_types(tmp_path):
    (tmp_path / "calls.py").write_text(CALLS)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "calls.py"]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False
    ).stdout
    errors = [line.split(":")[1] for line in found.splitlines() if ": error:" in line]
    assert errors == ["12", "13"], found
    assert 'Revealed type is "asynctune.experiment.analysis.ExperimentAnalysis"' in found


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="rnu"):
        tune.rnu  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, asynctune; "
        "print([m for m in ('anyio', 'asyncio', 'numpy', 'pandas', 'cloudpickle') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"
