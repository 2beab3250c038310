"""A scheduler that stops each trial whose score falls too far behind the best one."""

from __future__ import annotations

import math

from asynctune.schedulers import Decision, TrialScheduler, score_of, time_of


class StopBehindBest(TrialScheduler):
    needs_metric = True

    def __init__(self, *, margin, grace_period, max_t, metric=None, mode=None):
        super().__init__(metric, mode)
        self._margin = margin
        self._grace_period = grace_period
        self._max_t = max_t
        self._best = -math.inf

    def on_trial_result(self, trial, result):
        time = time_of(result, "training_iteration")
        score = score_of(result, self.metric, self.mode)
        self._best = max(self._best, score)
        is_behind = time >= self._grace_period and score < self._best - self._margin
        return Decision.STOP if is_behind or time >= self._max_t else Decision.CONTINUE
