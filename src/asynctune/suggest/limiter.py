"""A limit to how many of a searcher's suggestions are tried at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynctune._checks import check_int
from asynctune.result import Row
from asynctune.suggest._wrapper import WrappingSearcher
from asynctune.suggest.base import FINISHED, Searcher, Suggestion


class ConcurrencyLimiter(WrappingSearcher):
    """Asks a searcher only while few enough of its trials have not ended: the fewer, the more it knows.

    Args:
        searcher: The searcher.
        max_concurrent: How many of its trials there may be at once, running, waiting or paused.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(self, searcher: Searcher, max_concurrent: int) -> None:
        super().__init__(searcher)
        self.max_concurrent = check_int(type(self).__name__, "max_concurrent", max_concurrent, 1)
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Suggestion:
        if len(self._live - {trial_id}) >= self.max_concurrent:
            return None
        suggestion = super().suggest(trial_id)
        if suggestion is not None and suggestion is not FINISHED:
            self._live.add(trial_id)
        return suggestion

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self._live.add(trial_id)
        super().adopt(trial_id, values)

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        self._live.discard(trial_id)
        super().on_trial_complete(trial_id, result, error)
