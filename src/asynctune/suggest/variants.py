"""The default search: the grid, and random samples of everything else."""

from __future__ import annotations

from typing import ClassVar

from asynctune.suggest.base import Searcher, Suggestion


class BasicVariantGenerator(Searcher):
    """Suggests nothing: the grid and every sample come from the run's seed and the trial's number alone."""

    needs_metric: ClassVar[bool] = False

    @property
    def repeats(self) -> bool:
        """Always."""
        return True

    @property
    def is_slow(self) -> bool:
        """Not slow, but drawing ahead costs it no knowledge."""
        return True

    def suggest(self, trial_id: str) -> Suggestion:
        """Suggest no value: all are drawn."""
        return {}
