"""Quasi-random search: points that fill the space more evenly than random ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from asynctune.space.space import Space
from asynctune.suggest._axes import Axis, axes_of
from asynctune.suggest._points import plain_functions
from asynctune.suggest._values import generator
from asynctune.suggest.random_search import RandomSearch

_PRECISION = 2.0**-53


class QuasiRandomSearch(RandomSearch):
    """Suggests the points of a scrambled Halton sequence: every part of the space gets its share of trials.

    ``n`` trials cover the range of each value about evenly in ``n`` parts, independent of the other
    values. Every prefix of the sequence is as even as the whole, so the number of trials may stay open.
    Samplers inside the elements of a ``choice`` draw at random.

    A random permutation scrambles the digits of each dimension, another one at each position of a digit.
    This removes the correlations that the plain sequence has in many dimensions; see
    A. B. Owen, "A randomized Halton algorithm in R" (2017).

    Args:
        seed: The seed of the permutations; by default that of the run.
        points_to_evaluate: The configurations to try first, as dicts; values that they leave out are
            suggested.
        metric: The objective; not needed.
        mode: ``"min"`` or ``"max"``; not needed.
        duplicates: The policy for repeated suggestions, see :class:`Searcher`.
    """

    def _prepare(self, space: Space, seed: int) -> None:
        self._axes: dict[str, Axis] = axes_of(type(self).__name__, space.samplers)
        self._points.bind(plain_functions(self._axes))
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
    """One dimension of the sequence: the digits of a number, permuted, and mirrored at the radix point.

    Args:
        base: The base of the digits, a prime that no other dimension has.
        seed: The seed of the permutations.
        name: The name of the dimension, so that each has permutations of its own.
    """

    def __init__(self, base: int, seed: int, name: str) -> None:
        self._base = base
        self._seed = seed
        self._name = name
        self._permutations: list[list[int]] = []
        num_digits = next(n for n in count(1) if float(base) ** -n < _PRECISION)
        # All digits before the first of a number are 0, so the image of 0 is all that most positions need.
        self._zeros = [int(self._rng(index).random() * base) for index in range(num_digits)]

    def at(self, number: int) -> float:
        """Return the coordinate of a point of the sequence, at least 0 and below 1."""
        point, unit = 0.0, 1.0
        for index, zero in enumerate(self._zeros):
            unit /= self._base
            if number:
                number, digit = divmod(number, self._base)
                point += self._permutation(index)[digit] * unit
            else:
                point += zero * unit
        return min(point, 1.0 - _PRECISION)

    def _permutation(self, index: int) -> list[int]:
        """Return the permutation of the digits at an index, 0 for the lowest digit."""
        while len(self._permutations) <= index:
            rng = self._rng(len(self._permutations))
            first = int(rng.random() * self._base)  # the image of 0, the same as in _zeros
            rest = [digit for digit in range(self._base) if digit != first]
            # Not by rng.shuffle(), which may differ between versions of Python.
            for last in range(len(rest) - 1, 0, -1):
                other = int(rng.random() * (last + 1))
                rest[last], rest[other] = rest[other], rest[last]
            self._permutations.append([first, *rest])
        return self._permutations[index]

    def _rng(self, index: int) -> Any:
        return generator(self._seed, "halton", self._name, index)


def _primes() -> Iterator[int]:
    found: list[int] = []
    for number in count(2):
        if all(number % prime for prime in islice(found, len(found))):
            found.append(number)
            yield number
