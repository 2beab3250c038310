"""The other systems, in a virtual environment of their own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PINS = {"ray[tune]": "2.60.0", "optuna": "5.0.0"}


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def set_up(folder: Path) -> None:
    """Create the environment, or install the pinned versions in it."""
    if not python_of(folder).exists():
        venv.create(folder, with_pip=True)
    wanted = [f"{name}=={version}" for name, version in PINS.items()]
    print(f"installing {' and '.join(wanted)} into {folder}", file=sys.stderr)
    subprocess.run([python_of(folder), "-m", "pip", "install", "--quiet", *wanted], check=True)


def complaint(folder: Path) -> str | None:
    """Return the reason why the environment cannot be used, or None."""
    if not python_of(folder).exists():
        return f"{folder} has no Python; make it with --setup"
    names = [name.partition("[")[0] for name in PINS]
    script = (
        "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    )
    asked = subprocess.run(
        [python_of(folder), "-c", script, *names], capture_output=True, text=True, check=False
    )
    if asked.stdout.split() != list(PINS.values()):
        return f"{folder} does not have {PINS}; bring it there with --setup"
    return None
