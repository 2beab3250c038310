"""Random scripts of trials for the contract of schedulers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asynctune.result import TRAINING_ITERATION, Row
from asynctune.testing.scripts import Script, curve

TIME = TRAINING_ITERATION
LENGTH = 12
"""The number of rows of a trial, more than a scheduler of the contract allows."""

_ODD_SCORES = (math.nan, math.inf, -math.inf, 0, 1)


@dataclass(frozen=True, slots=True)
class RandomRun:
    """The arguments of a random run.

    Args:
        scripts: The trials.
        slots: The number of trials that run at once.
        seed: The seed of the run.
        crashes_after: The numbers of results after which the driver dies.
    """

    scripts: list[Script]
    slots: int
    seed: int
    crashes_after: tuple[int, ...] = ()


def random_run(
    seed: int, *, most_trials: int, odd: bool = True, troubled: bool = False, crashes: bool = False
) -> RandomRun:
    """Return a random run.

    Args:
        seed: The seed.
        most_trials: The largest number of trials.
        odd: Whether scores may be NaN or infinite.
        troubled: Whether trials may fail, end early, be paused by their user, or never start.
        crashes: Whether the driver may die.
    """
    rng = random.Random(seed)
    scripts = calm_scripts(rng, odd=odd, most=most_trials)
    if troubled:
        scripts = [_troubled(rng, script) for script in scripts]
    slots = rng.randint(1, 6)
    after = [rng.randint(1, 60) for _ in range(rng.randrange(3))] if crashes else []
    return RandomRun(scripts, slots, seed, tuple(after))


def rows_of(scores: Sequence[float], times: Sequence[float] | None = None) -> tuple[Row, ...]:
    """Return the rows of a trial with a second objective, which is bad where the first is very bad."""
    return tuple(
        row | {"cost": row["score"] * 7 % 3 if abs(row["score"]) < 1e9 else -row["score"]}
        for row in curve(scores, times=times)
    )


def calm_scripts(rng: random.Random, *, odd: bool = True, most: int = 16) -> list[Script]:
    """Return trials that train until the scheduler stops them."""

    def score() -> float:
        return rng.choice(_ODD_SCORES) if odd and rng.random() < 0.5 else rng.uniform(-9, 9)

    return [
        Script(rows_of([score() for _ in range(LENGTH)]), {"x": rng.choice([0, 1, 2]), "y": 1})
        for _ in range(rng.randint(1, most))
    ]


def _troubled(rng: random.Random, script: Script) -> Script:
    length = rng.randrange(LENGTH + 1)
    times, now = [], 0
    for _ in range(length):
        now += rng.choice([1, 1, 1, 1, 2, 5])
        times.append(now)
    scores = [row["score"] for row in script.rows[:length]]

    def few() -> list[int]:
        return [rng.randint(0, LENGTH - 3) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]

    return replace(
        script,
        rows=rows_of(scores, times),
        fails_after=few(),
        retries=rng.randrange(4),
        saves_every=rng.randrange(4),
        pauses_after=few(),
        is_given_up=rng.random() < 0.2,
        never_starts=rng.random() < 0.1,
    )
