"""Trying each suggestion several times, for objectives that are noisy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asynctune._checks import as_float, check_bool, check_int
from asynctune.errors import ConfigError
from asynctune.result import Row
from asynctune.suggest._wrapper import WrappingSearcher
from asynctune.suggest.base import Finished, Searcher, Suggestion

TRIAL_INDEX: Final = "__trial_index__"
"""The key of a config that says which of the repeated trials it is, from 0."""


class Repeater(WrappingSearcher):
    """Tries each suggestion of a searcher several times, and tells it the mean of what came of them.

    It is told once all of them have ended, and nothing before. A trial whose value is not finite does
    not count; if none counts, the suggestion has failed. What the searcher does not suggest, such as
    points of a grid, differs among the trials of a suggestion.

    Args:
        searcher: The searcher.
        repeat: How many trials each suggestion gets.
        set_index: Whether the config gets the number of the trial among those, from 0, as
            ``"__trial_index__"``, to be used as a seed for example.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(self, searcher: Searcher, repeat: int = 1, set_index: bool = True) -> None:
        super().__init__(searcher)
        name = type(self).__name__
        self.repeat = check_int(name, "repeat", repeat, 1)
        self.set_index = check_bool(name, "set_index", set_index)
        if self.duplicates != "allow" and self.repeat > 1 and not self.set_index:
            raise ConfigError(
                f"duplicates of {type(searcher).__name__} is {self.duplicates!r}, so {name} would have "
                "nothing to repeat; set_index=True tells the trials of a suggestion apart"
            )
        self._open: _Group | None = None
        self._place: dict[str, tuple[_Group, int]] = {}

    def suggest(self, trial_id: str) -> Suggestion:
        group = self._open
        if group is None:
            suggestion = super().suggest(trial_id)
            if suggestion is None or isinstance(suggestion, Finished):
                return suggestion
            group = self._open = _Group(trial_id, suggestion)
        return self._join(group, trial_id)

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        if trial_id in self._place:  # it was asked for this trial, and suggested something else
            if self._place[trial_id][0].first == trial_id:
                super().adopt(trial_id, values)
            return
        if self._open is None:
            super().adopt(trial_id, values)
            self._open = _Group(trial_id, values)
        self._join(self._open, trial_id)

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        """Not handed on: the searcher knows nothing of the trials of a suggestion."""

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        group, index = self._place.pop(trial_id, (None, 0))
        if group is None:
            return
        group.ends[index] = (result, error)
        if len(group.ends) == self.repeat:
            super().on_trial_complete(group.first, *group.outcome(self.metrics))

    def _join(self, group: _Group, trial_id: str) -> dict[str, Any]:
        index = group.size
        group.size += 1
        self._place[trial_id] = (group, index)
        if group.size == self.repeat:
            self._open = None
        return dict(group.values) | ({TRIAL_INDEX: index} if self.set_index else {})


@dataclass(slots=True)
class _Group:
    """The trials of one suggestion.

    Args:
        first: The first one's id, by which the searcher knows all of them.
        values: What was suggested.
        size: How many there are.
        ends: How those ended that have, by index: the last row, and whether they failed.
    """

    first: str
    values: Mapping[str, Any]
    size: int = 0
    ends: dict[int, tuple[Row | None, bool]] = field(default_factory=dict)

    def outcome(self, metrics: tuple[str, ...]) -> tuple[Row | None, bool]:
        """Return what the searcher is told: a row, and whether the suggestion failed."""
        well = [row for _, (row, error) in sorted(self.ends.items()) if row and not error]
        counted = [row for row in well if all(_is_finite(row.get(name)) for name in metrics)]
        if counted:
            means = {
                name: math.fsum(float(row[name]) for row in counted) / len(counted)
                for name in metrics
            }
            return counted[0] | means, False
        if well and not any(name in row for row in well for name in metrics):
            return well[0], False  # let it say that its metric is not there
        if not well and not any(error for _, error in self.ends.values()):
            return None, False  # none was run
        return None, True


def _is_finite(value: Any) -> bool:
    number = as_float(value)
    return number is not None and math.isfinite(number)
