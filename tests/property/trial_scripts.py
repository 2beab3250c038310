"""Random trials for schedulers: what they report, how they fail, and what their users do to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import strategies as st

from asynctune.testing.scripts import Script, curve

SCORES = st.integers(-6, 6).map(float)
WITH_NAN = st.one_of(SCORES, st.just(math.nan))
ANY_SCORE = st.one_of(SCORES, st.floats())


@dataclass(frozen=True)
class Case:
    """What is played.

    Args:
        scripts: The trials.
        slots: How many run at once.
        seed: Who is faster.
        crashes_after: After how many results the driver dies.
    """

    scripts: tuple[Script, ...]
    slots: int
    seed: int
    crashes_after: frozenset[int]

    @property
    def arguments(self):
        return {"slots": self.slots, "seed": self.seed, "crashes_after": self.crashes_after}


@st.composite
def scripts(draw, scores, most_rows=9):
    values = draw(st.lists(scores, max_size=most_rows))
    steps = draw(
        st.one_of(
            st.just([1] * len(values)),
            st.lists(st.sampled_from([1, 1, 2, 5]), min_size=len(values), max_size=len(values)),
        )
    )
    times = [sum(steps[: number + 1]) for number in range(len(steps))]
    places = st.lists(st.integers(0, most_rows), max_size=2, unique=True)
    return Script(
        curve(values, times=times),
        fails_after=draw(places),
        retries=draw(st.integers(0, 2)),
        saves_every=draw(st.integers(0, 3)),
        pauses_after=draw(places),
        is_given_up=draw(st.booleans()),
        never_starts=draw(st.integers(0, 9)) == 9,
    )


def cases(scores, most_trials=9):
    return st.builds(
        Case,
        st.lists(scripts(scores), min_size=1, max_size=most_trials).map(tuple),
        st.integers(1, 4),
        st.integers(0, 99),
        st.frozensets(st.integers(1, 40), max_size=2),
    )
