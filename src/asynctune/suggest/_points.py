"""What is to be tried before a searcher's own ideas, and what is known already."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asynctune._checks import check_list, safe_repr
from asynctune.errors import ConfigError
from asynctune.suggest._axes import Axis, is_equal
from asynctune.suggest._values import by_path


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A point whose outcome is known.

    Args:
        values: Its values by path.
        rewards: What came of it, for each objective.
    """

    values: dict[str, Any]
    rewards: tuple[float, ...]


class Points:
    """``points_to_evaluate`` and ``evaluated_rewards`` of a searcher.

    Args:
        owner: The searcher's name, for errors.
        points: Dicts of values, by path or nested; what a point leaves out is up to the searcher.
        rewards: What came of each point, if that is known: then they are told and not tried.
        objectives: How many objectives there are.

    Raises:
        ConfigError: They are no lists of dicts and numbers, or of different lengths.
    """

    def __init__(self, owner: str, points: Any, rewards: Any = None, objectives: int = 1) -> None:
        self._owner = owner
        self._points = check_list(owner, "points_to_evaluate", points)
        for number, point in enumerate(self._points):
            if not isinstance(point, Mapping):
                raise ConfigError(f"{self._name(number)} is {safe_repr(point)}; a dict is wanted")
        self._rewards: list[tuple[float, ...]] | None = None
        if rewards is not None:
            given = check_list(owner, "evaluated_rewards", rewards)
            if len(given) != len(self._points):
                raise ConfigError(
                    f"evaluated_rewards of {owner} has {len(given)} items and points_to_evaluate "
                    f"{len(self._points)}; one reward for each point is wanted"
                )
            self._rewards = [self._reward(n, r, objectives) for n, r in enumerate(given)]
        self._waiting: list[dict[str, Any]] = []
        self.evaluated: list[Evaluated] = []

    def bind(self, plain: Mapping[str, Callable[[Any], Any]] | None) -> None:
        """Sort the points' values by path, and check them.

        Args:
            plain: For each path what makes a value plain, or raises a ValueError that says what is
                wanted; None if nothing is known of the space.

        Raises:
            ConfigError: A path is not of the space, or a value not of its sampler; or what was
                evaluated leaves out a value.
        """
        for number, point in enumerate(self._points):
            values = dict(by_path(point, lambda path, _: plain is not None and path in plain))
            if plain is not None:
                values = {path: self._plain(number, path, v, plain) for path, v in values.items()}
            if self._rewards is None:
                self._waiting.append(values)
                continue
            missing = sorted((plain or {}).keys() - values.keys())
            if missing:
                raise ConfigError(
                    f"{self._name(number)} has no value for {', '.join(missing)}, so its reward in "
                    "evaluated_rewards cannot be used; give all values"
                )
            self.evaluated.append(Evaluated(values, self._rewards[number]))

    def take(self) -> dict[str, Any]:
        """Return the values of the next point that is to be tried; {}: there is none."""
        return self._waiting.pop(0) if self._waiting else {}

    def tried(self, values: Mapping[str, Any]) -> None:
        """An earlier driver tried these values; if they are the next point, that is done with."""
        if self._waiting and all(
            path in values and (values[path] is value or is_equal(values[path], value))
            for path, value in self._waiting[0].items()
        ):
            del self._waiting[0]

    def _name(self, number: int) -> str:
        return f"points_to_evaluate[{number}] of {self._owner}"

    def _plain(
        self, number: int, path: str, value: Any, plain: Mapping[str, Callable[[Any], Any]]
    ) -> Any:
        if path not in plain:
            known = ", ".join(plain) or "none"
            raise ConfigError(
                f"{self._name(number)} has {path!r}, which is no sampler of the space; those are: "
                f"{known}"
            )
        try:
            return plain[path](value)
        except ValueError as exc:
            raise ConfigError(
                f"{self._name(number)}: {path!r} is {safe_repr(value)}; {exc}"
            ) from exc

    def _reward(self, number: int, reward: Any, objectives: int) -> tuple[float, ...]:
        parts = list(reward) if isinstance(reward, list | tuple) else [reward]
        numeric = all(isinstance(p, numbers.Real) and not isinstance(p, bool) for p in parts)
        if len(parts) != objectives or not numeric or any(math.isinf(p) for p in parts):
            wanted = "a number" if objectives == 1 else f"a list of {objectives} numbers"
            raise ConfigError(
                f"evaluated_rewards[{number}] of {self._owner} is {safe_repr(reward)}; {wanted} is wanted"
            )
        return tuple(map(float, parts))


def plain_of(axes: Mapping[str, Axis]) -> dict[str, Callable[[Any], Any]]:
    """Return what :meth:`Points.bind` wants, of axes."""
    return {path: axis.plain for path, axis in axes.items()}
