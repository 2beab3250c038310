"""Kills drivers at points spread over the bytes of their journals, and counts the damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asynctune.experiment.analysis import ExperimentAnalysis
from asynctune.experiment.reader import FILE_NAME, JournalReader
from asynctune.experiment.status import Status
from harness.kills import Drivers
from harness.ledger import Ledger

_SPREAD = 7919  # a prime: the points of one experiment lie between those of another


@dataclass(frozen=True, slots=True)
class Count:
    """The outcome of a number of kills.

    Args:
        kills: The number of killed drivers.
        shown: The number of results that these drivers had shown before.
        lost: The number of shown results that the experiment lacked after a kill.
        doubled: The number of rows that the experiment had twice.
        unequal: The number of experiments whose final rows differ from those of a run without kills.
        unfinished: The number of trials that did not end.
        tails: The number of kills that left an unfinished record.
    """

    kills: int = 0
    shown: int = 0
    lost: int = 0
    doubled: int = 0
    unequal: int = 0
    unfinished: int = 0
    tails: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether there is no damage."""
        return not (self.lost or self.doubled or self.unequal or self.unfinished)

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment whose drivers are killed.

    Args:
        target: ``"module:function"``, as :class:`~harness.kills.Drivers` takes it.
        name: The name of the experiment's directory in the directory that the function receives.
        ledger: A function that returns the ledger of such a directory.
        rows: A function that returns the final rows, which are the same after each undisturbed end.
    """

    target: str
    name: str
    ledger: Callable[[Path], Ledger]
    rows: Callable[[ExperimentAnalysis], Any]


def kill_points(
    experiment: Experiment, folder: Path, count: int, path: list[str], step: int = 1500
) -> Count:
    """Kill a number of drivers; each experiment every ``step`` bytes until it ends by itself.

    Args:
        experiment: The experiment.
        folder: An empty directory.
        count: The number of kills.
        path: The import path of its module.
        step: The average number of bytes of the journal from one kill to the next.
    """
    total = Count()
    with Drivers(experiment.target, path) as drivers:
        control = folder / "control"
        control.mkdir()
        assert drivers.run(control) == 0, "the experiment does not even run undisturbed"
        wanted = experiment.rows(ExperimentAnalysis.from_disk(control / experiment.name))
        setting = _Setting(experiment, drivers, wanted, step)
        number = 0
        while total.kills < count:
            number += 1
            place = folder / f"{number}"
            place.mkdir()
            total += _one(setting, place, number, count - total.kills)
    return total


@dataclass(frozen=True, slots=True)
class _Setting:
    """The arguments that all experiments of a count share."""

    experiment: Experiment
    drivers: Drivers
    wanted: Any
    step: int


def _one(setting: _Setting, place: Path, number: int, most: int) -> Count:
    """Kill the drivers of one experiment until it ends; then compare."""
    experiment, drivers, step = setting.experiment, setting.drivers, setting.step
    total, journal = Count(), place / experiment.name / FILE_NAME
    at = (number * _SPREAD) % step
    while total.kills < most:
        code = drivers.run(place, kill_at=at)
        if code == 0:
            break
        assert code == -9, f"a driver ended by itself with {code}"
        total += _after_a_kill(experiment, place, journal)
        size = journal.stat().st_size if journal.exists() else 0
        at = size + 1 + (at * _SPREAD + number) % (2 * step)
    code = drivers.run(place)
    analysis = ExperimentAnalysis.from_disk(place / experiment.name)
    balance = experiment.ledger(place).compare(analysis)
    return total + Count(
        shown=balance.shown,
        lost=len(balance.lost),
        doubled=len(balance.doubled),
        unequal=int(code != 0 or experiment.rows(analysis) != setting.wanted),
        unfinished=sum(trial.status is not Status.TERMINATED for trial in analysis.trials),
    )


def _after_a_kill(experiment: Experiment, place: Path, journal: Path) -> Count:
    ledger, stored = experiment.ledger(place), JournalReader(journal)
    if not stored.exists():
        return Count(kills=1, lost=len(ledger.entries()))
    balance = ledger.compare(ExperimentAnalysis.from_disk(place / experiment.name))
    for _ in stored.events():
        pass
    return Count(
        kills=1,
        lost=len(balance.lost),
        doubled=len(balance.doubled),
        tails=int(stored.end < journal.stat().st_size),
    )
