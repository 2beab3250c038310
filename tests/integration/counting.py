"""The trainable of most of these tests."""

from __future__ import annotations

import asynctune as tune


class Counts(tune.Trainable):
    async def _setup(self, config):
        self.n = 0

    async def _train(self):
        self.n += 1
        return {"n": self.n}

    async def _save(self, directory):
        return {"n": self.n}

    async def _restore(self, checkpoint):
        self.n = checkpoint["n"]
