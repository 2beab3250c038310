"""Repeated trials of each suggestion, for noisy objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asynctune._checks import argument_error, as_float, check_bool, check_int
from asynctune.result import Row
from asynctune.suggest._wrapper import WrappingSearcher
from asynctune.suggest.base import Finished, Searcher, Suggestion

TRIAL_INDEX: Final = "__trial_index__"
"""The config key that holds the index of a trial among those of its suggestion, from 0."""


class Repeater(WrappingSearcher):
    """Tries each suggestion of a searcher several times, and notifies the searcher of the mean result.

    The searcher is notified once, when all trials of a suggestion have ended. The mean leaves out trials
    whose value is not finite; if all are left out, the suggestion has failed. Values that the searcher does
    not suggest, such as points of a grid, differ among the trials of a suggestion.

    Args:
        searcher: The wrapped searcher.
        repeat: The number of trials of each suggestion.
        set_index: Whether the config gets the index of the trial among those of its suggestion, from 0, as
            ``"__trial_index__"``, for example to seed the trial.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(self, searcher: Searcher, repeat: int = 1, set_index: bool = True) -> None:
        super().__init__(searcher)
        name = type(self).__name__
        self.repeat = check_int(name, "repeat", repeat, 1)
        self.set_index = check_bool(name, "set_index", set_index)
        if self.duplicates != "allow" and self.repeat > 1 and not self.set_index:
            raise argument_error(
                type(searcher).__name__,
                "duplicates",
                f"'allow' inside a {name} with set_index=False",
                self.duplicates,
                "with set_index=True the trials of a suggestion differ",
            )
        self._filling: _Group | None = None  # the group that lacks trials
        self._members: dict[str, tuple[_Group, int]] = {}  # trial -> its group and index

    def suggest(self, trial_id: str) -> Suggestion:
        group = self._filling
        if group is None:
            suggestion = super().suggest(trial_id)
            if suggestion is None or isinstance(suggestion, Finished):
                return suggestion
            group = self._filling = _Group(trial_id, suggestion)
        return self._join(group, trial_id)

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        if trial_id in self._members:  # a resume asked for this trial, and got another suggestion
            if self._members[trial_id][0].first == trial_id:
                super().adopt(trial_id, values)
            return
        if self._filling is None:
            super().adopt(trial_id, values)
            self._filling = _Group(trial_id, values)
        self._join(self._filling, trial_id)

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        """Do nothing: the searcher is notified of the mean alone."""

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        group, index = self._members.pop(trial_id, (None, 0))
        if group is None:
            return
        group.ends[index] = (result, error)
        if len(group.ends) == self.repeat:
            super().on_trial_complete(group.first, *group.outcome(self.metrics))

    def _join(self, group: _Group, trial_id: str) -> dict[str, Any]:
        """Add a trial to a group, and return its values."""
        index = group.size
        group.size += 1
        self._members[trial_id] = (group, index)
        if group.size == self.repeat:
            self._filling = None
        return dict(group.values) | ({TRIAL_INDEX: index} if self.set_index else {})


@dataclass(slots=True)
class _Group:
    """The trials of one suggestion.

    Args:
        first: The id of the first trial, which stands for the group in calls of the searcher.
        values: The suggested values.
        size: The number of trials so far.
        ends: The last row of each trial that has ended, and whether the trial failed, by index.
    """

    first: str
    values: Mapping[str, Any]
    size: int = 0
    ends: dict[int, tuple[Row | None, bool]] = field(default_factory=dict)

    def outcome(self, metrics: tuple[str, ...]) -> tuple[Row | None, bool]:
        """Return the row to notify the searcher of, and whether the suggestion failed."""
        well = [row for _, (row, error) in sorted(self.ends.items()) if row and not error]
        counted = [row for row in well if all(_is_finite(row.get(name)) for name in metrics)]
        if counted:
            means = {
                name: math.fsum(float(row[name]) for row in counted) / len(counted)
                for name in metrics
            }
            return counted[0] | means, False
        if well and not any(name in row for row in well for name in metrics):
            return well[0], False  # the searcher raises MetricMissing for this row
        if not well and not any(error for _, error in self.ends.values()):
            return None, False  # no trial ran
        return None, True


def _is_finite(value: Any) -> bool:
    number = as_float(value)
    return number is not None and math.isfinite(number)
