"""The entry point of the command ``asynctune``."""

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
        arguments: The arguments of the command line; by default those of this process.

    Returns:
        The exit code: 0 for success, 1 for an error.
    """
    parser = argparse.ArgumentParser(
        prog="asynctune", description="Inspects, repairs and downloads experiments."
    )
    parser.add_argument("--version", action="version", version=f"asynctune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    show_parser = commands.add_parser("show", help="show the trials of an experiment")
    repair_parser = commands.add_parser(
        "repair",
        help="keep the good beginning of a damaged journal",
        description="Keeps the records before the damage. The rest of the journal moves to a file "
        "beside it, named journal.cut-0 and so on.",
    )
    fetch_parser = commands.add_parser(
        "fetch",
        help="download an experiment from a bucket",
        description="Downloads the journal, every checkpoint and the logs. Endpoint and credentials "
        "come from the usual environment variables.",
    )
    fetch_parser.add_argument(
        "url", help="the URL of the experiment, with its name: s3://bucket/path/name"
    )
    for command in (show_parser, repair_parser, fetch_parser):
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
