"""Do the proofs prove anything? Bugs are planted in a copy, and each is caught by the file named for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import asynctune

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = Path(asynctune.__file__).parent
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Bug:
    """A change of one place that a careless hand could make."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str
    only: str = ""
    """Which of its tests, as for ``-k``: to be quick."""


BUGS = [
    Bug(
        "the names in a trial's directory are not synced",
        "storage/checkpoints/directory.py",
        "    filesystem.sync_directory(parent)\n",
        "",
        "fault/test_power_loss.py",
    ),
    Bug(
        "the name of the trial's directory itself is not synced",
        "storage/checkpoints/directory.py",
        "        filesystem.sync_directory(Path(parent).parent)\n",
        "        pass\n",
        "fault/test_power_loss.py",
    ),
    Bug(
        "the files of a checkpoint are not synced",
        "storage/checkpoints/directory.py",
        "                filesystem.sync_file(path)\n",
        "",
        "fault/test_power_loss.py",
    ),
    Bug(
        "the manifest is not synced before the rename",
        "storage/checkpoints/directory.py",
        "            filesystem.datasync(descriptor)\n",
        "            pass\n",
        "fault/test_power_loss.py",
    ),
    Bug(
        "a result is shown before it is written",
        "experiment/journal.py",
        "        offset = self._size\n",
        "        offset = self._size\n"
        "        self._recent.append(event)\n"
        "        self._recent_ends.append(self._size + len(data))\n"
        "        self._count += 1\n"
        "        self._wake()\n",
        "fault/test_crash_at_every_call.py",
    ),
    Bug(
        "with durability='power' a result is shown before it is durable",
        "experiment/journal.py",
        "        return self._synced if self._durable else self._count\n",
        "        return self._count\n",
        "fault/test_power_loss.py",
    ),
    Bug(
        "an old checkpoint is deleted before its replacement is durable",
        "runner/trial_task/checkpoints.py",
        "        await run.journal.synced()\n        surplus = trial.kept.surplus()\n",
        "        surplus = trial.kept.surplus()\n"
        "        for old in surplus:\n"
        "            await self._delete(actor, old)\n"
        "        await run.journal.synced()\n",
        "fault/test_power_loss.py",
        "otherwise",
    ),
    Bug(
        "a trial has ended before that is durable",
        "runner/trial_task/task.py",
        "            run.decider.trial_ended(trial)\n            await run.journal.synced()\n",
        "            run.decider.trial_ended(trial)\n",
        "fault/test_power_loss.py",
        "otherwise",
    ),
    Bug(
        "a torn end is not cut off before the first append",
        "experiment/journal.py",
        "                self._files.truncate(self._file, reader.end)\n",
        "                pass\n",
        "fault/test_journal_damage.py",
        "last_cuts",
    ),
    Bug(
        "what a resume repeats is not taken back",
        "experiment/trial.py",
        "        keep = bisect_right(self._sequences, sequence)\n        if keep < len",
        "        keep = len(self._sequences)\n        if keep < len",
        "fault/test_crash_at_every_call.py",
    ),
    Bug(
        "the last row is not judged again before a resumed trial trains",
        "runner/replay.py",
        "            if stop_reason is not None and at_once:\n",
        "            if failed:\n",
        "integration/test_resume.py",
        "another_train",
    ),
    Bug(
        "a forked child keeps the lock of its dead parent",
        "experiment/lock.py",
        "    os.register_at_fork(after_in_child=_close_in_child)\n",
        "    pass\n",
        "fault/test_lock.py",
    ),
    Bug(
        "an error of fdatasync is passed over",
        "experiment/journal.py",
        '            self._break(exc, "cannot be made durable")\n',
        "            pass\n",
        "unit/experiment/test_journal.py",
    ),
    Bug(
        "the sums of a checkpoint's files are not compared",
        "storage/checkpoints/directory.py",
        "        if _digest(path)[1] != digest:\n",
        "        if False:\n",
        "unit/storage/checkpoints/test_directory.py",
    ),
    Bug(
        "only the worker is killed, and not what it has started",
        "trainable/worker/server.py",
        "        os.killpg(pid, signal.SIGKILL)\n",
        "        pass\n",
        "fault/test_hung_workers.py",
        "children",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_by_the_file_that_is_named_for_it(bug, tmp_path):
    copy = tmp_path / "src" / "asynctune"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / bug.file).read_text()
    assert text.count(bug.old) == 1, "the place is gone, or there are two: plant it anew"
    (copy / bug.file).write_text(text.replace(bug.old, bug.new))
    ran = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
            "--basetemp", str(tmp_path / "inner"), "-k", bug.only, str(TESTS / bug.caught_by),
        ],
        env=os.environ | {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 1, f"it was not caught:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
    assert " failed" in ran.stdout, "it was caught by a test, and not by an accident before it"
