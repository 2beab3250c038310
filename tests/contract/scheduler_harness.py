"""Which schedulers there are, and the runs that each of them has to bear."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from asynctune.schedulers import FIFOScheduler, TrialScheduler
from asynctune.schedulers.asha import AsyncHyperBandScheduler
from asynctune.schedulers.hyperband import HyperBandForBOHB, HyperBandScheduler
from asynctune.schedulers.median import MedianStoppingRule
from asynctune.schedulers.multi_objective import MultiObjectiveASHAScheduler
from asynctune.schedulers.pb2 import PB2
from asynctune.schedulers.pbt import PopulationBasedTraining
from asynctune.testing.scheduling import Script, curve

TIME = "training_iteration"
MAX_T, GRACE, ETA = 9, 2, 2
WORST = -1e300
ODD = (math.nan, math.inf, -math.inf, 0, 1)


@dataclass(frozen=True)
class Candidate:
    """A scheduler that is to keep the contract.

    Args:
        make: Makes a new one.
        grace: Before which time it stops nobody; 0 for one that never stops anybody.
        needs_metric: Whether it waits for the metric ``score``.
        worst: What a trial of NaN counts as.
        most_trials: With how many trials it is tried out.
    """

    make: Callable[[], TrialScheduler]
    grace: float = math.inf
    needs_metric: bool = True
    worst: float = WORST
    most_trials: int = 16


def of(cls: type[TrialScheduler], **arguments) -> Callable[[], TrialScheduler]:
    return lambda: cls(time_attr=TIME, **arguments)


asha = {"max_t": MAX_T, "grace_period": GRACE, "reduction_factor": ETA}
median = {"grace_period": GRACE, "min_samples_required": 2}
pbt = {"perturbation_interval": 2, "quantile_fraction": 0.5}

CANDIDATES = {
    "FIFO": Candidate(FIFOScheduler, needs_metric=False),
    "ASHA": Candidate(of(AsyncHyperBandScheduler, **asha), GRACE),
    "ASHA-brackets": Candidate(of(AsyncHyperBandScheduler, brackets=3, **asha), GRACE),
    "ASHA-promote": Candidate(of(AsyncHyperBandScheduler, promote=True, **asha), MAX_T),
    "ASHA-promote-brackets": Candidate(
        of(AsyncHyperBandScheduler, promote=True, brackets=3, **asha), MAX_T
    ),
    "MO-ASHA": Candidate(
        of(MultiObjectiveASHAScheduler, metrics=["score", "cost"], modes=["max", "min"], **asha),
        GRACE,
    ),
    "HyperBand": Candidate(of(HyperBandScheduler, max_t=MAX_T, reduction_factor=ETA), 1),
    "HyperBandForBOHB": Candidate(of(HyperBandForBOHB, max_t=MAX_T, reduction_factor=ETA), 1),
    "Median": Candidate(of(MedianStoppingRule, **median), GRACE),
    "Median-soft": Candidate(of(MedianStoppingRule, hard_stop=False, **median)),
    "PBT": Candidate(
        of(PopulationBasedTraining, hyperparam_mutations={"x": [0, 1, 2], "y": lambda: 7}, **pbt)
    ),
    "PB2": Candidate(
        of(PB2, hyperparam_bounds={"x": [0.0, 2.0]}, **pbt),
        worst=-math.inf,  # by how much a trial got better or worse does matter
        most_trials=5,
    ),
}


def rows(scores, times=None):
    """The rows of a trial, with a second objective, which is bad where the first is very bad."""
    return tuple(
        row | {"cost": row["score"] * 7 % 3 if abs(row["score"]) < 1e9 else -row["score"]}
        for row in curve(scores, times=times)
    )


def calm_scripts(rng: random.Random, *, odd: bool = True, most: int = 16) -> list[Script]:
    """Some trials that train until they are stopped, or longer than any scheduler lets them."""

    def score():
        return rng.choice(ODD) if odd and rng.random() < 0.5 else rng.uniform(-9, 9)

    return [
        Script(rows([score() for _ in range(MAX_T + 3)]), {"x": rng.choice([0, 1, 2]), "y": 1})
        for _ in range(rng.randint(1, most))
    ]


def _troubled(rng: random.Random, script: Script) -> Script:
    length = rng.randrange(MAX_T + 4)
    times, now = [], 0
    for _ in range(length):
        now += rng.choice([1, 1, 1, 1, 2, 5])
        times.append(now)
    scores = [row["score"] for row in script.rows[:length]]

    def few():
        return [rng.randint(0, MAX_T) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]

    return replace(
        script,
        rows=rows(scores, times),
        fails_after=few(),
        retries=rng.randrange(4),
        saves_every=rng.randrange(4),
        pauses_after=few(),
        is_given_up=rng.random() < 0.2,
        never_starts=rng.random() < 0.1,
    )


def run_of(
    name: str, seed: int, *, troubled: bool = False, crashes: bool = False, odd: bool = True
):
    """Return trials for a candidate, and how they are played."""
    rng = random.Random(seed)
    scripts = calm_scripts(rng, odd=odd, most=CANDIDATES[name].most_trials)
    if troubled:
        scripts = [_troubled(rng, script) for script in scripts]
    how = {"slots": rng.randint(1, 6), "seed": seed, "most_steps": 20_000}
    if crashes:
        how["crashes_after"] = [rng.randint(1, 60) for _ in range(rng.randrange(3))]
    return scripts, how
