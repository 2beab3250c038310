"""The delay of a 10 ms ticker while Optuna suggests 1,000 trials in a thread, as in a run.

Like a run, the benchmark notifies the searcher of three results and the end of each trial, so each
suggestion depends on all earlier trials. The controls are the same ticker beside an idle loop, and beside a
thread that only counts, which shows the cost of a thread that holds the interpreter lock.

``python benchmarks/t_suggest_latency.py`` on an idle machine. On a busy machine the thread that holds the
lock may be off its CPU; ``chrt -f 10 python benchmarks/t_suggest_latency.py --pause 4`` gives this process
priority over all others, with pauses so that the kernel does not throttle it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time
from collections.abc import Callable

import anyio.to_thread
from ticker import Ticker, ticking

import asynctune as tune
from asynctune.space.space import Space
from asynctune.suggest.base import Searcher
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.optuna import OptunaSearch

MARK_MS = 50
SPACE = {
    "lr": tune.loguniform(1e-5, 1),
    "momentum": tune.uniform(0, 1),
    "dropout": tune.quniform(0, 0.9, 0.1),
    "layers": tune.randint(1, 9),
    "width": tune.lograndint(8, 1025),
    "activation": tune.choice(["relu", "tanh", "gelu"]),
}


def loss(values: dict) -> float:
    """A bowl, whose bottom is at 0."""
    return (
        (math.log10(values["lr"]) + 2) ** 2
        + (values["momentum"] - 0.9) ** 2
        + (values["dropout"] - 0.3) ** 2
        + (values["layers"] - 4) ** 2 / 16
        + (math.log2(values["width"]) - 7) ** 2 / 9
        + ("relu", "tanh", "gelu").index(values["activation"])
    )


async def suggested(
    searcher: Searcher, count: int, pause_s: float
) -> tuple[Ticker, list[float], float]:
    """Let a searcher suggest. Return the ticker, the duration of each suggestion, and the best loss."""
    searcher.bind(Space(SPACE), "loss", "min", 0)
    took, best = [], math.inf

    def one(trial_id: str) -> float:
        start = time.perf_counter()
        values = searcher.suggest(trial_id)
        took.append(time.perf_counter() - start)
        for iteration in (1, 3, 9):
            row = {"loss": loss(values) + 1 / iteration, "training_iteration": iteration}
            searcher.on_trial_result(trial_id, row)
        searcher.on_trial_complete(trial_id, row)
        return loss(values)

    async with ticking() as ticker:
        for number in range(count):
            best = min(best, await anyio.to_thread.run_sync(one, f"trial_{number}"))
            await asyncio.sleep(pause_s)
    return ticker, took, best


async def beside_nothing(seconds: float) -> Ticker:
    async with ticking() as ticker:
        await asyncio.sleep(seconds)
    return ticker


async def beside_counting(seconds: float, pause_s: float) -> Ticker:
    def count() -> None:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass

    async with ticking() as ticker:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await anyio.to_thread.run_sync(count)
            await asyncio.sleep(pause_s)
    return ticker


def line(what: str, ticker: Ticker) -> str:
    return (
        f"{what:<28} worst {ticker.worst * 1e3:5.1f} ms, 99th percentile {ticker.p99 * 1e3:5.1f} ms "
        f"of {len(ticker.late)} ticks"
    )


async def main(count: int, pause_s: float) -> None:
    searchers: dict[str, Callable[[], Searcher]] = {
        "OptunaSearch (TPE)": OptunaSearch,
        "BOHBSearch": BOHBSearch,
    }
    for name, make in searchers.items():
        start = time.perf_counter()
        ticker, took, best = await suggested(make(), count, pause_s)
        seconds = time.perf_counter() - start
        took.sort()
        print(
            f"{name}: {count} suggestions in {seconds:.1f} s; median {took[count // 2] * 1e3:.1f} ms, "
            f"longest {took[-1] * 1e3:.1f} ms; best loss {best:.4f}"
        )
        verdict = "kept" if ticker.worst * 1e3 < MARK_MS else "MISSED"
        print(
            " ", line("beside the suggestions:", ticker), f"(mark: worst < {MARK_MS} ms; {verdict})"
        )
        print(" ", line("beside an idle loop:", await beside_nothing(min(seconds, 10))))
        counting = await beside_counting(min(seconds, 10), pause_s)
        print(" ", line("beside a counting thread:", counting))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000, help="how many suggestions")
    parser.add_argument("--pause", type=float, default=0, help="ms between suggestions")
    given = parser.parse_args()
    print(f"load average: {os.getloadavg()[0]:.1f}")
    asyncio.run(main(given.count, given.pause / 1e3))
