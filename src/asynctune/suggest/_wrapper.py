"""What searchers have in common that change how another one is asked and told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError
from asynctune.result import Row
from asynctune.space.space import Space
from asynctune.suggest.base import Searcher, Suggestion


class WrappingSearcher(Searcher):
    """Hands on all that it is asked and told; subclasses change some of it.

    Args:
        searcher: The other searcher, whose objective and policies it takes over.

    Raises:
        ConfigError: That is no instance of a searcher.
    """

    needs_metric: ClassVar[bool] = False  # the other one says so itself

    def __init__(self, searcher: Searcher) -> None:
        name = type(self).__name__
        if not isinstance(searcher, Searcher):
            raise ConfigError(
                f"searcher of {name} is {safe_repr(searcher)}; an instance of a searcher is wanted"
            )
        super().__init__(duplicates=getattr(searcher, "duplicates", "allow"))
        self.searcher = searcher

    @property
    def repeats(self) -> bool:
        """If the other one does."""
        return self.searcher.repeats

    @property
    def is_slow(self) -> bool:
        """If the other one is."""
        return self.searcher.is_slow

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objectives; there may be several."""
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
