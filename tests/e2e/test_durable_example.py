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
@pytest.mark.parametrize("in_bucket", [True, False], ids=["bucket", "directory"])
def test_it_is_killed_and_goes_on_from_the_bucket(tmp_path, s3_server, in_bucket):
    url = f"s3://bucket/{uuid.uuid4().hex}" if in_bucket else str(tmp_path / "there")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--to", url],
        cwd=tmp_path, env={**os.environ, **s3_server.environment()}, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "-- killed: the driver ended with -9" in done.stdout
    assert re.search(r"-- went on in an empty directory: \d trials from a checkpoint", done.stdout)
    assert "resumed digits: " in done.stdout
    best = re.search(r"best accuracy ([\d.]+)", done.stdout)
    assert best is not None
    assert float(best[1]) > 0.9
    options = s3_server.options() if in_bucket else None
    there = {entry.key.split("/")[1] for entry in open_storage(url, options).list("")}
    assert len(there - {"journal"}) == 6
