"""The effect of thread limits: two workers multiply matrices at once, with limits and without.

Each worker has one CPU. With limits its BLAS uses one thread; without, one thread per CPU of the
machine, as numpy does by itself. Run it alone on the machine: ``python benchmarks/threads.py``.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from typing import Any

from asynctune.executors import ProcessExecutor
from asynctune.trainable.base import Trainable

WORKERS = 2
SIZE = 500
PRODUCTS = 150
ROUNDS = 3
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Multiply(Trainable):
    def _setup(self, config: dict[str, Any]) -> None:
        import numpy as np  # after the worker has got its environment

        rng = np.random.default_rng(0)
        self.left, self.right = rng.standard_normal((2, SIZE, SIZE))
        self.out = np.empty((SIZE, SIZE))

    def _train(self) -> dict[str, Any]:
        import numpy as np

        for _ in range(PRODUCTS):
            np.matmul(self.left, self.right, out=self.out)
        return {"sum": float(self.out.sum())}


async def seconds() -> float:
    """Let the workers multiply at the same time. Return the seconds of the fastest of a few rounds."""
    async with (
        ProcessExecutor(WORKERS) as pool,
        pool.actor(Multiply) as one,
        pool.actor(Multiply) as other,
    ):
        await asyncio.gather(one.train(), other.train())  # to warm up
        taken = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            await asyncio.gather(one.train(), other.train())
            taken.append(time.perf_counter() - start)
    return min(taken)


async def main() -> None:
    cpus = os.cpu_count() or 1
    for name in THREAD_COUNTS:
        os.environ.pop(name, None)
    limited = await seconds()
    os.environ.update(dict.fromkeys(THREAD_COUNTS, str(cpus)))  # does not replace the user's
    free = await seconds()
    print(
        f"{WORKERS} workers x {PRODUCTS} products of {SIZE} x {SIZE} matrices on {cpus} CPUs:\n"
        f"  1 thread each, as asynctune sets it: {limited:.2f} s\n"
        f"  {cpus} threads each, numpy's default:    {free:.2f} s\n"
        f"  ratio: {free / limited:.2f}"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ASYNCTUNE_RESULTS_DIR"] = folder
        asyncio.run(main())
