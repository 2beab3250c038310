"""The default search: the grid, and random samples of everything else."""

from __future__ import annotations

from asynctune.space import Space, Variant


class BasicVariantGenerator:
    """Gives the grid of a space, ``num_samples`` times, with fresh samples at each point.

    Each variant is a function of the space, the seed and its number alone, so nothing needs to be
    saved to go on from any of them.

    Args:
        space: The space.
        num_samples: How often the grid is gone through; -1: for ever.
        seed: What the samples are derived from.
        first: The number of the first variant: how many an earlier driver has drawn.
    """

    def __init__(self, space: Space, num_samples: int, seed: int, first: int = 0) -> None:
        self._space = space
        self._seed = seed
        self.total = None if num_samples == -1 else num_samples * space.grid_size
        self._next = first

    def next(self) -> Variant | None:
        """Return the next variant, or None after the last."""
        if self.total is not None and self._next >= self.total:
            return None
        variant = self._space.variant(self._next, self._seed)
        self._next += 1
        return variant
