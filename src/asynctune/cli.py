"""The command ``asynctune``: what is done to an experiment when no run is going on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from asynctune import __version__
from asynctune.analysis import ExperimentAnalysis
from asynctune.errors import ExperimentCorrupt, TuneError
from asynctune.fetching import fetch_experiment
from asynctune.files import Files
from asynctune.lock import ExperimentLock
from asynctune.state import stored_state
from asynctune.storage import open_storage
from asynctune.stored import FILE_NAME, StoredJournal, repair


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Those of the command line; by default those of this process.

    Returns:
        The exit code: 0 if all is well, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="asynctune", description="Looks after experiments.")
    parser.add_argument("--version", action="version", version=f"asynctune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="show the trials of an experiment")
    mend = commands.add_parser(
        "repair",
        help="keep the good beginning of a damaged journal",
        description="Keeps what is good in front of the damage. What is cut off is kept beside the "
        "journal, as journal.cut-0 and so on.",
    )
    fetch = commands.add_parser(
        "fetch",
        help="bring an experiment from a bucket",
        description="Brings the journal, every checkpoint and the logs. Endpoint and credentials come "
        "from the usual environment variables.",
    )
    fetch.add_argument("url", help="where it is kept, with its name: s3://bucket/path/name")
    for command in (show, mend, fetch):
        command.add_argument("experiment", help="the directory of the experiment")
    given = parser.parse_args(arguments)
    directory = os.path.abspath(os.path.expanduser(given.experiment))
    try:
        if given.command == "fetch":
            return int(fetch_experiment(open_storage(given.url), directory, print) > 0)
        return _show(directory) if given.command == "show" else _repair(directory)
    except (TuneError, OSError) as exc:
        print(f"asynctune: {exc}", file=sys.stderr)
        return 1


def _show(directory: str) -> int:
    analysis = ExperimentAnalysis.from_disk(directory)
    for trial in analysis.trials:
        iteration = trial.last_result.get("training_iteration", 0)
        reason = f" ({trial.stop_reason})" if trial.stop_reason else ""
        print(f"{trial.trial_id}  {trial.status}{reason}  iter {iteration}  {trial.tag}")
    counts = ", ".join(f"{n} {status}" for status, n in analysis.stats()["by_status"].items())
    print(f"{len(analysis.trials)} trials: {counts or 'none'}")
    return 0


def _repair(directory: str) -> int:
    path = Path(directory, FILE_NAME)
    if not path.is_file():
        raise TuneError(f"{directory} is no experiment: it has no file called {FILE_NAME!r}")
    lock = ExperimentLock(directory, Files(), FILE_NAME)
    lock.acquire()
    try:
        stored = StoredJournal(path)
        cut = repair(path, stored_state(directory, stored.read_rows).apply)
        if not cut:
            print(f"{path} is whole; nothing was changed")
            return 0
        stored.replay(stored_state(directory, stored.read_rows).apply)
    except ExperimentCorrupt as exc:
        raise ExperimentCorrupt(f"nothing can be kept: {exc}") from exc
    finally:
        lock.release()
    print(f"{path}: {stored.count} records are good and stay; {cut} bytes were cut off")
    return 0
