"""Random search: each value drawn by its own sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asynctune._checks import check_seed
from asynctune.space.domains import Domain
from asynctune.space.space import Space
from asynctune.suggest._axes import axes_of
from asynctune.suggest._points import Points, plain_of
from asynctune.suggest._values import generator
from asynctune.suggest.base import Duplicates, Searcher, Suggestion


class RandomSearch(Searcher):
    """Draws each value from its sampler, and learns nothing of what became of it.

    What it draws is a function of the seed and of how many it has drawn.

    Args:
        seed: What is drawn comes from it; by default from that of the run.
        points_to_evaluate: What to try first, as dicts; what they leave out is drawn.
        metric: Not needed.
        mode: Not needed.
        duplicates: See :class:`Searcher`.
    """

    needs_metric: ClassVar[bool] = False

    def __init__(
        self,
        *,
        seed: int | None = None,
        points_to_evaluate: list[Mapping[str, Any]] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        duplicates: Duplicates = "allow",
    ) -> None:
        super().__init__(metric, mode, duplicates=duplicates)
        name = type(self).__name__
        self._seed = check_seed(name, seed)
        self._points = Points(name, points_to_evaluate)
        self._samplers: Mapping[str, Domain] = {}
        self._drawn = 0

    @property
    def repeats(self) -> bool:
        """Always."""
        return True

    @property
    def is_slow(self) -> bool:
        """Not slow, but drawing ahead costs it no knowledge."""
        return True

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        super().bind(space, metric, mode, seed)
        self._seed = seed if self._seed is None else self._seed
        self._samplers = space.samplers
        self._begin(space, self._seed)

    def suggest(self, trial_id: str) -> Suggestion:
        point = self._points.take()
        if point and point.keys() >= self._samplers.keys():
            return point
        self._drawn += 1
        return self._values(self._drawn - 1) | point

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self._points.tried(values)
        self._drawn += 1  # so that what is drawn next is not what was drawn first

    def _begin(self, space: Space, seed: int) -> None:
        """Get ready for a space."""
        own = {path: d for path, d in space.samplers.items() if _is_ours(d)}
        others = {path: lambda value: value for path in space.samplers.keys() - own.keys()}
        self._points.bind(plain_of(axes_of(type(self).__name__, own)) | others)

    def _values(self, number: int) -> dict[str, Any]:
        """Return the values of a number, for every sampler."""
        assert self._seed is not None
        return {
            path: domain.sample(generator(self._seed, number, path))
            for path, domain in self._samplers.items()
        }


def _is_ours(domain: Domain) -> bool:
    return type(domain).__module__ == Domain.__module__
