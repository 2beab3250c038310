"""The example of checkpoints in a bucket, run as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from asynctune.storage import open_storage

EXAMPLE = Path(__file__).parents[2] / "examples" / "durable.py"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_is_killed_and_goes_on_from_the_bucket(tmp_path, s3_server):
    url = f"s3://bucket/{uuid.uuid4().hex}"
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--to", url],
        cwd=tmp_path, env={**os.environ, **s3_server.environment()}, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "-- killed: the driver ended with -9" in done.stdout
    assert re.search(
        r"-- continued in an empty directory: \d trials from a checkpoint", done.stdout
    )
    assert "resumed digits: " in done.stdout
    best = re.search(r"best accuracy ([\d.]+)", done.stdout)
    assert best is not None
    assert float(best[1]) > 0.9
    listed = open_storage(url, s3_server.options()).list("")
    there = {entry.key.split("/")[1] for entry in listed}
    assert len(there - {"journal"}) == 6
