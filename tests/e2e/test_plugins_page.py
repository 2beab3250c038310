"""The examples of docs/plugins.md pass the suites that the page names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_example_of_the_page_passes(tmp_path):
    assert len(FILES) == PAGE.count("```python") == 7
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-W", "error"]
    options = ["-o", "asyncio_default_fixture_loop_scope=function"]
    shown = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout
    for name in FILES.keys() - {"conftest.py"}:
        assert re.search(rf"^{name}::.* PASSED", shown.stdout, re.MULTILINE), name
