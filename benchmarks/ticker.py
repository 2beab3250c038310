"""The delay of a 10 ms ticker beside ``await tune.run(...)``, and beside an idle loop.

The control is the same ticker beside an idle loop while two processes keep both cores busy: the difference
is the work of asynctune on the loop. ``python benchmarks/ticker.py``
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator

import asynctune as tune

PERIOD_S = 0.01


def reports(config: dict) -> None:
    for step in range(100):
        end = time.perf_counter() + 0.005
        while time.perf_counter() < end:  # a busy process, like training
            pass
        tune.report(loss=1 / (step + 1))


class Ticker:
    """Ticks every 10 ms, and records the delay of each tick in seconds."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD_S
        while True:
            await asyncio.sleep(due - loop.time())
            now = loop.time()
            self.late.append(max(0.0, now - due))
            due = max(due + PERIOD_S, now)

    @property
    def worst(self) -> float:
        return max(self.late)

    @property
    def p99(self) -> float:
        return sorted(self.late)[int(len(self.late) * 0.99)]


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[Ticker]:
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    try:
        yield ticker
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def beside_a_run() -> tuple[Ticker, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        async with ticking() as ticker:
            await tune.run(reports, num_samples=8, storage_path=folder, verbose=0)
        return ticker, time.perf_counter() - start


async def beside_busy_processes(seconds: float) -> Ticker:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        async with ticking() as ticker:
            await asyncio.sleep(seconds)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return ticker


async def main() -> None:
    for attempt in range(3):
        run, seconds = await beside_a_run()
        control = await beside_busy_processes(seconds)
        print(
            f"{attempt + 1}: beside a run of {seconds:.1f} s: worst {run.worst * 1e3:.1f} ms, "
            f"99th percentile {run.p99 * 1e3:.1f} ms; beside an idle loop and two busy processes: "
            f"worst {control.worst * 1e3:.1f} ms, 99th percentile {control.p99 * 1e3:.1f} ms; "
            f"added: {(run.worst - control.worst) * 1e3:.1f} ms (mark 50) and "
            f"{(run.p99 - control.p99) * 1e3:.1f} ms (mark 20)"
        )


if __name__ == "__main__":
    asyncio.run(main())
