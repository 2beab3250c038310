"""Random search: each sampler draws its own value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asynctune._checks import check_seed
from asynctune.space.domains import Domain
from asynctune.space.space import Space
from asynctune.suggest._axes import axes_of
from asynctune.suggest._points import Points, plain_functions
from asynctune.suggest._values import generator
from asynctune.suggest.base import Duplicates, Searcher, Suggestion


class RandomSearch(Searcher):
    """Draws each value from its sampler, and learns nothing from results.

    The values are a function of the seed and of the number of earlier suggestions.

    Args:
        seed: The seed of all values; by default that of the run.
        points_to_evaluate: The configurations to try first, as dicts; values that they leave out are drawn.
        metric: The objective; not needed.
        mode: ``"min"`` or ``"max"``; not needed.
        duplicates: The policy for repeated suggestions, see :class:`Searcher`.
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
        """Always True."""
        return True

    @property
    def is_slow(self) -> bool:
        """Always True: this searcher is quick, but loses nothing by being asked ahead."""
        return True

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        super().bind(space, metric, mode, seed)
        self._seed = seed if self._seed is None else self._seed
        self._samplers = space.samplers
        self._prepare(space, self._seed)

    def suggest(self, trial_id: str) -> Suggestion:
        point = self._points.take()
        if point and point.keys() >= self._samplers.keys():
            return point
        self._drawn += 1
        return self._values(self._drawn - 1) | point

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self._points.skip_tried(values)
        self._drawn += 1  # the next suggestion must not repeat the adopted ones

    def _prepare(self, space: Space, seed: int) -> None:
        """Check the user's points against a space; subclasses set up their sequences too."""
        own = {path: d for path, d in space.samplers.items() if _is_built_in(d)}
        others = {path: lambda value: value for path in space.samplers.keys() - own.keys()}
        self._points.bind(plain_functions(axes_of(type(self).__name__, own)) | others)

    def _values(self, number: int) -> dict[str, Any]:
        """Return the values of the suggestion with this number, for every sampler."""
        assert self._seed is not None
        return {
            path: domain.sample(generator(self._seed, number, path))
            for path, domain in self._samplers.items()
        }


def _is_built_in(domain: Domain) -> bool:
    return type(domain).__module__ == Domain.__module__
