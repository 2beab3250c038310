"""Points of the user: configurations to try first, or with known rewards."""

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
    """A point with known rewards.

    Args:
        values: The values of the point by path.
        rewards: The reward for each objective.
    """

    values: dict[str, Any]
    rewards: tuple[float, ...]


class Points:
    """``points_to_evaluate`` and ``evaluated_rewards`` of a searcher.

    Attributes:
        evaluated: The points with known rewards, filled by :meth:`bind`.

    Args:
        owner: The name of the searcher, for errors.
        points: Dicts of values, by path or nested; values that a point leaves out are up to the searcher.
        rewards: The reward of each point, if known. Points with rewards are handed to the sampler and not
            tried.
        objectives: The number of objectives.

    Raises:
        ConfigError: ``points`` is not a list of dicts, ``rewards`` is not a list of numbers, or their
            lengths differ.
    """

    def __init__(self, owner: str, points: Any, rewards: Any = None, objectives: int = 1) -> None:
        self._owner = owner
        self._points = check_list(owner, "points_to_evaluate", points)
        for number, point in enumerate(self._points):
            if not isinstance(point, Mapping):
                raise ConfigError(f"{self._label(number)} must be a dict, got {safe_repr(point)}")
        self._rewards: list[tuple[float, ...]] | None = None
        if rewards is not None:
            given = check_list(owner, "evaluated_rewards", rewards)
            if len(given) != len(self._points):
                raise ConfigError(
                    f"evaluated_rewards of {owner} must have one reward for each of the "
                    f"{len(self._points)} items of points_to_evaluate, got {len(given)}"
                )
            self._rewards = [self._reward(n, r, objectives) for n, r in enumerate(given)]
        self._pending: list[dict[str, Any]] = []
        self.evaluated: list[Evaluated] = []

    def bind(self, plain: Mapping[str, Callable[[Any], Any]] | None) -> None:
        """Check the points against the space, and key their values by path.

        Args:
            plain: The paths of the space, each with a function that converts a value to a plain one and
                raises a ValueError such as ``"must be a number"``; None if the space has no fixed paths.

        Raises:
            ConfigError: The space does not have a path, a sampler cannot give a value, or a point with a
                reward leaves out a value.
        """
        for number, point in enumerate(self._points):
            values = dict(by_path(point, lambda path, _: plain is not None and path in plain))
            if plain is not None:
                values = {path: self._plain(number, path, v, plain) for path, v in values.items()}
            if self._rewards is None:
                self._pending.append(values)
                continue
            missing = sorted((plain or {}).keys() - values.keys())
            if missing:
                raise ConfigError(
                    f"{self._label(number)} must have a value for every sampler, since evaluated_rewards "
                    f"has its reward; the point has no value for {', '.join(missing)}"
                )
            self.evaluated.append(Evaluated(values, self._rewards[number]))

    def take(self) -> dict[str, Any]:
        """Remove and return the next point to try; {} if there is none."""
        return self._pending.pop(0) if self._pending else {}

    def skip_tried(self, values: Mapping[str, Any]) -> None:
        """Remove the next point to try if it has these values, which a previous run tried."""
        if self._pending and all(
            path in values and (values[path] is value or is_equal(values[path], value))
            for path, value in self._pending[0].items()
        ):
            del self._pending[0]

    def _label(self, number: int) -> str:
        return f"points_to_evaluate[{number}] of {self._owner}"

    def _plain(
        self, number: int, path: str, value: Any, plain: Mapping[str, Callable[[Any], Any]]
    ) -> Any:
        if path not in plain:
            paths = ", ".join(plain) or "none"
            raise ConfigError(
                f"the keys of {self._label(number)} must be samplers of the space ({paths}), got {path!r}"
            )
        try:
            return plain[path](value)
        except ValueError as exc:
            raise ConfigError(
                f"{path!r} in {self._label(number)} {exc}, got {safe_repr(value)}"
            ) from exc

    def _reward(self, number: int, reward: Any, objectives: int) -> tuple[float, ...]:
        parts = list(reward) if isinstance(reward, list | tuple) else [reward]
        numeric = all(isinstance(p, numbers.Real) and not isinstance(p, bool) for p in parts)
        if len(parts) != objectives or not numeric or any(math.isinf(p) for p in parts):
            right = "a number" if objectives == 1 else f"a list of {objectives} numbers"
            raise ConfigError(
                f"evaluated_rewards[{number}] of {self._owner} must be {right} and not infinite, got "
                f"{safe_repr(reward)}"
            )
        return tuple(map(float, parts))


def plain_functions(axes: Mapping[str, Axis]) -> dict[str, Callable[[Any], Any]]:
    """Return the paths and functions of some axes, for :meth:`Points.bind`."""
    return {path: axis.plain for path, axis in axes.items()}
