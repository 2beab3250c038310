"""A callback that counts events, and collects the results of each trial."""

from __future__ import annotations

from collections import Counter, defaultdict

from asynctune.callbacks import Callback, RunEnded


class EventTally(Callback):
    def __init__(self):
        self.kinds = Counter()
        self.losses = defaultdict(list)
        self.reason = None

    def on_event(self, event):
        self.kinds[type(event)] += 1
        if isinstance(event, RunEnded):
            self.reason = event.reason

    async def on_trial_result(self, trial, result):
        self.losses[trial.trial_id].append(result["loss"])
