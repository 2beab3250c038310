"""The choice of the checkpoints of a trial to keep. Pure: the caller deletes the others."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Mapping
from typing import Any

from asynctune.experiment.trial import CheckpointRef


class Retention:
    """The checkpoints of one trial; keeps the ``keep`` best, the newest, and all pinned ones.

    The scores are a fold over the trial's checkpoint events, so a resume continues with the same scores.

    Args:
        keep: The number of checkpoints to keep; None: all.
        score_attr: The metric that ranks the checkpoints, nested keys as ``"a/b"``; ``"min-"`` in front
            ranks low values first. By default the newest are the best. As long as no row has the metric,
            all checkpoints are kept: the name may be mistyped, and the best one would be lost.
    """

    def __init__(self, keep: int | None, score_attr: str | None) -> None:
        attr = score_attr or "training_iteration"
        self._keep = keep
        self._sign = -1.0 if attr.startswith("min-") else 1.0
        self._attr = attr.removeprefix("min-")
        self._is_ranked = score_attr is None
        self._scores: dict[str, tuple[float, int, CheckpointRef]] = {}
        self._pins: Counter[str] = Counter()

    def add(self, checkpoint: CheckpointRef, flat: Mapping[str, Any]) -> None:
        """Add a new checkpoint.

        Args:
            checkpoint: The checkpoint.
            flat: The flattened row of the checkpoint. Without the metric, or with NaN, the checkpoint
                ranks last.
        """
        value = flat.get(self._attr)
        score = -math.inf
        if isinstance(value, numbers.Real) and not math.isnan(value):
            score = self._sign * float(value)
            self._is_ranked = True
        self._scores.pop(checkpoint.path, None)  # surplus() takes the last entry for the newest
        self._scores[checkpoint.path] = (score, checkpoint.sequence, checkpoint)

    def remove(self, path: str) -> None:
        """Remove a checkpoint that was dropped or rejected."""
        self._scores.pop(path, None)

    def pin(self, path: str) -> None:
        """Keep a checkpoint whatever its score, until each of its pins is removed."""
        self._pins[path] += 1

    def unpin(self, path: str) -> None:
        """Remove one pin of a checkpoint."""
        self._pins[path] -= 1
        if self._pins[path] <= 0:
            del self._pins[path]

    @property
    def missing_attr(self) -> str | None:
        """The metric that should rank the checkpoints, while none of their rows has the metric."""
        return None if self._is_ranked or not self._scores else self._attr

    def surplus(self) -> list[CheckpointRef]:
        """Return the checkpoints that may be deleted, oldest first."""
        if self._keep is None or not self._is_ranked:
            return []
        entries = list(self._scores.values())
        best = sorted(entries, key=lambda entry: entry[:2])[-self._keep :]
        newest = entries[-1]
        return [
            entry[2]
            for entry in entries
            if entry not in best and entry is not newest and entry[2].path not in self._pins
        ]
