"""A Gaussian process whose target changes with time, and the point that it would try next.

After I. Bogunovic et al., "Time-Varying Gaussian Process Bandit Optimization" (2016), and T. Desautels et
al., "Parallelizing Exploration-Exploitation Tradeoffs in Gaussian Process Bandit Optimization" (2014).
Pure, and the same for the same arguments.

It runs on the event loop, so it has to be quick. The kernel is chosen by few of the points, and no large
matrix is given to LAPACK or BLAS, whose threads wait long for each other when trials have all the cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

_LENGTHS = (0.1, 0.2, 0.4, 0.8)
_NOISES = (0.01, 0.1, 0.5)
_EPSILONS = (0.0, 0.01, 0.05, 0.2)
_MOST_FITTED = 60  # of fewer than 64, LAPACK takes care in one thread
_OUTLIER = 3.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """The covariance of two gains: ``exp(-d**2 / (2 length**2)) * (1 - epsilon)**(|t - t'| / 2)``.

    Args:
        length: At what distance ``d`` of the points, divided by the square root of their dimension, gains
            are no longer alike.
        epsilon: How much of the target is another one after a step of time, from 0 to 1.
        noise: The variance of what is observed beside it. That of the gains is 1.
    """

    length: float = 0.4
    epsilon: float = 0.05
    noise: float = 0.1

    def __call__(self, square: Array, apart: Array) -> Array:
        """Return the covariances at these squares of distances, and these distances in time."""
        exponent = square * (-0.5 / self.length**2) + apart * (0.5 * math.log1p(-self.epsilon))
        covariance: Array = np.exp(exponent)
        return covariance


def best_of(
    candidates: Sequence[Sequence[float]],
    at: float,
    observed: Sequence[tuple[float, Sequence[float], float]],
    pending: Sequence[tuple[float, Sequence[float]]] = (),
) -> int:
    """Return the position of the candidate with the highest upper confidence bound.

    Args:
        candidates: The points, each number from 0 to 1.
        at: When one of them is tried, in steps.
        observed: What is known, at least one: when, where, and what was gained, of which more is better.
        pending: When and where something is being tried whose gain is not known yet: there is less
            to learn there.
    """
    gains = _standardised(np.array([gain for _, _, gain in observed], dtype=np.float64))
    count = len(gains)
    known = [(when, point) for when, point, _ in observed] + list(pending)
    times = np.array([when for when, _ in known], dtype=np.float64)
    points = np.array([point for _, point in known], dtype=np.float64)
    some = slice(max(0, count - _MOST_FITTED), count)
    kernel = likeliest(points[some], times[some], gains[some])

    wanted = np.array(candidates, dtype=np.float64)
    across = kernel(_squares(points, wanted), np.abs(times - at)[:, None])
    right = np.zeros((len(known), len(wanted) + 1))
    right[:, :-1] = across
    right[:count, -1] = gains
    white = _whitened(_covariance(kernel, points, times), right)
    # What is pending stands last, so it changes the variances and not the means.
    mean = np.einsum("i,ij->j", white[:count, -1], white[:count, :-1])
    variance = 1 - np.einsum("ij,ij->j", white[:, :-1], white[:, :-1])
    # How much doubt is worth, as in the authors' experiments.
    beta = 0.2 + max(0.0, math.log(0.4 * count))
    return int(np.argmax(mean + np.sqrt(beta * np.maximum(variance, 0.0))))


def likeliest(points: Array, times: Array, gains: Array) -> Kernel:
    """Return the kernel under which the gains are likeliest, as far as a small grid shows it."""
    best = Kernel()
    best_likelihood = _likelihood(best, points, times, gains)
    # One parameter after the other: all combinations would take too long.
    grids: list[tuple[str, tuple[float, ...]]] = [
        ("length", _LENGTHS), ("noise", _NOISES), ("epsilon", _EPSILONS), ("length", _LENGTHS),
    ]  # fmt: skip
    for name, values in grids:
        for value in values:
            changed: dict[str, Any] = {name: value}
            kernel = replace(best, **changed)
            likelihood = _likelihood(kernel, points, times, gains)
            if likelihood > best_likelihood:
                best, best_likelihood = kernel, likelihood
    return best


def _likelihood(kernel: Kernel, points: Array, times: Array, gains: Array) -> float:
    """Return the logarithm of the likelihood, but for a constant."""
    lower = np.linalg.cholesky(_covariance(kernel, points, times))
    white = np.linalg.solve(lower, gains)
    return float(-0.5 * np.sum(white**2) - np.sum(np.log(np.diagonal(lower))))


def _covariance(kernel: Kernel, points: Array, times: Array) -> Array:
    apart = np.abs(times[:, None] - times[None, :])
    return kernel(_squares(points, points), apart) + kernel.noise * np.eye(len(times))


def _squares(one: Array, other: Array) -> Array:
    """Return the mean squares of the differences of each two points."""
    total = np.zeros((len(one), len(other)))
    for here, there in zip(one.T, other.T, strict=True):
        total += (here[:, None] - there[None, :]) ** 2
    mean: Array = total / one.shape[1]
    return mean


def _whitened(covariance: Array, right: Array) -> Array:
    """Return ``inverse(L) @ right``, where ``L`` is lower triangular and ``covariance = L @ L.T``."""
    lower, white = np.zeros_like(covariance), np.empty_like(right)
    for j in range(len(covariance)):
        row = lower[j, :j]
        column = covariance[j:, j] - np.einsum("ij,j->i", lower[j:, :j], row)
        root = math.sqrt(column[0])
        lower[j:, j] = column / root
        white[j] = (right[j] - np.einsum("i,ij->j", row, white[:j])) / root
    return white


def _standardised(gains: Array) -> Array:
    """Return the gains with mean 0 and variance 1, those far out moved nearer."""
    largest = float(np.max(np.abs(gains)))
    if largest > 0:
        gains = gains / largest  # whose squares are no longer too large
    low, middle, high = np.quantile(gains, [0.25, 0.5, 0.75])
    far = _OUTLIER * (high - low)
    if far > 0:
        gains = np.clip(gains, middle - far, middle + far)
    spread = float(np.std(gains))
    centred: Array = gains - np.mean(gains)
    return centred / spread if spread > 0 else centred
