"""Runs with a remote copy, and the content of the copy."""

from __future__ import annotations

from pathlib import Path

from counting import Counts

import asynctune as tune
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.storage import LocalStorage
from asynctune.storage.checkpoints.commits import Commits


class Durable(tune.DurableTrainable):
    def _setup(self, config):
        self.n = 0

    def _train(self):
        self.n += 1
        return {"n": self.n}

    def _save(self, directory):
        return {"n": self.n}

    def _restore(self, checkpoint):
        self.n = checkpoint["n"]


async def run(place, remote, until, trainable=Counts, **arguments):
    """Run in a place, with another one as the remote side, until a trial has counted so far."""
    given = {
        "name": "x", "verbose": 0, "grace_s": 1, "checkpoint_freq": 1, "stop": {"n": until},
        "upload_dir": remote, "storage_path": place, "upload_interval_s": 0.2,
    }  # fmt: skip
    executor = ProcessExecutor(2) if trainable is Durable else InlineExecutor(2)
    async with executor as pool:
        return await tune.run(trainable, **given | {"executor": pool} | arguments)


def commits_of(remote, trial):
    """Return the names of a trial's commits, the newest first."""
    place = LocalStorage(Path(remote, "x", trial.trial_id))
    return [commit.name for commit in Commits(place).newest_first()]
