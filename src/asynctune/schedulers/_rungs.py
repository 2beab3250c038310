"""Rungs: the times at which trials are compared, and what was recorded there."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from asynctune._checks import check_number, safe_repr
from asynctune.errors import ConfigError

_MOST_RUNGS = 1_000
_HUGE = sys.float_info.max

Entry: TypeAlias = tuple[float, int, str]
"""A trial at a rung: its negated score, how many came before it, its id. The least is the best."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """How far trials come before they are compared.

    Args:
        max_t: Where they are stopped in any case.
        grace_period: The lowest rung.
        reduction_factor: How many times higher each rung is than the one below, and one of how many goes
            on there.
    """

    max_t: float
    grace_period: float
    reduction_factor: float

    def levels(self, skipped: int = 0) -> tuple[float, ...]:
        """Return the rungs up to ``max_t``, ascending, without the lowest ``skipped``."""
        found: list[float] = []
        level = self.grace_period
        while level <= self.max_t:
            found.append(level)
            # The least floats do not grow when they are multiplied by little.
            level = max(level * self.reduction_factor, math.nextafter(level, math.inf))
        return tuple(found[skipped:])

    @classmethod
    def checked(cls, owner: str, max_t: Any, grace_period: Any, reduction_factor: Any) -> Ladder:
        """Make one of the arguments of a scheduler.

        Args:
            owner: The scheduler's class.
            max_t: See above, like the others.
            grace_period: Greater than 0, at most ``max_t``.
            reduction_factor: Greater than 1.

        Raises:
            ConfigError: An argument is wrong.
        """
        top = check_number(owner, "max_t", max_t, above=0)
        grace = check_number(owner, "grace_period", grace_period, above=0)
        eta = check_number(owner, "reduction_factor", reduction_factor, above=1)
        if grace > top:
            raise ConfigError(
                f"grace_period of {owner} is {safe_repr(grace_period)}; at most "
                f"max_t={safe_repr(max_t)} is wanted"
            )
        count = (math.log(top) - math.log(grace)) / math.log(eta)
        if count > _MOST_RUNGS:
            raise ConfigError(
                f"reduction_factor of {owner} is {safe_repr(reduction_factor)}, which "
                f"makes {count:.0f} rungs "
                f"from grace_period={safe_repr(grace_period)} to "
                f"max_t={safe_repr(max_t)}; at most {_MOST_RUNGS} "
                "are wanted"
            )
        return cls(top, grace, eta)


def rung_at(levels: Sequence[float], time: float) -> int:
    """Return the highest rung that was reached by a time, -1 for none."""
    return bisect_right(levels, time) - 1


def counted(count: int, noun: str) -> str:
    """Return how many there are of something."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def between(lower: float, upper: float, share: float) -> float:
    """Return what lies a share of the way from one score to another, neither of which is NaN.

    An infinite score counts as one far beyond all that are finite, so that the worst ones do not make
    the others incomparable.
    """
    if lower == upper or share == 0:
        return lower
    lower, upper = max(lower, -_HUGE), min(upper, _HUGE)
    return min(max(lower * (1 - share) + upper * share, lower), upper)


@dataclass(slots=True)
class Rung:
    """The scores that trials had when they came to a time, the best first; of equals the earlier first.

    Args:
        level: The time.
        entries: Who came here.
        waiting: Who of them is paused here.
        num_promoted: How many of them went on from here after all.
    """

    level: float
    entries: list[Entry] = field(default_factory=list)
    waiting: list[Entry] = field(default_factory=list)
    num_promoted: int = 0

    def record(self, trial_id: str, score: float) -> Entry:
        """Note the score of a trial, which is not NaN."""
        entry = (-score, len(self.entries), trial_id)
        insort(self.entries, entry)
        return entry

    def quantile(self, share: float) -> float:
        """Return the score below which a share of those recorded lies, interpolated; -inf without any."""
        count = len(self.entries)
        if not count:
            return -math.inf
        place = (count - 1) * share
        lower = min(math.floor(place), count - 1)
        upper = min(lower + 1, count - 1)
        return between(
            -self.entries[count - 1 - lower][0], -self.entries[count - 1 - upper][0], place - lower
        )

    def wait(self, entry: Entry) -> None:
        """A trial pauses here."""
        insort(self.waiting, entry)

    def leave(self, entry: Entry) -> None:
        """A trial does not wait here any more."""
        del self.waiting[bisect_left(self.waiting, entry)]

    def is_top(self, entry: Entry, eta: float) -> bool:
        """Tell whether an entry is among the best ``1/eta`` of those recorded, rounded down."""
        return bisect_left(self.entries, entry) < math.floor(len(self.entries) / eta)

    def promotable(self, eta: float) -> Iterator[Entry]:
        """Yield who waits and is among the best ``1/eta``, the best first."""
        for entry in self.waiting:
            if not self.is_top(entry, eta):
                return
            yield entry

    def first_promotable(self, eta: float, among: Collection[str]) -> str | None:
        """Return the best one of some that may go on, None if there is none."""
        return next((entry[2] for entry in self.promotable(eta) if entry[2] in among), None)
