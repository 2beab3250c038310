"""Makes ``old_journals`` and ``old_pickles``: what the build before the modules moved has written.

Run it with the source of commit a2329f5 on the path, from any directory; it takes some seconds::

    PYTHONPATH=<a clone at a2329f5>/src python tests/data/make_old_journals.py

Each experiment is written by a driver in a process of its own, to a temporary directory, and most drivers
end themselves by SIGKILL when they have seen a certain event. Beside each experiment ``<kind>.json`` says
what that build made of it. No path and no name of the machine gets into the files; the last step looks.
"""

from __future__ import annotations

import asyncio
import getpass
import importlib.metadata
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from old_trainables import SECRET, Sums, arguments

import asynctune as tune
from asynctune.executors import InlineExecutor

HERE = Path(__file__).parent
JOURNALS, PICKLES = HERE / "old_journals", HERE / "old_pickles"
HOST = "example"
KINDS = (
    "plain", "cancelled", "budget", "failed", "function", "asha", "asha_promote", "pbt", "optuna",
    "durable",
)  # fmt: skip


# -- drivers: each runs in a process of its own ---------------------------------------------------


class KillsItself(tune.Callback):
    """SIGKILL of this process at an event, when a number of results was seen, and as many exploits.

    The event is the next result, or the next checkpoint of an iteration.
    """

    def __init__(self, results: int, exploits: int = 0, saved: int | None = None) -> None:
        self._results, self._exploits, self._saved = results, exploits, saved

    async def on_trial_exploit(self, trial: Any, exploit: Any) -> None:
        self._exploits -= 1

    async def on_trial_result(self, trial: Any, result: Any) -> None:
        self._results -= 1
        if self._saved is None:
            self._kill()

    async def on_checkpoint(self, trial: Any, checkpoint: Any) -> None:
        if checkpoint.iteration == self._saved:
            self._kill()

    def _kill(self) -> None:
        if self._results <= 0 and self._exploits <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def run(kind: str, parent: Path, slots: int = 2, **more: Any) -> tune.ExperimentAnalysis:
    """Run an experiment, or go on with it, to its end, if it comes to that."""
    trainable, given = arguments(kind)
    given = {"name": kind, "storage_path": parent, "resume": "AUTO"} | given | more
    async with InlineExecutor(slots) as pool:
        return await tune.run(trainable, executor=pool, **given)


async def killed(
    kind: str, parent: Path, *when: int, saved: int | None = None, **more: Any
) -> None:
    """Never comes back."""
    await run(kind, parent, callbacks=[KillsItself(*when, saved=saved)], **more)
    raise AssertionError("it came to its end")


async def cancelled(kind: str, parent: Path, results: int, **more: Any) -> None:
    """Cancel the run when a number of results was seen."""
    trainable, given = arguments(kind)
    given = {"name": kind, "storage_path": parent, "resume": "AUTO"} | given | more
    async with (
        InlineExecutor(2) as pool,
        tune.start(trainable, executor=pool, **given) as experiment,
    ):
        async for _ in experiment:
            results -= 1
            if results == 0:
                await experiment.aclose()
                return
    raise AssertionError("it came to its end")


async def out_of_budget(kind: str, parent: Path) -> None:
    """Let the budget end the trials that never return."""
    trainable, _ = arguments(kind)
    trainable.holds_at = 5
    await run(kind, parent, time_budget_s=1)


async def failing(kind: str, parent: Path) -> None:
    """Let every trial fail in its fourth iteration, twice."""
    Sums.fails_at = 3
    # What a traceback says of where this lies.
    Sums._train.__code__ = Sums._train.__code__.replace(co_filename="old_trainables.py")
    await run(kind, parent, num_samples=3, max_failures=1, raise_on_failed_trial=False)


def bucket_of(parent: Path) -> dict[str, str]:
    return {"upload_dir": str(parent / "durable_bucket")}


DRIVERS: dict[str, list[Callable[[Path], Any]]] = {
    "plain": [lambda at: killed("plain", at, 14), lambda at: killed("plain", at, 9)],
    "cancelled": [lambda at: cancelled("cancelled", at, 17)],
    "budget": [lambda at: out_of_budget("budget", at)],
    "failed": [lambda at: failing("failed", at)],
    "function": [lambda at: killed("function", at, 16, saved=4)],
    "asha": [lambda at: killed("asha", at, 12, saved=4)],
    "asha_promote": [lambda at: killed("asha_promote", at, 9, saved=2)],
    "pbt": [lambda at: killed("pbt", at, 17, 2, slots=4)],
    "optuna": [lambda at: killed("optuna", at, 34, saved=2)],
    "durable": [
        lambda at: cancelled("durable", at, 17, **bucket_of(at)),
        lambda at: killed("durable", at, 6, **bucket_of(at)),
    ],
}


# -- the generator itself -------------------------------------------------------------------------


def make_experiment(kind: str, parent: Path) -> None:
    """Write an experiment and what this build makes of it; again, if its drivers were too fast or slow."""
    for number in range(9):
        here = parent / f"{kind}-{number}"
        here.mkdir()
        run_drivers(kind, here)
        described = describe(here / kind)
        if (lacks := what_lacks(kind, described)) is None:
            break
        print(f"{kind} once more: {lacks}")
    else:
        raise AssertionError(f"no way to {kind}")
    whole = asyncio.run(run(kind, here / "whole", slots=4, **other_bucket(kind, here)))
    described["configs"] = [shown(trial.initial_config) for trial in whole.trials]
    if kind == "optuna":
        described["optuna"] = importlib.metadata.version("optuna")
    write_json(JOURNALS / f"{kind}.json", described)
    keep(here / kind)
    if kind == "durable":
        bucket, there = here / "durable_bucket", here / "fetched"
        fetch = [sys.executable, "-m", "asynctune", "fetch", str(bucket / kind), str(there)]
        subprocess.run(fetch, check=True, stdout=subprocess.DEVNULL)
        # What the bucket alone has of it.
        write_json(JOURNALS / "durable_bucket.json", describe(there))
        keep(bucket)


def run_drivers(kind: str, parent: Path) -> None:
    """Let the drivers of an experiment run, one after the other."""
    for number, _ in enumerate(DRIVERS[kind]):
        command = [sys.executable, __file__, kind, str(number), str(parent)]
        code = subprocess.run(command, check=False, stderr=subprocess.PIPE).returncode
        assert code in (0, -signal.SIGKILL), f"driver {number} of {kind} ended with {code}"


def keep(directory: Path) -> None:
    """Move a directory to the fixtures, without the empty ones in it, which git does not keep."""
    for place, _, _ in os.walk(directory, topdown=False):
        if not os.listdir(place):
            os.rmdir(place)
    directory.rename(JOURNALS / directory.name)


def other_bucket(kind: str, parent: Path) -> dict[str, str]:
    return bucket_of(parent / "whole") if kind == "durable" else {}


def describe(directory: Path) -> dict[str, Any]:
    """Say what this build finds in an experiment."""
    analysis = tune.Analysis(directory)
    return {
        "trials": {
            trial.trial_id: {
                "index": trial.index,
                "name": trial.name,
                "config": shown(trial.config),
                "initial_config": shown(trial.initial_config),
                "status": str(trial.status),
                "stop_reason": trial.stop_reason and str(trial.stop_reason),
                "num_failures": trial.num_failures,
                "checkpoint": trial.checkpoint and trial.checkpoint.iteration,
                "donors": [descent.donor for descent in trial.lineage],
                "rows": trial.results,
            }
            for trial in analysis.trials
        }
    }


def shown(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config, default=repr))


def what_lacks(kind: str, described: dict[str, Any]) -> str | None:
    """Say what the test would miss in an experiment."""
    trials = list(described["trials"].values())
    ended = [trial for trial in trials if trial["stop_reason"] in ("stop criterion", "scheduler")]
    cut_short = [trial for trial in trials if trial not in ended]
    ahead = [
        trial
        for trial in cut_short
        if trial["checkpoint"] and trial["checkpoint"] < trial["rows"][-1]["training_iteration"]
    ]
    if not ended and kind not in ("failed", "pbt", "budget", "asha_promote"):
        return "no trial has ended"
    if any(trial["rows"] and not trial["checkpoint"] for trial in cut_short):
        return "a trial with rows has no checkpoint"
    if not ahead and kind not in ("optuna", "asha_promote", "durable"):
        return "no trial was further than its checkpoint"
    if not any(trial["checkpoint"] for trial in cut_short):
        return "no trial can go on"
    if kind == "asha_promote" and sum(trial["status"] == "PAUSED" for trial in trials) < 3:
        return "hardly any trial waits"
    if kind == "pbt" and not any(trial["donors"] for trial in trials):
        return "no trial has taken over from another"
    counts = [(trial["status"], len(trial["rows"]), trial["checkpoint"]) for trial in trials]
    print(f"{kind}: {counts}")
    return None


PICKLED: dict[str, Callable[[], Any]] = {
    "resources": lambda: tune.Resources(2, 0.5, 1, 1, {"license": 3}),
    "secret": lambda: {"key": tune.Secret("env:X"), "lr": 0.1},
    # As a trainable that pickles its configuration does.
    "resolved_secret": lambda: {"key": tune.Secret(f"env:{SECRET}").resolve(), "lr": 0.1},
    "errors": lambda: [
        tune.ConfigError("a"), tune.TrialError("b", trial_id="1"), tune.TrialTimeout("c", trial_id="2"),
        tune.StorageError("d"), tune.CheckpointCorrupt("e"), tune.NotSerializable("f"),
    ],
}  # fmt: skip


def make_pickles() -> None:
    """Pickle what users may hold: each thing in a file of its own, so that each can fail alone."""
    for name, make in PICKLED.items():
        (PICKLES / f"{name}.pickle").write_bytes(pickle.dumps(make(), protocol=4))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def check_privacy(parent: Path) -> None:
    """Refuse files that tell where they were made, or that are large."""
    told = {
        os.uname().nodename,
        getpass.getuser(),
        str(parent),
        str(HERE.parents[1]),
        tune.__file__,
    }
    told = {
        word.encode() for word in told if len(word) > 3
    }  # such as "root"; shorter ones are in any file
    for place in (JOURNALS, PICKLES):
        for path in place.rglob("*"):
            if path.is_dir():
                continue
            data = path.read_bytes()
            found = [word for word in told if word in data]
            assert not found, f"{path} has {found}"
    for kind in (*KINDS, "durable_bucket"):
        size = sum(path.stat().st_size for path in (JOURNALS / kind).rglob("*") if path.is_file())
        assert size < 150_000, f"{kind} has {size} bytes"


def main() -> None:
    if len(sys.argv) == 4:
        kind, number, parent = sys.argv[1:]
        asyncio.run(DRIVERS[kind][int(number)](Path(parent)))
        return
    for place in (JOURNALS, PICKLES):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    with tempfile.TemporaryDirectory(prefix="old-journals-") as parent:
        for kind in KINDS:
            make_experiment(kind, Path(parent))
        make_pickles()
        check_privacy(Path(parent))


if __name__ == "__main__":
    socket.gethostname = lambda: HOST
    os.environ[SECRET] = "not to be shown"
    main()
