"""A Gaussian process whose target changes with time, and the choice of the next point to try.

After I. Bogunovic et al., "Time-Varying Gaussian Process Bandit Optimization" (2016), and T. Desautels et
al., "Parallelizing Exploration-Exploitation Tradeoffs in Gaussian Process Bandit Optimization" (2014).
All functions are pure and deterministic.

They run on the event loop, so they have to be quick. The kernel is fitted to few of the points, and no
large matrix is given to LAPACK or BLAS, whose threads wait long for each other when trials have all the
cores.
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
_MAX_FITTED = 60  # LAPACK factorises fewer than 64 rows in one thread
_OUTLIER = 3.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """The covariance of two gains: ``exp(-d**2 / (2 length**2)) * (1 - epsilon)**(|t - t'| / 2)``.

    Args:
        length: The distance ``d`` of points, divided by the square root of their dimension, beyond which
            gains are no longer alike.
        epsilon: The fraction of the target that changes within a step of time, from 0 to 1.
        noise: The variance of the observation noise. The variance of the gains is 1.
    """

    length: float = 0.4
    epsilon: float = 0.05
    noise: float = 0.1

    def __call__(self, squares: Array, time_gaps: Array) -> Array:
        """Return the covariances at squared distances and at distances in time, whose shapes broadcast."""
        exponent = squares * (-0.5 / self.length**2) + time_gaps * (0.5 * math.log1p(-self.epsilon))
        covariance: Array = np.exp(exponent)
        return covariance


def choose_candidate(
    candidates: Sequence[Sequence[float]],
    at: float,
    observed: Sequence[tuple[float, Sequence[float], float]],
    pending: Sequence[tuple[float, Sequence[float]]] = (),
) -> int:
    """Return the position of the candidate with the highest upper confidence bound.

    Args:
        candidates: The points, of numbers from 0 to 1.
        at: The time at which the candidate is tried, in steps.
        observed: The time, point and gain of each observation, at least one; higher gains are better.
        pending: The time and point of each trial whose gain is not observed yet. There is less to learn
            near these points.
    """
    gains = _standardise(np.array([gain for _, _, gain in observed], dtype=np.float64))
    count = len(gains)
    tried = [(time, point) for time, point, _ in observed] + list(pending)
    times = np.array([time for time, _ in tried], dtype=np.float64)
    points = np.array([point for _, point in tried], dtype=np.float64)
    recent = slice(max(0, count - _MAX_FITTED), count)
    kernel = fit_kernel(points[recent], times[recent], gains[recent])

    queries = np.array(candidates, dtype=np.float64)
    across = kernel(_mean_squares(points, queries), np.abs(times - at)[:, None])
    right = np.zeros((len(tried), len(queries) + 1))
    right[:, :-1] = across
    right[:count, -1] = gains
    white = _whiten(_covariance(kernel, points, times), right)
    # Pending points have no gains: they come last, so that they change the variances and not the means.
    mean = np.einsum("i,ij->j", white[:count, -1], white[:count, :-1])
    variance = 1 - np.einsum("ij,ij->j", white[:, :-1], white[:, :-1])
    # The weight of the uncertainty, as in the authors' experiments.
    beta = 0.2 + max(0.0, math.log(0.4 * count))
    return int(np.argmax(mean + np.sqrt(beta * np.maximum(variance, 0.0))))


def fit_kernel(points: Array, times: Array, gains: Array) -> Kernel:
    """Return the kernel under which the gains are likeliest, by a coordinate search in a small grid."""
    best = Kernel()
    best_likelihood = _likelihood(best, points, times, gains)
    # One parameter after the other, since all combinations would take too long; length twice, since the
    # best length depends on the others.
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
    """Return the logarithm of the likelihood, up to a constant."""
    lower = np.linalg.cholesky(_covariance(kernel, points, times))
    white = np.linalg.solve(lower, gains)
    return float(-0.5 * np.sum(white**2) - np.sum(np.log(np.diagonal(lower))))


def _covariance(kernel: Kernel, points: Array, times: Array) -> Array:
    """Return the covariance matrix of the observations, with the noise on its diagonal."""
    time_gaps = np.abs(times[:, None] - times[None, :])
    return kernel(_mean_squares(points, points), time_gaps) + kernel.noise * np.eye(len(times))


def _mean_squares(one: Array, other: Array) -> Array:
    """Return the mean squared difference of each point of one array to each of another."""
    total = np.zeros((len(one), len(other)))
    for column, other_column in zip(one.T, other.T, strict=True):
        total += (column[:, None] - other_column[None, :]) ** 2
    mean: Array = total / one.shape[1]
    return mean


def _whiten(covariance: Array, right: Array) -> Array:
    """Return ``inverse(L) @ right``, where ``L`` is lower triangular and ``covariance = L @ L.T``."""
    lower, white = np.zeros_like(covariance), np.empty_like(right)
    for j in range(len(covariance)):
        row = lower[j, :j]
        column = covariance[j:, j] - np.einsum("ij,j->i", lower[j:, :j], row)
        root = math.sqrt(column[0])
        lower[j:, j] = column / root
        white[j] = (right[j] - np.einsum("i,ij->j", row, white[:j])) / root
    return white


def _standardise(gains: Array) -> Array:
    """Return the gains with mean 0 and variance 1, outliers clipped."""
    largest = float(np.max(np.abs(gains)))
    if largest > 0:
        gains = gains / largest  # so that no square overflows
    low, middle, high = np.quantile(gains, [0.25, 0.5, 0.75])
    reach = _OUTLIER * (high - low)
    if reach > 0:
        gains = np.clip(gains, middle - reach, middle + reach)
    spread = float(np.std(gains))
    centred: Array = gains - np.mean(gains)
    return centred / spread if spread > 0 else centred
