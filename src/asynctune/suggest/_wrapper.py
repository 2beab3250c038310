"""The base of the searchers that wrap another searcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asynctune._checks import argument_error
from asynctune.result import Row
from asynctune.space.space import Space
from asynctune.suggest.base import Searcher, Suggestion


class WrappingSearcher(Searcher):
    """Passes every call on to another searcher; subclasses change some of the calls.

    Args:
        searcher: The wrapped searcher, whose objective and policies the wrapper takes over.

    Raises:
        ConfigError: ``searcher`` is not an instance of :class:`Searcher`.
    """

    needs_metric: ClassVar[bool] = False  # the wrapped searcher checks this itself

    def __init__(self, searcher: Searcher) -> None:
        name = type(self).__name__
        if not isinstance(searcher, Searcher):
            raise argument_error(name, "searcher", "an instance of Searcher", searcher)
        super().__init__(duplicates=getattr(searcher, "duplicates", "allow"))
        self.searcher = searcher

    @property
    def repeats(self) -> bool:
        """Whether the wrapped searcher repeats."""
        return self.searcher.repeats

    @property
    def is_slow(self) -> bool:
        """Whether the wrapped searcher is slow."""
        return self.searcher.is_slow

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objectives of the wrapped searcher: several, one or none."""
        several: tuple[str, ...] | None = getattr(self.searcher, "metrics", None)
        if several is not None:
            return several
        return () if self.metric is None else (self.metric,)

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        super().bind(space, metric, mode, seed)
        self.searcher.bind(space, metric, mode, seed)
        self.metric, self.mode = self.searcher.metric, self.searcher.mode

    def suggest(self, trial_id: str) -> Suggestion:
        return self.searcher.suggest(trial_id)

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self.searcher.adopt(trial_id, values)

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        self.searcher.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        self.searcher.on_trial_complete(trial_id, result, error)
