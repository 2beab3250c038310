"""Rungs of successive halving: the times at which trials are compared, and their scores at these times."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from asynctune._checks import argument_error, check_number, safe_repr

_MAX_RUNGS = 1_000
_MAX_FLOAT = sys.float_info.max

Entry: TypeAlias = tuple[float, int, str]
"""A trial at a rung: its negated score, the number of earlier entries, its id. The least is the best."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The times of the rungs.

    Args:
        max_t: The time at which every trial is stopped.
        grace_period: The time of the lowest rung.
        reduction_factor: The ratio of the times of neighbouring rungs, and of the trials at a rung to those
            that pass.
    """

    max_t: float
    grace_period: float
    reduction_factor: float

    def levels(self, skipped: int = 0) -> tuple[float, ...]:
        """Return the times of the rungs up to ``max_t``, ascending, without the lowest ``skipped``."""
        found: list[float] = []
        level = self.grace_period
        while level <= self.max_t:
            found.append(level)
            # The product of a subnormal float and a small factor can round back to the float itself.
            level = max(level * self.reduction_factor, math.nextafter(level, math.inf))
        return tuple(found[skipped:])

    @classmethod
    def from_arguments(
        cls, owner: str, max_t: Any, grace_period: Any, reduction_factor: Any
    ) -> Ladder:
        """Check the arguments of a scheduler and make a ladder of them.

        Args:
            owner: The name of the scheduler's class, for errors.
            max_t: The time at which every trial is stopped, greater than 0.
            grace_period: The time of the lowest rung, greater than 0 and at most ``max_t``.
            reduction_factor: The ratio of the times of neighbouring rungs, greater than 1.

        Raises:
            ConfigError: An argument is wrong.
        """
        top = check_number(owner, "max_t", max_t, above=0)
        grace = check_number(owner, "grace_period", grace_period, above=0)
        eta = check_number(owner, "reduction_factor", reduction_factor, above=1)
        if grace > top:
            what = f"at most max_t={safe_repr(max_t)}"
            raise argument_error(owner, "grace_period", what, grace_period)
        # A reduction_factor just above 1 would make so many rungs that levels() runs out of memory.
        count = (math.log(top) - math.log(grace)) / math.log(eta)
        if count > _MAX_RUNGS:
            raise argument_error(
                owner,
                "reduction_factor",
                f"large enough for at most {_MAX_RUNGS} rungs",
                reduction_factor,
                f"this value makes {count:.0f} rungs from grace_period={safe_repr(grace_period)} "
                f"to max_t={safe_repr(max_t)}",
            )
        return cls(top, grace, eta)


def rung_at(levels: Sequence[float], time: float) -> int:
    """Return the index of the highest rung at or below a time, -1 for none."""
    return bisect_right(levels, time) - 1


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 trial`` or ``3 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def interpolate(lower: float, upper: float, fraction: float) -> float:
    """Return the value at a fraction of the way from one score to another. Neither is NaN.

    An infinite score counts as the largest finite float of its sign: infinities would make the result
    NaN, which compares with nothing.
    """
    if lower == upper or fraction == 0:
        return lower
    lower, upper = max(lower, -_MAX_FLOAT), min(upper, _MAX_FLOAT)
    # Rounding can carry the sum beyond the two scores.
    return min(max(lower * (1 - fraction) + upper * fraction, lower), upper)


@dataclass(slots=True)
class Rung:
    """The scores of trials at a rung, the best first; of equal scores the earlier first.

    Args:
        level: The time of the rung.
        entries: The entries of all trials that reached the rung.
        waiting: The entries of the trials that the scheduler paused at the rung.
        num_promoted: The number of trials that were promoted from the rung.
    """

    level: float
    entries: list[Entry] = field(default_factory=list)
    waiting: list[Entry] = field(default_factory=list)
    num_promoted: int = 0

    def record(self, trial_id: str, score: float) -> Entry:
        """Record the score of a trial, which is not NaN."""
        entry = (-score, len(self.entries), trial_id)
        insort(self.entries, entry)
        return entry

    def quantile(self, fraction: float) -> float:
        """Return the interpolated quantile of the recorded scores, -inf if there are none."""
        count = len(self.entries)
        if not count:
            return -math.inf
        position = (count - 1) * fraction
        lower = min(math.floor(position), count - 1)
        upper = min(lower + 1, count - 1)
        return interpolate(
            -self.entries[count - 1 - lower][0],
            -self.entries[count - 1 - upper][0],
            position - lower,
        )

    def add_waiting(self, entry: Entry) -> None:
        """Add a trial that pauses at the rung."""
        insort(self.waiting, entry)

    def remove_waiting(self, entry: Entry) -> None:
        """Remove a trial that no longer waits at the rung."""
        del self.waiting[bisect_left(self.waiting, entry)]

    def is_top(self, entry: Entry, eta: float) -> bool:
        """Return whether an entry is among the best ``1/eta`` of those recorded, rounded down."""
        return bisect_left(self.entries, entry) < math.floor(len(self.entries) / eta)

    def promotable(self, eta: float) -> Iterator[Entry]:
        """Yield the waiting entries that are among the best ``1/eta``, the best first."""
        for entry in self.waiting:
            if not self.is_top(entry, eta):
                return
            yield entry

    def first_promotable(self, eta: float, among: Collection[str]) -> str | None:
        """Return the id of the best promotable trial among some ids, None if there is none."""
        return next((entry[2] for entry in self.promotable(eta) if entry[2] in among), None)
