"""The command ``asynctune``: what is done to an experiment when no run is going on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from asynctune._version import __version__
from asynctune.cli.repair import repair
from asynctune.cli.show import show
from asynctune.errors import TuneError
from asynctune.experiment.remote.fetch import fetch_experiment
from asynctune.storage import open_storage


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
    look = commands.add_parser("show", help="show the trials of an experiment")
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
    for command in (look, mend, fetch):
        command.add_argument("experiment", help="the directory of the experiment")
    given = parser.parse_args(arguments)
    directory = os.path.abspath(os.path.expanduser(given.experiment))
    try:
        if given.command == "fetch":
            return int(fetch_experiment(open_storage(given.url), directory, print) > 0)
        return show(directory) if given.command == "show" else repair(directory)
    except (TuneError, OSError) as exc:
        print(f"asynctune: {exc}", file=sys.stderr)
        return 1
