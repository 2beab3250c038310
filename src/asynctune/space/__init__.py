"""The search space: the markers of a config, and how configs are drawn from it and rebuilt."""

from asynctune.space.domains import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from asynctune.space.space import Space

__all__ = [
    "Space", "choice", "grid_search", "lograndint", "loguniform", "qlograndint", "qloguniform",
    "qrandint", "qrandn", "quniform", "randint", "randn", "sample_from", "uniform",
]  # fmt: skip
