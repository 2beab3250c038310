"""A worker is killed at every write of ``_save`` and at every call of the commit: half is never offered."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio.to_thread
import pytest

import asynctune as tune
from asynctune.executors import ProcessExecutor
from asynctune.storage.checkpoints.directory import find_root, verify
from asynctune.storage.filesystem import FileSystem, current
from harness.faults import FaultyFileSystem

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(3600)]

PARTS, WRITES = 3, 4  # files of a checkpoint, and writes of each
SAVES = PARTS * WRITES
CALLS = 24  # more than a commit makes; the points behind its end kill nobody


class Kills(FaultyFileSystem):
    """Ends this process before the n-th call."""

    __slots__ = ("_at",)

    def __init__(self, at):
        super().__init__()
        self._at = at

    def _call(self, name, function, *args):
        if len(self.calls) + 1 >= self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._call(name, function, *args)


class Saves(tune.Trainable):
    """Its checkpoint has several files, each written in several goes, all of one iteration."""

    def _setup(self, config):
        self.n = 0

    def _train(self):
        self.n += 1
        return {"n": self.n}

    def _save(self, directory):
        point = self.config["point"] if self._dies() else None
        count = 0
        for part in range(PARTS):
            with open(os.path.join(directory, f"part-{part}"), "wb", buffering=0) as file:
                for _ in range(WRITES):
                    count += 1
                    if count == point:
                        file.write(b"%08d" % self.n)
                        os.kill(os.getpid(), signal.SIGKILL)
                    file.write(b"%08d\n" % self.n)
        # What follows is the commit, in this thread.
        current.set(Kills(point - SAVES) if point and point > SAVES else FileSystem())
        return directory

    def _dies(self):
        """Once, at the second save."""
        mark = Path(self.logdir, "died")
        if self.n != 2 or mark.exists():
            return False
        mark.touch()
        return True

    def _restore(self, checkpoint):
        whole = [Path(checkpoint, f"part-{part}").read_bytes() for part in range(PARTS)]
        numbers = {line for text in whole for line in text.splitlines()}
        if len(numbers) != 1 or {len(text) for text in whole} != {9 * WRITES}:
            Path(self.logdir, "half").touch()
            raise AssertionError(f"a partial checkpoint was offered: {whole}")
        self.n = int(numbers.pop())
        Path(self.logdir, "restored").write_text(str(self.n))


async def test_no_partial_checkpoint_is_ever_offered_to_restore(is_long):
    points = list(range(1, SAVES + CALLS + 1))
    async with ProcessExecutor(2) as pool:
        analysis = await tune.run(
            Saves,
            config={"point": tune.grid_search(points)},
            num_samples=2_000 // len(points) + 1 if is_long else 1,
            stop={"n": 4},
            checkpoint_freq=1,
            keep_checkpoints_num=2,
            max_failures=1,
            executor=pool,
            loggers=[],
            verbose=0,
        )
    killed = [trial for trial in analysis.trials if trial.num_failures]
    assert {t.config["point"] for t in killed} >= set(range(1, SAVES + 10)), "both were killed"
    assert len(killed) < len(analysis.trials), "the last points lie behind the commit"
    for trial in analysis.trials:
        assert trial.status == "TERMINATED", trial.error
        assert [row["n"] for row in trial.results] == [1, 2, 3, 4]
        assert not Path(trial.logdir, "half").exists()
        assert Path(trial.logdir, "restored").exists() == bool(trial.num_failures)
        for checkpoint in trial.checkpoints:
            await anyio.to_thread.run_sync(lambda path=checkpoint.path: verify(find_root(path)))
