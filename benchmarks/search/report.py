"""The results of search_quality.py as tables in Markdown, and as a plot."""

from __future__ import annotations

import bisect
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHANCE = 0.1
NEAR = 0.005
POINTS = 40
RESAMPLES = 4000

COLOURS = {
    "random": "#7f7f7f",
    "TPE": "#1f77b4",
    "ASHA": "#d62728",
    "ASHA promote": "#ff7f0e",
    "HyperBand": "#2ca02c",
    "BOHB": "#9467bd",
    "median": "#8c564b",
    "PBT": "#e377c2",
}
DASHES = {"asynctune": "-", "Ray": "--", "Optuna": ":"}


@dataclass(frozen=True, slots=True)
class Case:
    """One search.

    Args:
        system: The system.
        method: The name of the method.
        workers: On how many workers.
        seed: The seed.
        trace: The times at which the best accuracy rose, and its values.
    """

    system: str
    method: str
    workers: int
    seed: int
    trace: Sequence[Sequence[float]]

    def accuracy_at(self, time: float) -> float:
        """Return the best accuracy so far."""
        place = bisect.bisect_right([when for when, _ in self.trace], time)
        return self.trace[place - 1][1] if place else CHANCE

    def time_to(self, accuracy: float) -> float:
        """Return the time at which an accuracy was reached, infinity for never."""
        return next((when for when, value in self.trace if value >= accuracy), math.inf)


class Traces:
    """All cases, and the best accuracy in the table.

    Args:
        cases: The cases.
        best: The best accuracy in the table.
        limits: The seconds of a search, by the number of workers.
    """

    def __init__(self, cases: Iterable[Case], best: float, limits: dict[int, float]) -> None:
        self.best = best
        self.limits = limits
        self.groups: dict[tuple[str, str, int], dict[int, Case]] = {}
        for case in sorted(cases, key=_order):
            group = self.groups.setdefault((case.system, case.method, case.workers), {})
            group[case.seed] = case

    def regrets(self, group: tuple[str, str, int], time: float) -> list[float]:
        """Return the regret of each seed at a time."""
        return [self.best - case.accuracy_at(time) for case in self.groups[group].values()]

    def mean_regret(self, case: Case) -> float:
        """Return a search's mean regret over the logarithm of time, from 1/50 of it on."""
        times = _times(self.limits[case.workers])
        return statistics.fmean(self.best - case.accuracy_at(time) for time in times)

    # -- tables -----------------------------------------------------------------------------------

    def table(self, workers: int) -> str:
        """Return a table of regrets, in points of accuracy, and of the times at which they become small."""
        limit = self.limits[workers]
        times = [limit / 20, limit / 5, limit / 2, limit]
        head = [f"{workers} workers", "", *(f"{time:.3g} s" for time in times)]
        rows = [[*head, "mean", f"time to {100 * NEAR:g}", "reached"]]
        for system, method, of in self.groups:
            if of != workers or "," in method:
                continue
            group = (system, method, of)
            medians = [statistics.median(self.regrets(group, time)) for time in times]
            cases = self.groups[group].values()
            mean = statistics.fmean(map(self.mean_regret, cases))
            reached = [case.time_to(self.best - NEAR) for case in cases]
            share = sum(map(math.isfinite, reached)) / len(reached)
            rows.append(
                [method, system, *(f"{100 * value:.2f}" for value in medians), f"{100 * mean:.3f}",
                 _seconds(statistics.median(reached)), f"{share:.0%}"]
            )  # fmt: skip
        return markdown(rows)

    def against(self, workers: int) -> str:
        """Compare ours with the same method of others: mean regret, with its interval over seeds."""
        head = ["compared with", "asynctune", "other", "difference", "95 %", "asynctune is"]
        rows = [[f"{workers} workers", *head]]
        for system, method, of in self.groups:
            ours = self.groups.get(("asynctune", method, workers))
            if of != workers or system == "asynctune" or ours is None:
                continue
            theirs = self.groups[system, method, workers]
            both = sorted(ours.keys() & theirs.keys())
            mine = [100 * self.mean_regret(ours[seed]) for seed in both]
            other = [100 * self.mean_regret(theirs[seed]) for seed in both]
            gaps = [one - another for one, another in zip(mine, other, strict=True)]
            low, high = _interval(gaps)
            verdict = "worse" if low > 0 else "better" if high < 0 else "the same"
            means = [statistics.fmean(values) for values in (mine, other, gaps)]
            rows.append([method, system, *(f"{value:.3f}" for value in means),
                         f"{low:+.3f} to {high:+.3f}", verdict])  # fmt: skip
        return markdown(rows) if len(rows) > 1 else ""

    def mark(self, goals: dict[int, float], methods: Sequence[str], workers: int) -> str:
        """Compare with random search at full budget: the time to the best of its 100 configurations.

        Args:
            goals: The best final accuracy of the first 100 configurations, by seed.
            methods: The methods to compare.
            workers: On how many workers.
        """
        plain = self.groups["asynctune", "random", workers]
        rows = [["", "median time", "ratio to random", "never reached"]]
        for method in methods:
            cases = self.groups.get(("asynctune", method, workers), {})
            seeds = sorted(cases.keys() & plain.keys() & goals.keys())
            if not seeds:
                continue
            times = {seed: cases[seed].time_to(goals[seed]) for seed in seeds}
            ratios = [times[seed] / plain[seed].time_to(goals[seed]) for seed in seeds]
            never = sum(map(math.isinf, times.values()))
            rows.append([method, _seconds(statistics.median(times.values())),
                         f"{statistics.median(ratios):.2f}", f"{never} of {len(seeds)}"])  # fmt: skip
        return markdown(rows)

    # -- the plot ---------------------------------------------------------------------------------

    def plot(self, path: Path, panels: Sequence[int]) -> None:
        """Draw the median regret against simulated time, a panel for each number of workers.

        Args:
            path: An ``.svg`` or ``.png``.
            panels: The numbers of workers.

        Raises:
            ImportError: matplotlib is not installed.
        """
        import matplotlib as mpl

        mpl.use("Agg")
        mpl.rcParams["svg.hashsalt"] = "asynctune"  # the same picture has the same bytes
        import matplotlib.pyplot as plt

        size = (6 * len(panels), 5)
        figure, drawn = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
        axes = drawn[0]
        for axis, workers in zip(axes, panels, strict=True):
            times = _times(self.limits[workers], 120)
            for system, method, of in self.groups:
                if of != workers or method not in COLOURS:
                    continue
                group = (system, method, of)
                is_ours = system == "asynctune"
                axis.step(
                    times,
                    [100 * statistics.median(self.regrets(group, time)) for time in times],
                    where="post",
                    color=COLOURS[method],
                    label=method if is_ours else f"{method}, {system}",
                    linestyle=DASHES[system],
                    linewidth=1.8 if is_ours else 1.0,
                )
            axis.set(xscale="log", yscale="log", ylim=(0.1, 40), title=f"{workers} workers")
            axis.set_xlabel("simulated seconds")
            axis.grid(visible=True, which="both", alpha=0.2)
        axes[0].set_ylabel("median regret, points of accuracy")
        axes[-1].legend(fontsize=7, loc="upper right")
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write rows as a table, the first one being its head."""
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _order(case: Case) -> tuple[int, int, int]:
    """Sort the same methods together, ours first."""
    methods, systems = list(COLOURS), list(DASHES)
    known = methods.index(case.method) if case.method in COLOURS else len(methods)
    return known, systems.index(case.system), case.seed


def _times(limit: float, points: int = POINTS) -> list[float]:
    return [limit * 50 ** (step / (points - 1) - 1) for step in range(points)]


def _seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f} s"


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by drawing the seeds again (a bootstrap)."""
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]
