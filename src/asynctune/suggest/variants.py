"""The default searcher: the grid, and random samples of everything else."""

from __future__ import annotations

from typing import ClassVar

from asynctune.suggest.base import Searcher, Suggestion


class BasicVariantGenerator(Searcher):
    """Suggests no values: the grid and all samples follow from the run's seed and the trial's number."""

    needs_metric: ClassVar[bool] = False

    @property
    def repeats(self) -> bool:
        """Always True."""
        return True

    @property
    def is_slow(self) -> bool:
        """Always True: this searcher is quick, but loses nothing by being asked ahead."""
        return True

    def suggest(self, trial_id: str) -> Suggestion:
        """Return no values, so that the run draws all of them."""
        return {}
