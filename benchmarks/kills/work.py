"""The work of every system, and the ledger of the results, which is independent of all systems.

Only the standard library is imported here: the drivers of all systems and their workers use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

LEDGER = "ledger"
RECORD = "record.json"
STORAGE = "storage"
WORK = "work.json"
NAME = "killed"
TAIL = 400  # bytes

Row = tuple[int, int]  # trial, iteration


@dataclass(frozen=True, slots=True)
class Work:
    """``trials`` trials of ``iterations`` iterations of ``seconds`` each, ``at_once`` of them at a time."""

    trials: int
    iterations: int
    seconds: float
    at_once: int = 2

    def save(self, folder: Path) -> None:
        (folder / WORK).write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(folder: Path) -> Work:
        return Work(**json.loads((folder / WORK).read_text()))


def value(trial: int, iteration: int) -> float:
    """Return the value of iteration ``iteration`` (from 1) of trial ``trial`` (from 0)."""
    return trial + 1 / iteration


def note(
    folder: str | Path, event: Literal["ran", "delivered"], trial: int, iteration: int
) -> None:
    """Append one line with one write, which a SIGKILL neither loses nor splits."""
    line = json.dumps({"event": event, "trial": trial, "iteration": iteration}) + "\n"
    ledger = os.open(Path(folder) / LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial in a system's own record, read in the way of its users.

    Attributes:
        trial: The number of the trial.
        rows: The iterations of its rows, in order; a repeated one is a duplicate.
        log_rows: The iterations in its log file, if there is one beside the record.
        status: The status in the system's own terms.
        finished: Whether the record shows a successful end, after the last iteration.
        running: Whether the record shows the trial as running, although nothing runs.
        error: The error of the trial, if any.
    """

    trial: int
    rows: tuple[int, ...]
    status: str
    finished: bool
    running: bool
    error: str | None = None
    log_rows: tuple[int, ...] | None = None


def save_record(folder: Path, trials: list[TrialRecord]) -> None:
    whole = folder / (RECORD + ".part")
    whole.write_text(json.dumps([asdict(trial) for trial in trials]))
    whole.rename(folder / RECORD)


def load_record(folder: Path) -> list[TrialRecord]:
    trials: list[dict[str, Any]] = json.loads((folder / RECORD).read_text())
    return [TrialRecord(**trial) for trial in trials]


@dataclass(slots=True)
class Tails:
    """The outcomes of a journal that was cut at each of its last bytes, and resumed twice each time.

    Attributes:
        tried: The number of cuts.
        torn: The cuts inside of a record.
        first_failed: The first resumes that raised.
        later_failed: The second resumes that raised, so that the study is lost.
        rows_lost: Rows of whole records before the cut that a resumed study did not have.
        errors: The distinct errors, with their counts.
    """

    tried: int = 0
    torn: int = 0
    first_failed: int = 0
    later_failed: int = 0
    rows_lost: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return self.tried > 0 and not self.first_failed + self.later_failed + self.rows_lost

    @staticmethod
    def cuts(whole: bytes) -> range:
        return range(max(1, len(whole) - TAIL), len(whole) + 1)

    def try_cut(self, data: bytes, before: set[Row], resume: Callable[[], set[Row]]) -> None:
        """Resume twice; ``before`` are the rows of the complete records of the cut journal."""
        self.tried += 1
        self.torn += not data.endswith(b"\n")
        rows: set[Row] = set()
        failed = []
        for _ in range(2):
            try:
                rows = resume()
            except Exception as exc:
                failed.append(True)
                self.errors[type(exc).__name__] = self.errors.get(type(exc).__name__, 0) + 1
            else:
                failed.append(False)
        self.first_failed += failed[0]
        self.later_failed += failed[1]
        self.rows_lost += 0 if failed[1] else len(before - rows)

    def as_json(self) -> str:
        return json.dumps(asdict(self))
