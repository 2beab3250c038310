"""A whole run on a table of curves, with nothing left of it on the disk."""

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
    """What came of a simulated run.

    Args:
        rows: All results, in the order in which they came; each has its time as ``simulated_s``.
        seconds: How long the run would have taken.
        analysis: The analysis. Of a run without a ``storage_path`` it knows each trial's last result, and
            no longer its earlier ones.
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
        workers: How many trials train at once.
        setup_s: The seconds that building a trial takes.
        save_s: The seconds that saving a checkpoint takes.
        restore_s: The seconds that restoring one takes.
        **arguments: As for :func:`asynctune.run`. By default ``config`` is ``curves.space()``, there are no
            loggers and nothing is shown, and the folder of results is a temporary one, which is gone when
            this returns.

    Returns:
        What came of it.

    Raises:
        ConfigError: An argument is wrong.
    """
    loop = asyncio.get_running_loop()
    pool = SimulatedExecutor(curves, workers, setup_s=setup_s, save_s=save_s, restore_s=restore_s)
    async with AsyncExitStack() as stack:
        if arguments.get("storage_path") is None and arguments.get("local_dir") is None:
            folder = await run_uninterrupted(_temporary, undo=TemporaryDirectory.cleanup)
            stack.push_async_callback(run_uninterrupted, folder.cleanup, undo=_nothing)
            arguments["storage_path"] = folder.name
        await stack.enter_async_context(pool)
        given: dict[str, Any] = {"config": curves.space(), "loggers": [], "verbose": 0} | arguments
        began = loop.time()
        analysis = await run(curves.trainable, executor=pool, **given)
        seconds = loop.time() - began
        rows = await anyio.to_thread.run_sync(_rows, analysis.path)
        return Simulated(rows, seconds, analysis)


def _rows(directory: str) -> list[Row]:
    """Read the rows of a run, in the order in which they came. In a thread."""
    journal = JournalReader(Path(directory, FILE_NAME))
    events = (event for _, event in journal.events())
    return [event.row for event in events if isinstance(event, ev.Reported)]


def _temporary() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="asynctune-simulated-")


def _nothing(_: object) -> None:
    pass
