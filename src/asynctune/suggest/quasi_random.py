"""Quasi-random search: points that fill the space more evenly than random ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from asynctune.space.space import Space
from asynctune.suggest._axes import Axis, axes_of
from asynctune.suggest._points import plain_of
from asynctune.suggest._values import generator
from asynctune.suggest.random_search import RandomSearch

_PRECISION = 2.0**-53


class QuasiRandomSearch(RandomSearch):
    """Goes through a scrambled Halton sequence: any part of the space gets its share of the trials.

    With ``n`` trials, each value's range is covered about evenly in ``n`` parts, whatever the others
    are. Every prefix is as good as the whole, so the number of trials need not be known before. What a
    picked element of a ``choice`` holds in turn is drawn at random.

    The digits of each dimension are permuted at random, each digit place by a permutation of its own,
    which takes away the correlations that the plain sequence has in many dimensions; so does
    A. B. Owen, "A randomized Halton algorithm in R" (2017).

    Args:
        seed: What is permuted comes from it; by default from that of the run.
        points_to_evaluate: What to try first, as dicts; what they leave out is suggested.
        metric: Not needed.
        mode: Not needed.
        duplicates: See :class:`Searcher`.
    """

    def _begin(self, space: Space, seed: int) -> None:
        self._axes: dict[str, Axis] = axes_of(type(self).__name__, space.samplers)
        self._points.bind(plain_of(self._axes))
        self._dimensions = [
            ScrambledHalton(prime, seed, path)
            for prime, path in zip(_primes(), self._axes, strict=False)
        ]

    def _values(self, number: int) -> dict[str, Any]:
        return {
            path: axis.at(dimension.at(number))
            for (path, axis), dimension in zip(self._axes.items(), self._dimensions, strict=True)
        }


class ScrambledHalton:
    """One dimension of the sequence: the digits of a number, permuted and mirrored at the point.

    Args:
        base: A prime, another for each dimension.
        seed: What the permutations come from.
        name: Which dimension it is: the same seed permutes each in its own way.
    """

    def __init__(self, base: int, seed: int, name: str) -> None:
        self._base = base
        self._seed = seed
        self._name = name
        self._permutations: list[list[int]] = []
        places = next(n for n in count(1) if float(base) ** -n < _PRECISION)
        # Beyond the digits that numbers have, all are 0: what that becomes is all that is needed.
        self._zeros = [int(self._rng(place).random() * base) for place in range(places)]

    def at(self, number: int) -> float:
        """Return a point of the sequence, at least 0 and below 1."""
        point, unit = 0.0, 1.0
        for place, zero in enumerate(self._zeros):
            unit /= self._base
            if number:
                number, digit = divmod(number, self._base)
                point += self._permutation(place)[digit] * unit
            else:
                point += zero * unit
        return min(point, 1.0 - _PRECISION)

    def _permutation(self, place: int) -> list[int]:
        while len(self._permutations) <= place:
            here = len(self._permutations)
            rng = self._rng(here)
            first = int(rng.random() * self._base)  # what 0 becomes, as in _zeros
            rest = [digit for digit in range(self._base) if digit != first]
            for last in range(len(rest) - 1, 0, -1):  # shuffle() may differ between Pythons
                other = int(rng.random() * (last + 1))
                rest[last], rest[other] = rest[other], rest[last]
            self._permutations.append([first, *rest])
        return self._permutations[place]

    def _rng(self, place: int) -> Any:
        return generator(self._seed, "halton", self._name, place)


def _primes() -> Iterator[int]:
    found: list[int] = []
    for number in count(2):
        if all(number % prime for prime in islice(found, len(found))):
            found.append(number)
            yield number
