"""The numbers of a run, counted from the ledger and from the system's own record."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kills.schedule import History, Regime, ledger
from kills.work import TrialRecord, load_record

_PATHS = re.compile(r"/\S+/(checkpoint_\d+)")  # the location of the experiment is no information


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of one run, or of several, added up.

    Attributes:
        runs: The number of runs.
        kills: Kills of the running driver.
        delivered: Distinct results that were delivered.
        lost: Delivered results that the system's own record lacks at the end.
        repeated: Repeated deliveries of a result.
        duplicates: Rows of the record beyond the first of their trial and iteration.
        trials: Requested trials.
        unfinished: Trials that never finished, however often the driver was started.
        left_running: Trials that the record shows as running at the end.
        needed: Iterations of undisturbed runs.
        executed: Executed iterations.
        again: Executed iterations beyond the ones that the best covered trials needed.
        log_duplicates: The duplicates in log files that a system keeps beside its record.
        log_lost: Delivered results that these log files lack.
        alive_before: Descendants of the driver when it was killed: the fewest and the most.
        alive: Processes alive 2 s after a kill: the fewest and the most.
        seconds: The duration of the runs.
    """

    runs: int
    kills: int
    delivered: int
    lost: int
    repeated: int
    duplicates: int
    trials: int
    unfinished: int
    left_running: int
    needed: int
    executed: int
    again: int
    log_duplicates: int
    log_lost: int
    alive_before: tuple[int, int] | None
    alive: tuple[int, int] | None
    alive_names: dict[str, int]
    slowest_start_s: float
    hung: int
    seconds: float
    errors: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether the driver was killed, and nothing was lost."""
        bad = self.lost + self.duplicates + self.unfinished + self.left_running + self.hung
        left = self.alive is not None and self.alive[1]
        return self.kills > 0 and not bad and not left and not self.errors

    def __add__(self, other: Counts) -> Counts:
        apart = ("alive_before", "alive", "alive_names", "slowest_start_s", "errors")
        summed = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__dataclass_fields__
            if name not in apart
        }
        return Counts(
            **summed,
            alive_before=_range([*(self.alive_before or ()), *(other.alive_before or ())]),
            alive=_range([*(self.alive or ()), *(other.alive or ())]),
            alive_names=dict(Counter(self.alive_names) + Counter(other.alive_names)),
            slowest_start_s=max(self.slowest_start_s, other.slowest_start_s),
            errors=tuple(dict.fromkeys(self.errors + other.errors)),
        )


def _range(numbers: list[int]) -> tuple[int, int] | None:
    return (min(numbers), max(numbers)) if numbers else None


def counts(folder: Path, regime: Regime, history: History) -> Counts:
    """Count one run. A record that cannot be read counts as empty."""
    lines = ledger(folder)
    given = Counter((x["trial"], x["iteration"]) for x in lines if x["event"] == "delivered")
    ran = Counter((x["trial"], x["iteration"]) for x in lines if x["event"] == "ran")
    trials = [] if history.unreadable else load_record(folder)
    rows = Counter((trial.trial, row) for trial in trials for row in trial.rows)
    has_logs = any(trial.log_rows is not None for trial in trials)
    logs = Counter((trial.trial, row) for trial in trials for row in trial.log_rows or ())
    work = regime.work
    finished = sum(trial.finished for trial in trials)
    covered = Counter(trial for trial, _ in ran)  # distinct iterations of each trial
    return Counts(
        runs=1,
        kills=history.kills,
        delivered=len(given),
        lost=len(given.keys() - rows.keys()),
        repeated=given.total() - len(given),
        duplicates=rows.total() - len(rows),
        trials=work.trials,
        unfinished=max(0, work.trials - finished),
        left_running=sum(trial.running for trial in trials),
        needed=work.trials * work.iterations,
        executed=ran.total(),
        again=ran.total() - sum(n for _, n in covered.most_common(work.trials)),
        log_duplicates=logs.total() - len(logs),
        log_lost=len(given.keys() - logs.keys()) if has_logs else 0,
        alive_before=_range(history.alive_before),
        alive=_range(history.alive_after_2s),
        alive_names=dict(history.alive_names),
        slowest_start_s=history.slowest_start_s,
        hung=history.hung,
        seconds=history.seconds,
        errors=_errors(trials, history),
    )


def _errors(trials: list[TrialRecord], history: History) -> tuple[str, ...]:
    """Return the last line of each distinct error, to explain a bad number."""
    found = [trial.error.strip().splitlines()[-1] for trial in trials if trial.error]
    found = [_PATHS.sub(r"\1", error) for error in found]
    if history.unreadable:
        found.append(f"the record cannot be read: {history.unreadable}")
    return tuple(dict.fromkeys(found))
