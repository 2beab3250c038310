"""Which checkpoints of a trial are kept. Pure: it says what may go, and deletes nothing."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from asynctune.errors import ConfigError
from asynctune.trial import CheckpointRef


class CheckpointManager:
    """Keeps the ``keep`` best checkpoints of one trial, and always the newest.

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
        self._scores: list[tuple[float, int, CheckpointRef]] = []

    def add(self, checkpoint: CheckpointRef, flat: Mapping[str, Any]) -> list[CheckpointRef]:
        """Take note of a new checkpoint.

        Args:
            checkpoint: The checkpoint.
            flat: The flattened row that it belongs to. One without the metric, or with NaN, ranks last.

        Returns:
            Those that are no longer wanted.
        """
        value = flat.get(self._attr)
        score = -math.inf
        if isinstance(value, numbers.Real) and not math.isnan(value):
            score = self._sign * float(value)
        self._scores.append((score, checkpoint.sequence, checkpoint))
        if self._keep is None:
            return []
        best = sorted(self._scores, key=lambda entry: entry[:2])[-self._keep :]
        kept = [entry for entry in self._scores if entry in best or entry[2] is checkpoint]
        dropped = [entry[2] for entry in self._scores if entry not in kept]
        self._scores = kept
        return dropped
