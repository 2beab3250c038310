"""The same kills of the driver, for asynctune, Ray Tune and Optuna, each in its default configuration.

``python benchmarks/kill_matrix.py --setup`` makes the environment of the other systems, once; then
``python benchmarks/kill_matrix.py`` prints the table, or without that environment asynctune's part
of it. The drivers and their work are in ``benchmarks/kills/``. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kills import peers, tree
from kills.count import Counts, counts
from kills.schedule import Regime, System, go_through
from kills.table import kill_table, notes, tail_table
from kills.work import Tails, Work

REGIMES = (
    Regime("harsh", Work(4, 20, 0.15), kills=8, after=(0, 1.2), finish_s=120),
    Regime("mild", Work(4, 40, 1.0), kills=4, after=(10, 25), finish_s=240),
)
QUICK = (
    Regime("harsh, short", Work(4, 20, 0.15), kills=4, after=(0, 1.2), finish_s=60),
    Regime("mild, short", Work(4, 10, 1.0), kills=1, after=(4, 8), finish_s=60),
)


def systems(peer_python: str) -> list[System]:
    optuna = peers.PINS["optuna"]
    return [
        System("asynctune", version("asynctune"), sys.executable, "ours.py"),
        System("Ray Tune", peers.PINS["ray[tune]"], peer_python, "ray_tune.py"),
        System("Optuna, journal", optuna, peer_python, "optuna_study.py", ("journal",)),
        System("Optuna, SQLite", optuna, peer_python, "optuna_study.py", ("sqlite",)),
    ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(system: System, regime: Regime, seeds: int, base: Path) -> Counts:
    total: Counts | None = None
    for seed in range(seeds):
        words = (system.script.partition(".")[0], *system.storage, regime.name, str(seed))
        folder = base / "-".join(words).replace(", ", "-")
        say(f"{system.name} {system.version}, {regime.name}, seed {seed} ...")
        one = counts(folder, regime, go_through(system, regime, seed, folder))
        say(f"  {one.kills} kills in {one.seconds:.0f} s")
        total = one if total is None else total + one
    assert total is not None
    return total


def cut_tails(system: System, base: Path) -> Tails:
    folder = base / f"tails-{system.script.partition('.')[0]}"
    (folder / "storage").mkdir(parents=True)
    say(f"{system.name} {system.version}, torn tails of its journal ...")
    ran = subprocess.run(
        system.command("tails", folder), capture_output=True, text=True, check=False
    )
    if ran.returncode:
        say(ran.stderr)
        return Tails(errors={(ran.stderr.strip().splitlines() or ["no message"])[-1]: 1})
    return Tails(**json.loads(ran.stdout.splitlines()[-1]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--setup", action="store_true", help="make the peers' environment, and end")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(__file__).parent / ".peers",
        metavar="DIR",
        help="the environment of the other systems (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=("asynctune", "ray", "optuna"),
        help="this system only; may be given again",
    )
    parser.add_argument("--regime", choices=("harsh", "mild"), help="this regime only")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each regime (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a short form of both regimes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave experiments and output there"
    )
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds must be an int of at least 1, got {given.seeds}")
    return given


def chosen(given: argparse.Namespace) -> list[System]:
    known = systems(str(peers.python_of(given.peers.absolute())))
    wanted = given.only or ["asynctune", "ray", "optuna"]
    complaint = peers.complaint(given.peers) if wanted != ["asynctune"] else None
    if complaint and given.only:
        raise SystemExit(complaint)
    if complaint:
        say(f"asynctune only: {complaint}")
        wanted = ["asynctune"]
    return [system for system in known if system.name.split()[0].strip(",").lower() in wanted]


def run(given: argparse.Namespace, base: Path) -> int:
    os.environ["TMPDIR"] = str(base / "t")  # a killed driver leaves its temporary files
    (base / "t").mkdir(parents=True)
    tree.adopt_orphans()
    mine = chosen(given)
    rows: list[tuple[str, System, Counts]] = []
    for regime in QUICK if given.quick else REGIMES:
        if given.regime and not regime.name.startswith(given.regime):
            continue
        rows += [
            (regime.name, system, measure(system, regime, given.seeds, base)) for system in mine
        ]
    tails = [
        (system, cut_tails(system, base))
        for system in mine
        if system.name in ("asynctune", "Optuna, journal")
    ]
    print(kill_table(rows))
    print()
    print(tail_table(tails))
    print()
    print(notes(rows))
    if given.json:
        given.json.write_text(json.dumps(as_json(rows, tails), indent=1) + "\n")
    ours = [row for _, system, row in rows if system.name == "asynctune"]
    ours_tails = [row for system, row in tails if system.name == "asynctune"]
    clean = all(row.clean for row in ours) and all(row.clean for row in ours_tails)
    return 0 if clean else 1


def as_json(
    rows: list[tuple[str, System, Counts]], tails: list[tuple[System, Tails]]
) -> dict[str, Any]:
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "kills": [
            {"regime": regime, "system": system.name, "version": system.version, **asdict(row)}
            for regime, system, row in rows
        ],
        "tails": [
            {"system": system.name, "version": system.version, **asdict(row)}
            for system, row in tails
        ],
    }


def main() -> int:
    given = arguments()
    if given.setup:
        peers.set_up(given.peers)
        return 0
    if given.keep:
        given.keep.mkdir(parents=True)
        return run(given, given.keep.absolute())
    # Not the default folder for temporary files: Ray's sockets allow 107 characters of path.
    with tempfile.TemporaryDirectory(prefix="kills-", dir="/tmp") as base:
        return run(given, Path(base))


if __name__ == "__main__":
    sys.exit(main())
