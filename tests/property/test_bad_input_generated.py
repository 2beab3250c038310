"""Whatever is wrong in a call of ``run``: it is a documented error that names it, and nothing starts."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from call_parts import Call, made
from hypothesis import HealthCheck, given, settings
from wrong_calls import A_CHECKPOINT, A_FILE, KINDS, right_calls, wrong_calls

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.executors.worker_server import WorkerServer

pytestmark = pytest.mark.slow


class Started(Exception):
    """A worker would have been started."""


class Inline(InlineExecutor):
    async def _start(self, spec):
        raise Started


async def no_server(*args):
    raise Started


async def attempt(call: Call) -> Exception | None:
    """Make a call; return what it raised."""
    pools = {"process": ProcessExecutor, "inline": Inline}
    async with AsyncExitStack() as stack:
        arguments = {"verbose": 0}
        if call.where in pools:
            arguments["executor"] = await stack.enter_async_context(pools[call.where]())
        trainable = None
        try:
            arguments |= {name: made(value) for name, value in call.arguments.items()}
            trainable = arguments.pop("trainable")
            await tune.run(trainable, **arguments)
        except Exception as exc:
            return exc
        finally:
            if inspect.iscoroutine(trainable):  # it is the caller's, who is the one to close it
                trainable.close()
    return None


def is_documented(call: Call, error: Exception | None) -> bool:
    """Whether an error is what something in the call has to raise, and names it."""
    text = str(error).casefold()
    return any(
        isinstance(error, wrong.error) and any(word.casefold() in text for word in wrong.words)
        for wrong in call.wrong
    )


def files_in(folder: Path) -> list[str]:
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with what calls need in it, and results below it."""
    place = tmp_path / "work"
    (place / A_CHECKPOINT).mkdir(parents=True)
    (place / A_CHECKPOINT / ".manifest.json").write_text("{}")
    (place / A_FILE).write_text("")
    monkeypatch.chdir(place)
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(place / "results"))
    monkeypatch.setattr(WorkerServer, "start", no_server)
    return place


def examples(count, strategy, check, is_long):
    """Check so many examples: always the same ones, or in the long form others each time."""
    once = given(strategy)(check)
    settings(
        max_examples=count, database=None, derandomize=not is_long,
        suppress_health_check=list(HealthCheck),
    )(once)()  # fmt: skip


@pytest.mark.timeout(14400)
def test_a_wrong_call_is_one_documented_error_that_names_the_culprit(folder, is_long):
    count = 100_000 if is_long else 3_000
    seen = Counter()
    there = files_in(folder)

    def check(call):
        error = asyncio.run(attempt(call))
        seen[str(error)] += 1
        assert not isinstance(error, Started), "a worker was started"
        assert is_documented(call, error), repr(error)
        assert files_in(folder) == there

    share = count / sum(weight for weight, _ in KINDS)
    for weight, kind in KINDS:
        examples(max(1, round(weight * share)), wrong_calls(kind), check, is_long)
    assert sum(seen.values()) >= 0.95 * count
    assert len(seen) > 500, "they are wrong in many ways"


@pytest.mark.timeout(3600)
def test_the_calls_would_be_right_without_what_is_wrong_in_them(folder, is_long):
    started = []

    def check(call):
        error = asyncio.run(attempt(call))
        assert isinstance(error, Started), repr(error)
        started.append(call)
        for entry in folder.iterdir():
            if entry.name != "there":
                shutil.rmtree(entry)

    examples(2_000 if is_long else 100, right_calls, check, is_long)
    assert started
