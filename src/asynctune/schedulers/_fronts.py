"""Points with several scores each: their domination, and the points that cover a front evenly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Point: TypeAlias = tuple[float, ...]
"""Scores of which higher ones are better, none of them NaN."""

_MAX_NET_SIZE = 32


def dominates(one: Point, other: Point) -> bool:
    """Return whether a point is worse than another in no score, and better in at least one."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


class Fronts:
    """Points in fronts, the best front first.

    The first front holds the points that no other dominates, the second those that no other dominates
    once the first is taken away, and so on. Adding a point costs about as much as comparing the point with
    each other one.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._fronts: list[list[int]] = []  # the numbers of the points of each front, ascending

    def __len__(self) -> int:
        return len(self._points)

    def sizes(self) -> list[int]:
        """Return the number of points of each front, the best front first."""
        return [len(front) for front in self._fronts]

    def add(self, point: Point) -> int:
        """Add a point and return its number, which is the count of earlier points."""
        number = len(self._points)
        self._points.append(point)
        index = self._front_index(point)
        sinking = [number]
        while sinking:
            if index == len(self._fronts):
                self._fronts.append([])
            front = self._fronts[index]
            sunk = [
                other
                for other in front
                if any(dominates(self._points[one], self._points[other]) for one in sinking)
            ]
            below = set(sunk)
            self._fronts[index] = sorted([*(n for n in front if n not in below), *sinking])
            sinking, index = sunk, index + 1
        return number

    def is_in_best(self, number: int, count: int) -> bool:
        """Return whether a point is among the best ``count`` points.

        These are whole fronts, the best first; and of the first front that is too large, the points that
        cover the front best.
        """
        for front in self._fronts:
            if len(front) > count:
                return any(covering == number for covering in self._cover(front, count))
            if number in front:
                return True
            count -= len(front)
        return False

    def _front_index(self, point: Point) -> int:
        """Return the index of the front that a point belongs to: the first that does not dominate it.

        A point that a front dominates is dominated by each better front too, so a binary search finds the
        index.
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
        """Yield ``count`` points of a larger front: those that cover the front best (an epsilon-net).

        The first is the best one by the first score, and then comes always the point that is farthest from
        those before; of equal points the earlier comes first. After some dozens the net is so fine that the
        other points come simply by their distance from the net.
        """
        left = dict(zip(front, _to_units([self._points[number] for number in front]), strict=True))
        chosen = max(left, key=lambda number: (self._points[number][0], -number), default=-1)
        distances = dict.fromkeys(left, math.inf)
        for _ in range(min(count, _MAX_NET_SIZE)):
            yield chosen
            centre = left[chosen]
            del distances[chosen]
            distances = {
                number: min(distance, math.dist(centre, left[number]))
                for number, distance in distances.items()
            }
            chosen = max(distances, key=distances.__getitem__)
        ranked = sorted(distances, key=distances.__getitem__, reverse=True)
        yield from ranked[: max(0, count - _MAX_NET_SIZE)]


def _to_units(points: Sequence[Point]) -> list[Point]:
    """Return the points with each score scaled to 0 to 1, so that units do not matter.

    Infinite scores become 0 or 1.
    """
    columns = [_to_unit(column) for column in zip(*points, strict=True)]
    return list(zip(*columns, strict=True))


def _to_unit(values: Sequence[float]) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    width = high / 2 - low / 2  # halved, since the whole width may overflow
    scaled = []
    for value in values:
        if math.isinf(value):
            scaled.append(1.0 if value > 0 else 0.0)
        else:
            scaled.append((value / 2 - low / 2) / width if width > 0 else 0.0)
    return scaled
