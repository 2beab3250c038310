"""Which checkpoints of a trial are kept. Pure: it says what may go, and deletes nothing."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Mapping
from typing import Any

from asynctune.errors import ConfigError
from asynctune.experiment.trial import CheckpointRef


class Retention:
    """Keeps the ``keep`` best checkpoints of one trial, always the newest, and all that are pinned.

    It is a fold over the trial's checkpoint events, so a resume goes on with the same scores.

    Args:
        keep: How many; None: all.
        score_attr: The metric that ranks them, nested ones as ``"a/b"``; ``"min-"`` in front ranks
            low values first. By default the newest are the best.
    """

    def __init__(self, keep: int | None, score_attr: str | None) -> None:
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            raise ConfigError(f"keep_checkpoints_num is {keep!r}; an int of 1 or more is wanted")
        if score_attr is not None and (not isinstance(score_attr, str) or not score_attr):
            raise ConfigError(f"checkpoint_score_attr is {score_attr!r}; a metric's name is wanted")
        attr = score_attr or "training_iteration"
        self._keep = keep
        self._sign = -1.0 if attr.startswith("min-") else 1.0
        self._attr = attr.removeprefix("min-")
        self._scores: dict[str, tuple[float, int, CheckpointRef]] = {}
        self._pins: Counter[str] = Counter()

    def add(self, checkpoint: CheckpointRef, flat: Mapping[str, Any]) -> None:
        """Take note of a new checkpoint.

        Args:
            checkpoint: The checkpoint.
            flat: The flattened row that it belongs to. One without the metric, or with NaN, ranks last.
        """
        value = flat.get(self._attr)
        score = -math.inf
        if isinstance(value, numbers.Real) and not math.isnan(value):
            score = self._sign * float(value)
        self._scores.pop(checkpoint.path, None)  # so that the newest is the last one
        self._scores[checkpoint.path] = (score, checkpoint.sequence, checkpoint)

    def remove(self, path: str) -> None:
        """Forget a checkpoint that is dropped or no good."""
        self._scores.pop(path, None)

    def pin(self, path: str) -> None:
        """Keep a checkpoint whatever its score: something refers to it. Pins are counted."""
        self._pins[path] += 1

    def unpin(self, path: str) -> None:
        """Take one pin away."""
        self._pins[path] -= 1
        if self._pins[path] <= 0:
            del self._pins[path]

    def surplus(self) -> list[CheckpointRef]:
        """Return those that nothing needs any longer, oldest first."""
        if self._keep is None or not self._scores:
            return []
        entries = list(self._scores.values())
        best = sorted(entries, key=lambda entry: entry[:2])[-self._keep :]
        newest = entries[-1]
        return [
            entry[2]
            for entry in entries
            if entry not in best and entry is not newest and entry[2].path not in self._pins
        ]
