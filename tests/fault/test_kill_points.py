"""``kill -9`` of the driver at points spread over the bytes of its journal: none of it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_experiment import NAME, ledger_of, rows_of

from harness.killpoints import Experiment, kill_points

EXPERIMENT = Experiment("kill_experiment:main", NAME, ledger_of, rows_of)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_kill_of_the_driver_loses_doubles_or_changes_a_row(tmp_path, is_long):
    count = 2_000 if is_long else 200
    total = kill_points(EXPERIMENT, tmp_path, count, [str(Path(__file__).parent)])
    assert total.is_clean, total
    assert total.kills == count
    assert total.tails > count // 4, "most kills come in the middle of a record"
    assert total.shown > 32
