"""The throughput of trials and reports: 500 trials that do nothing, and 2 trials of 2,000 reports.

Run it alone on the machine: ``python benchmarks/throughput.py``.
"""

from __future__ import annotations

import asyncio
import tempfile
import time

import asynctune as tune


def nothing(config: dict) -> None:
    pass


def many(config: dict) -> None:
    for step in range(2000):
        tune.report(loss=1 / (step + 1))


async def timed(label: str, mark_s: float, trainable: object, **options: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        analysis = await tune.run(trainable, storage_path=folder, verbose=0, **options)
        seconds = time.perf_counter() - start
        stats = analysis.stats()
    print(
        f"{label}: {seconds:.2f} s (mark: {mark_s:g} s), {stats['trials']} trials, "
        f"{stats['results']} results"
    )


async def main() -> None:
    limits = {"max_concurrent_trials": 2}
    await timed("500 trials that do nothing", 5, nothing, num_samples=500, **limits)
    await timed("2 trials x 2,000 reports", 3, many, num_samples=2, **limits)


if __name__ == "__main__":
    asyncio.run(main())
