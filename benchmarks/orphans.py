"""Count the processes that are alive 2 s after ``kill -9`` of a driver, or of a worker server.

Workers are asleep, hold the GIL, are stopped, or have children; drivers have started their pool in the main
thread or in one that has ended, and have or have not forked a child of their own, which stays alive.

``python benchmarks/orphans.py``: each of the 16 cases once. ``--count 500``: 500 drivers, the cases in
turn. ``--server``: the same for worker servers, where each trial also has to get ``WorkerDied`` and to be
retried. The script fails if any process was alive or any result wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from harness import orphans
from harness.crashes import STATES

AT_ONCE = 4


def killed_drivers(count: int) -> list[orphans.Outcome]:
    outcomes = []
    cases = list(islice(cycle(orphans.CASES), count))
    for begin in range(0, count, AT_ONCE):
        outcomes += orphans.kill_drivers(cases[begin : begin + AT_ONCE])
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=16, help="how many are killed")
    parser.add_argument("--server", action="store_true", help="kill servers instead of drivers")
    given = parser.parse_args()
    if given.server:
        outcomes = orphans.kill_servers(list(islice(cycle(STATES), given.count)))
    else:
        outcomes = killed_drivers(given.count)
    print(orphans.table(outcomes))
    for outcome in outcomes:
        if not outcome.is_clean:
            print(outcome)
    sys.exit(not all(outcome.is_clean for outcome in outcomes))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ASYNCTUNE_RESULTS_DIR"] = folder
        main()
