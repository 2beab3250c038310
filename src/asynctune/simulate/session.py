"""A run on a table of curves that leaves no files behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio.to_thread

from asynctune._threads import run_uninterrupted
from asynctune.experiment import events as ev
from asynctune.experiment.analysis import ExperimentAnalysis
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.result import Row
from asynctune.runner.api import run
from asynctune.simulate.curves import Curves
from asynctune.simulate.executor import SimulatedExecutor


@dataclass(frozen=True, slots=True)
class Simulated:
    """The outcome of a simulated run.

    Args:
        rows: All results in the order in which they were reported, each with its time as ``simulated_s``.
        seconds: The virtual duration of the run, in seconds.
        analysis: The analysis of the run. Without a ``storage_path`` its files are deleted, so that it has
            only the last result of each trial.
    """

    rows: list[Row]
    seconds: float
    analysis: ExperimentAnalysis


async def tune(
    curves: Curves,
    workers: int = 4,
    *,
    setup_s: float = 0,
    save_s: float = 0,
    restore_s: float = 0,
    **arguments: Any,
) -> Simulated:
    """Run trials on a table of curves: :func:`asynctune.run` with a :class:`SimulatedExecutor`.

    Args:
        curves: The table.
        workers: The number of trials that train at once.
        setup_s: The virtual seconds that building a trial takes.
        save_s: The virtual seconds that saving a checkpoint takes.
        restore_s: The virtual seconds that restoring a checkpoint takes.
        **arguments: The arguments of :func:`asynctune.run`. The defaults differ: ``config`` is
            ``curves.space()``, ``loggers`` is empty, ``verbose`` is 0, and the results directory is a
            temporary one, which is deleted before this returns.

    Returns:
        The rows, the duration and the analysis of the run.

    Raises:
        ConfigError: An argument is wrong.
    """
    loop = asyncio.get_running_loop()
    pool = SimulatedExecutor(curves, workers, setup_s=setup_s, save_s=save_s, restore_s=restore_s)
    async with AsyncExitStack() as stack:
        if arguments.get("storage_path") is None and arguments.get("local_dir") is None:
            directory = await run_uninterrupted(_temporary, undo=TemporaryDirectory.cleanup)
            stack.push_async_callback(run_uninterrupted, directory.cleanup, undo=_nothing)
            arguments["storage_path"] = directory.name
        await stack.enter_async_context(pool)
        defaults: dict[str, Any] = {"config": curves.space(), "loggers": [], "verbose": 0}
        start = loop.time()
        analysis = await run(curves.trainable, executor=pool, **(defaults | arguments))
        seconds = loop.time() - start
        rows = await anyio.to_thread.run_sync(_rows, analysis.path)
        return Simulated(rows, seconds, analysis)


def _rows(directory: str) -> list[Row]:
    """Read the rows of a run from its journal, in order. Call it in a thread."""
    journal = JournalReader(Path(directory, FILE_NAME))
    events = (event for _, event in journal.events())
    return [event.row for event in events if isinstance(event, ev.Reported)]


def _temporary() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="asynctune-simulated-")


def _nothing(_: object) -> None:
    pass
