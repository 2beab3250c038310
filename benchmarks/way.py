"""Counts the modules of asynctune that one configuration passes, and one result.

A module is *passed* when one of its functions begins, continues or ends: at the events "call" and "return"
of ``sys.setprofile``, coroutines and generated methods (of dataclasses) included. Imports do not count:
the script makes another run before the measured one, and leaves out the calls of imports.
``asynctune/__init__.py`` does not count either, since it only loads names.

- The way of a *configuration* begins with the call of ``tune.start()``, which ``tune.run()`` calls at
  once, and ends where the user's ``_setup`` begins.
- The way of a *result* begins where the user's ``_train`` returns, and ends where ``async for result in
  experiment`` has the row. Only modules on the way of every result but the first and the last count.

All work in that time counts: in the driver with all its threads, in the worker server and in the worker.
The trial is a class with one sampler and one bound, in a ``ProcessExecutor`` that has to start its server
and its worker, without checkpoints and without loggers, which work beside the way. All processes read the
same clock, which orders their records.

A *top-level entry* is a direct child of ``src/asynctune``: a module, or a package with all its modules.

``python benchmarks/way.py [--verbose]``; for another source: ``PYTHONPATH=<src> python
benchmarks/way.py``. The flat layout of commit a2329f5 has 58 modules on the first way, and 27 on the
second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import asynctune as tune
from asynctune.executors import ProcessExecutor

FOLDER = "ASYNCTUNE_WAY"
"""The environment variable with the folder of the records, for a server that preloads this module."""
PACKAGE = "asynctune"
RESULTS = 12
_CODE_OF_FUNCTION = 0x1
"""CO_OPTIMIZED: neither the body of a module nor that of a class."""

Seen = list[tuple[int, str]]
seen: Seen = []
"""The records: the nanoseconds of the monotonic clock, and the module of a call or return."""


def watch() -> None:
    """Record from now on the modules that this thread and its new threads pass."""
    threading.setprofile(_note)
    sys.setprofile(_note)


def _note(frame: FrameType, event: str, argument: Any) -> None:
    name = frame.f_globals.get("__name__") or ""  # None when the interpreter ends
    if event not in ("call", "return") or not name.startswith(f"{PACKAGE}."):
        return
    if frame.f_code.co_flags & _CODE_OF_FUNCTION and not _is_imported_by(frame):
        seen.append((time.monotonic_ns(), name))


def _is_imported_by(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


class Watched(tune.Trainable):
    """Records the times at which its hooks begin and end."""

    def _setup(self, config: dict[str, Any]) -> None:
        self.began = time.monotonic_ns()

    def _train(self) -> dict[str, int]:
        file = Path(os.environ[FOLDER], f"{os.getpid()}.json")
        file.write_text(json.dumps(seen))  # the records before this iteration
        return {"began": self.began, "returned": time.monotonic_ns()}


async def one_run(folder: str) -> tuple[int, list[tuple[dict[str, int], int]]]:
    """Run one trial. Return the time of the call, and the rows with the times of their arrival."""
    async with ProcessExecutor(1, preload=["way"]) as pool:
        asked = time.monotonic_ns()
        async with tune.start(
            Watched, config={"x": tune.uniform(0, 1)}, stop={"training_iteration": RESULTS + 2},
            executor=pool, storage_path=folder, loggers=[], verbose=0,
        ) as experiment:  # fmt: skip
            return asked, [(row, time.monotonic_ns()) async for row in experiment]


def passed(events: Seen, start: int, end: int) -> set[str]:
    """Return the modules that were passed in a span of time."""
    return {name for moment, name in events if start <= moment <= end}


def show(what: str, names: set[str], *, verbose: bool) -> None:
    """Print the numbers of modules and top-level entries, and on request their names."""
    entries = sorted({name.split(".")[1] for name in names})
    print(f"{what}: {len(names)} modules, {len(entries)} top-level entries")
    if verbose:
        for entry in entries:
            own = f"{PACKAGE}.{entry}"
            inside = [name.removeprefix(f"{own}.") for name in names if name.startswith(f"{own}.")]
            if inside and own in names:
                inside.append("__init__")
            print(f"  {entry}{': ' if inside else ''}{', '.join(sorted(inside))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verbose", action="store_true", help="show the names, too")
    verbose = parser.parse_args().verbose
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        watch()
        asyncio.run(one_run(folder))  # so that all modules are imported
        for file in Path(folder).glob("*.json"):
            file.unlink()
        seen.clear()
        asked, came = asyncio.run(one_run(folder))
        sys.setprofile(None)
        threading.setprofile(None)
        (file,) = Path(folder).glob("*.json")
        events = [*seen, *map(tuple, json.loads(file.read_text()))]
    print(f"of {Path(tune.__file__).parent}")
    show("one configuration", passed(events, asked, came[0][0]["began"]), verbose=verbose)
    # The first result arrives while the run still starts; for the last one the records of the worker are
    # missing.
    ways = [passed(events, row["returned"], moment) for row, moment in came[1:-1]]
    show("one result", set.intersection(*ways), verbose=verbose)


if FOLDER in os.environ and __name__ != "__main__":
    watch()

if __name__ == "__main__":
    import way  # under the name that the worker imports, too

    way.main()
