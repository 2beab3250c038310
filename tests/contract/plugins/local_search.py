"""A searcher that draws values near those of the best trial, and anywhere from time to time."""

from __future__ import annotations

import math
import random

from asynctune import MetricMissing
from asynctune.suggest import Searcher

_CANDIDATES = 8
_ANYWHERE = 0.2


class LocalSearch(Searcher):
    def __init__(self, metric=None, mode=None, duplicates="allow"):
        super().__init__(metric, mode, duplicates=duplicates)
        self._values = {}
        self._best = None
        self._best_loss = math.inf
        self._count = 0

    @property
    def repeats(self):
        return True

    def bind(self, space, metric, mode, seed):
        super().bind(space, metric, mode, seed)
        self._samplers = space.samplers
        self._seed = seed

    def suggest(self, trial_id):
        rng = random.Random(f"{self._seed}/{self._count}")
        self._count += 1
        is_anywhere = self._best is None or rng.random() < _ANYWHERE
        self._values[trial_id] = {
            path: sampler.sample(rng) if is_anywhere else self._near(path, sampler, rng)
            for path, sampler in self._samplers.items()
        }
        return self._values[trial_id]

    def adopt(self, trial_id, values):
        self._values[trial_id] = dict(values)

    def on_trial_complete(self, trial_id, result=None, error=False):
        values = self._values.pop(trial_id, None)
        if values is None or not result:
            return
        if self.metric not in result:
            raise MetricMissing(self.metric, result)
        loss = _finite(result[self.metric])
        if loss is not None:
            loss = loss if self.mode == "min" else -loss
            if loss < self._best_loss:
                self._best, self._best_loss = values, loss

    def _near(self, path, sampler, rng):
        best = self._best[path]
        drawn = [sampler.sample(rng) for _ in range(_CANDIDATES)]
        if isinstance(best, int | float) and all(isinstance(each, int | float) for each in drawn):
            return min(drawn, key=lambda each: abs(each - best))
        return drawn[0]  # categories have no neighbours


def _finite(value):
    try:
        return float(value) if math.isfinite(value) else None
    except (TypeError, OverflowError):
        return None
