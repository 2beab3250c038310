"""The time in which schedulers and searchers find good configurations: ours, Ray Tune's and Optuna's.

``python benchmarks/search_quality.py`` searches the committed table of learning curves for 50 seeds on
4 and on 64 simulated workers, and prints the best results over time. ``--peers PYTHON``, a Python with
``ray[tune]`` and ``optuna``, adds the peers on the same table, seeds and configurations. ``--tables``
compares TPE with random search on 12 more tables. ``--plot FILE`` draws a plot, if matplotlib is
installed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "search"))

import ours  # noqa: E402
import tables  # noqa: E402
from report import Case, Traces, markdown  # noqa: E402

from asynctune.simulate import Curves  # noqa: E402
from asynctune.space.domains import Choice, LogRandInt, LogUniform, RandInt  # noqa: E402

TABLE = HERE / "data" / "digits_curves.jsonl.gz"
LIMITS = {4: 25.0, 64: 1.5}
"""The simulated seconds of a search, by the number of workers: about the same time of all workers."""

MARKED = 4
LONG = 45.0
"""The simulated seconds of a search for the mark: more than 100 configurations take on 4 workers."""

THEIRS = {"Ray": ["TPE", "ASHA", "HyperBand", "median", "PBT"],
          "Optuna": ["TPE", "ASHA", "HyperBand", "median"]}  # fmt: skip
DRAWN = 8_000
_curves: list[Curves] = []  # loaded once in each process


def curves() -> Curves:
    """Return the table."""
    if not _curves:
        _curves.append(Curves.load(TABLE))
    return _curves[0]


def search(key: tuple[str, int, int]) -> Case:
    """Run one of our cases, in a process of its own."""
    method, workers, seed = key
    found = ours.trace(curves(), method, workers, seed, LIMITS[workers])
    if workers == MARKED and method in ours.MARKED and found[-1][1] < goal(seed):
        found = ours.trace(curves(), method, workers, seed, LONG)
    return Case("asynctune", method, workers, seed, found)


def goal(seed: int) -> float:
    """Return the best final accuracy of the first 100 configurations that a seed draws."""
    table = curves()
    first = ours.drawn(table, seed, ours.FIRST)
    return max(table[number].metrics[ours.METRIC][-1] for number in first)


def search_ours(keys: list[tuple[str, int, int]], jobs: int) -> Iterator[Case]:
    """Run our cases, a number of them at once."""
    if jobs == 1:
        yield from map(search, keys)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(search, keys)


def search_theirs(python: str, cases: list[dict[str, Any]], jobs: int) -> Iterator[Case]:
    """Run the cases of the peers, in a number of processes of their Python."""
    table = curves()
    best = range(len(table))
    rng = random.Random(0)
    check = []
    for _ in range(200):
        config = {name: domain.sample(rng) for name, domain in table.domains.items()}
        check.append((config, table.find(config)))
    told = {
        "seconds": [list(table[n].seconds) for n in best],
        "accuracy": [list(table[n].metrics[ours.METRIC]) for n in best],
        "configs": [dict(table[n].config) for n in best],
        "domains": {name: _describe(domain) for name, domain in table.domains.items()},
        "check": check,
    }
    running = []
    for job in range(jobs):
        share = cases[job::jobs]
        process = subprocess.Popen(
            [python, str(HERE / "search" / "peers.py")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        json.dump({"table": told, "cases": share}, process.stdin)
        process.stdin.close()
        running.append(process)
    for process in running:
        assert process.stdout is not None
        for line in process.stdout:
            yield Case(**json.loads(line))
        if process.wait():
            raise SystemExit(f"{python} search/peers.py failed")


def _describe(domain: Any) -> dict[str, Any]:
    """Describe a domain to the peers: how it is drawn, and how it is laid out."""
    if isinstance(domain, Choice):
        values = list(domain.categories)
        if all(isinstance(value, str) for value in values):
            return {"kind": "choice", "values": values, "words": values}
        low, high = min(values), max(values)
        log = low > 0 and high >= 4 * low
        return {
            "kind": "choice",
            "values": values,
            "words": [],
            "low": low,
            "high": high,
            "log": log,
        }
    log = isinstance(domain, LogUniform | LogRandInt)
    kind = ("log" if log else "") + (
        "randint" if isinstance(domain, RandInt | LogRandInt) else "uniform"
    )
    bounds = {"low": domain.low, "high": domain.high, "lower": domain.low, "upper": domain.high}
    return {"kind": kind, "words": [], "log": log, **bounds}


def stored(path: Path | None) -> list[Case]:
    """Read the cases that an earlier run wrote."""
    if path is None or not path.exists():
        return []
    return [Case(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2, help="how many processes work")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python with ray[tune] and optuna")
    parser.add_argument(
        "--methods", nargs="+", choices=list(ours.METHODS), default=list(ours.METHODS)
    )
    parser.add_argument(
        "--workers", nargs="+", type=int, choices=list(LIMITS), default=list(LIMITS)
    )
    parser.add_argument(
        "--tables", action="store_true", help="compare TPE with random search, only"
    )
    parser.add_argument("--traces", type=Path, help="where traces are kept, and taken up again")
    parser.add_argument("--plot", type=Path, help="an .svg or .png to draw")
    arguments = parser.parse_args()
    if arguments.tables:
        print(tables.compare(arguments.seeds, arguments.jobs))
        return
    began = time.monotonic()
    cases = stored(arguments.traces)
    known = {(case.system, case.method, case.workers, case.seed) for case in cases}
    keys = [
        (method, workers, seed)
        for seed in range(arguments.seeds)
        for workers in arguments.workers
        for method in arguments.methods
        if (workers == MARKED or "," not in method)
        and ("asynctune", method, workers, seed) not in known
    ]
    theirs = _their_cases(arguments, known) if arguments.peers else []
    kept = arguments.traces.open("a") if arguments.traces else None
    for number, case in enumerate(_all(arguments, keys, theirs), 1):
        cases.append(case)
        if kept is not None:
            told = {name: getattr(case, name) for name in case.__slots__}
            kept.write(json.dumps(told) + "\n")
            kept.flush()
        if number % 50 == 0:
            spent = time.monotonic() - began
            print(f"{number} of {len(keys) + len(theirs)} searches, {spent:.0f} s", file=sys.stderr)
    if kept is not None:
        kept.close()
    seeds = range(arguments.seeds)
    cases = [
        case
        for case in cases
        if case.seed in seeds
        and case.method in arguments.methods
        and case.workers in arguments.workers
    ]
    print(summary(cases, seeds))
    if arguments.plot is not None:
        try:
            _traces(cases).plot(arguments.plot, arguments.workers)
        except ImportError:
            print(
                "\nmatplotlib is not installed, so nothing was drawn: pip install asynctune[plot]"
            )


def _all(
    arguments: argparse.Namespace, keys: list[tuple[str, int, int]], theirs: list[dict[str, Any]]
) -> Iterator[Case]:
    yield from search_ours(keys, arguments.jobs)
    if theirs:
        yield from search_theirs(arguments.peers, theirs, arguments.jobs)


def _their_cases(arguments: argparse.Namespace, known: set[Any]) -> list[dict[str, Any]]:
    found = []
    for seed in range(arguments.seeds):
        wanted = [
            (system, method, workers)
            for system, methods in THEIRS.items()
            for method in methods
            for workers in arguments.workers
            if method in arguments.methods
            and (system, method, workers, seed) not in known
            # Ray's median rule reads all rows of all trials again at each row.
            and (method != "median" or workers == MARKED)
        ]
        if not wanted:
            continue
        drawn = ours.drawn(curves(), seed, DRAWN)
        for system, method, workers in wanted:
            population = ours.population(workers) if method == "PBT" else None
            needed = drawn if method != "TPE" else []
            found.append({"system": system, "method": method, "workers": workers, "seed": seed,
                          "limit": LIMITS[workers], "population": population, "drawn": needed})  # fmt: skip
    return found


def _traces(cases: list[Case]) -> Traces:
    table = curves()
    best = max(max(table[n].metrics[ours.METRIC]) for n in range(len(table)))
    return Traces(cases, best, LIMITS)


def summary(cases: list[Case], seeds: range) -> str:
    """Return the results as text."""
    table, traces = curves(), _traces(cases)
    goals = {seed: goal(seed) for seed in seeds}
    hours = math.fsum(math.fsum(table[n].seconds) for n in range(len(table))) / 3600
    facts = [
        ["", ""],
        ["curves", f"{len(table):,} of {len(table[0])} epochs, {hours:.2f} hours of CPU"],
        ["best accuracy", f"{traces.best:.4f}"],
        ["seeds", str(len(seeds))],
    ]
    parts = ["## The table", markdown(facts)]
    if any((case.method, case.workers) == ("random", MARKED) for case in cases):
        parts += [
            "## Time to the best of 100 random configurations",
            traces.mark(goals, ours.MARKED, MARKED),
        ]
    parts.append("## Regret in points of accuracy: median at several times, mean over all times")
    shown = sorted({case.workers for case in cases})
    parts += [traces.table(workers) for workers in shown]
    compared = [text for text in map(traces.against, shown) if text]
    if compared:
        parts += ["## asynctune and other systems: mean regret over all times", *compared]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
