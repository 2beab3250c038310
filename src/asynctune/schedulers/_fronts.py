"""Points with several scores each: which dominate which, and which of them cover a front evenly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Point: TypeAlias = tuple[float, ...]
"""Scores of which more is better, none of them NaN."""

_FINE = 32


def dominates(one: Point, other: Point) -> bool:
    """Tell whether a point is nowhere worse than another, and somewhere better."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


class Fronts:
    """Points in the order of how good they are.

    The first front are those that no other dominates, the second those that no other dominates once the
    first is taken away, and so on. Adding a point costs about as much as comparing it with each other.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._fronts: list[list[int]] = []  # the numbers of the points, ascending

    def __len__(self) -> int:
        return len(self._points)

    def sizes(self) -> list[int]:
        """Return how many points each front has, the best front first."""
        return [len(front) for front in self._fronts]

    def add(self, point: Point) -> int:
        """Add a point and return its number: how many came before it."""
        number = len(self._points)
        self._points.append(point)
        level = self._level_of(point)
        sinking = [number]
        while sinking:
            if level == len(self._fronts):
                self._fronts.append([])
            front = self._fronts[level]
            sunk = [
                other
                for other in front
                if any(dominates(self._points[one], self._points[other]) for one in sinking)
            ]
            below = set(sunk)
            self._fronts[level] = sorted([*(n for n in front if n not in below), *sinking])
            sinking, level = sunk, level + 1
        return number

    def is_among(self, number: int, count: int) -> bool:
        """Tell whether a point is one of the best so many.

        Whole fronts come first; of the last one that is only partly among them, those that cover it best.
        """
        for front in self._fronts:
            if len(front) > count:
                return any(covering == number for covering in self._cover(front, count))
            if number in front:
                return True
            count -= len(front)
        return False

    def _level_of(self, point: Point) -> int:
        """Return the front that a point belongs to: the one after the last that dominates it.

        Whoever is dominated by a point of a front is so by one of each better front, so it can be
        searched by halves.
        """
        low, high = 0, len(self._fronts)
        while low < high:
            middle = (low + high) // 2
            if any(dominates(self._points[number], point) for number in self._fronts[middle]):
                low = middle + 1
            else:
                high = middle
        return low

    def _cover(self, front: Sequence[int], count: int) -> Iterator[int]:
        """Yield so many points of a front, but not all: those that cover it (an epsilon-net).

        The first is the best one by the first score, and then comes the one that is farthest from those
        before; of equals the earlier comes first. After some dozens the net is so fine that the others
        may come by how far they are from it.
        """
        left = dict(zip(front, _to_units([self._points[number] for number in front]), strict=True))
        chosen = max(left, key=lambda number: (self._points[number][0], -number), default=-1)
        distances = dict.fromkeys(left, math.inf)
        for _ in range(min(count, _FINE)):
            yield chosen
            here = left[chosen]
            del distances[chosen]
            distances = {
                number: min(distance, math.dist(here, left[number]))
                for number, distance in distances.items()
            }
            chosen = max(distances, key=distances.__getitem__)
        ranked = sorted(distances, key=distances.__getitem__, reverse=True)
        yield from ranked[: max(0, count - _FINE)]


def _to_units(points: Sequence[Point]) -> list[Point]:
    """Return the points with each score from 0 to 1, so that their units do not matter.

    Infinite ones are put at the ends.
    """
    columns = [_to_unit(column) for column in zip(*points, strict=True)]
    return list(zip(*columns, strict=True))


def _to_unit(values: Sequence[float]) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    width = high / 2 - low / 2  # halved: it may be more than a float holds
    scaled = []
    for value in values:
        if math.isinf(value):
            scaled.append(1.0 if value > 0 else 0.0)
        else:
            scaled.append((value / 2 - low / 2) / width if width > 0 else 0.0)
    return scaled
