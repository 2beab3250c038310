"""A limit on the number of a searcher's trials at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynctune._checks import check_int
from asynctune.result import Row
from asynctune.suggest._wrapper import WrappingSearcher
from asynctune.suggest.base import FINISHED, Searcher, Suggestion


class ConcurrencyLimiter(WrappingSearcher):
    """Asks a searcher only while fewer than ``max_concurrent`` of its trials have not ended.

    With fewer trials at once, each suggestion builds on more results.

    Args:
        searcher: The wrapped searcher.
        max_concurrent: The largest number of its trials at once: running, waiting and paused.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(self, searcher: Searcher, max_concurrent: int) -> None:
        super().__init__(searcher)
        self.max_concurrent = check_int(type(self).__name__, "max_concurrent", max_concurrent, 1)
        self._open: set[str] = set()  # trials that have not ended

    def suggest(self, trial_id: str) -> Suggestion:
        if len(self._open - {trial_id}) >= self.max_concurrent:
            return None
        suggestion = super().suggest(trial_id)
        if suggestion is not None and suggestion is not FINISHED:
            self._open.add(trial_id)
        return suggestion

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self._open.add(trial_id)
        super().adopt(trial_id, values)

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        self._open.discard(trial_id)
        super().on_trial_complete(trial_id, result, error)
