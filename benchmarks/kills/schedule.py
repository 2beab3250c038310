"""The schedule of kills: the times at which the driver of a system is killed, and the restarts."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kills import tree
from kills.work import LEDGER, STORAGE, Work

HERE = Path(__file__).parent
_POLL_S = 0.02
_START_S = 120.0  # a driver that delivers nothing and does not end in this time counts as hung


@dataclass(frozen=True, slots=True)
class Regime:
    """A regime of ``kills`` kills, each ``after`` (from, to) seconds after new progress."""

    name: str
    work: Work
    kills: int
    after: tuple[float, float]
    finish_s: float

    def delays(self, seed: int) -> list[float]:
        """Return the delays before the kills, the same for every system."""
        dice = random.Random(f"{self.name} {seed}")
        return [dice.uniform(*self.after) for _ in range(self.kills)]


@dataclass(frozen=True, slots=True)
class System:
    """A system whose driver is killed; ``command`` starts the driver."""

    name: str
    version: str
    python: str
    script: str
    storage: tuple[str, ...] = ()

    def command(self, what: str, folder: Path) -> list[str]:
        return [self.python, str(HERE / self.script), what, *self.storage, str(folder)]


@dataclass(slots=True)
class History:
    """The kills of the drivers of one run, and the observations."""

    kills: int = 0
    ends: list[int] = field(default_factory=list)
    hung: int = 0
    slowest_start_s: float = 0.0
    alive_before: list[int] = field(default_factory=list)
    alive_after_2s: list[int] = field(default_factory=list)
    alive_names: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    unreadable: str | None = None


def ledger(folder: Path) -> list[dict[str, object]]:
    path = folder / LEDGER
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def delivered(folder: Path) -> int:
    return sum(line["event"] == "delivered" for line in ledger(folder))


class Driver:
    """One process of a driver; the end of the block kills the process and all its descendants."""

    def __init__(self, system: System, folder: Path, history: History) -> None:
        self.folder = folder
        self.history = history
        self.before = delivered(folder)
        self.started = time.monotonic()
        with (folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                system.command("run", folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        tree.end_all(self.process.pid)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for_progress(self) -> bool:
        """Return whether the driver delivered a new result before its end or the time limit."""
        while not self.ended() and time.monotonic() - self.started < _START_S:
            if delivered(self.folder) > self.before:
                start = time.monotonic() - self.started
                self.history.slowest_start_s = max(self.history.slowest_start_s, start)
                return True
            tree.pause(_POLL_S, self.process.pid)
        return False

    def wait_for_end(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            tree.pause(_POLL_S, self.process.pid)
        return self.ended()

    def kill(self) -> None:
        """Kill the driver, and count its processes, old and new ones, that are alive 2 s later."""
        pid = self.process.pid
        with tree.Watched() as watched:
            watched.add([other for other in tree.descendants() if other != pid])
            self.history.alive_before.append(len(watched.living()))
            self.process.kill()
            self.process.wait()
            tree.pause(2.0, pid)
            watched.add(tree.descendants())
            left = watched.living()
        self.history.kills += 1
        self.history.alive_after_2s.append(len(left))
        self.history.alive_names.update(left.values())

    def note_end(self) -> int:
        code = self.process.returncode
        self.history.ends.append(code)
        return code


def go_through(system: System, regime: Regime, seed: int, folder: Path) -> History:
    """Kill the driver of ``system`` by the schedule, then let a driver finish, and start two more."""
    folder.mkdir(parents=True)
    (folder / STORAGE).mkdir()
    regime.work.save(folder)
    history = History()
    begun = time.monotonic()
    _kill_by_schedule(system, regime, seed, folder, history)
    for _ in range(3):  # undisturbed
        with Driver(system, folder, history) as driver:
            if driver.wait_for_end(regime.finish_s):
                driver.note_end()
            else:
                history.hung += 1
    history.seconds = time.monotonic() - begun
    reading = subprocess.run(
        system.command("record", folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if reading.returncode:
        history.unreadable = (reading.stderr.strip().splitlines() or ["no message"])[-1]
    return history


def _kill_by_schedule(
    system: System, regime: Regime, seed: int, folder: Path, history: History
) -> None:
    idle = 0  # drivers in a row that ended by themselves without a new result
    for delay in regime.delays(seed):
        while True:
            with Driver(system, folder, history) as driver:
                moved = driver.wait_for_progress()
                if moved and not driver.wait_for_end(delay):
                    driver.kill()
                    idle = 0
                    break
                if not driver.ended():
                    history.hung += 1
                elif driver.note_end() == 0:
                    return  # the driver finished before its next kill
            idle = 0 if moved else idle + 1
            if idle == 3:
                return
