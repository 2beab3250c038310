"""The rules of the house hold, and the guards of conftest.py fail the tests that they have to fail."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import asynctune

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "asynctune"
CONFTEST = ROOT / "tests" / "conftest.py"
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)
README = (ROOT / "README.md").read_text()


# What the files say of each other


def test_the_changelog_begins_with_the_version_of_the_project_or_with_what_is_unreleased():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = PROJECT["project"]["version"]
    assert headings[0] in ("Unreleased", version)
    assert [name for name in headings if name != "Unreleased"][:1] in ([], [version])


def test_the_package_knows_the_version_of_the_project():
    assert asynctune.__version__ == PROJECT["project"]["version"]


def test_the_core_needs_three_packages():
    names = [re.split(r"[<>=]", need)[0] for need in PROJECT["project"]["dependencies"]]
    assert sorted(names) == ["aiofiles", "anyio", "cloudpickle"]


def test_every_rule_that_ruff_ignores_has_its_reason_beside_it():
    lint = PROJECT["tool"]["ruff"]["lint"]
    ignored = [
        *lint["ignore"],
        *(code for codes in lint["per-file-ignores"].values() for code in codes),
    ]
    explained = re.findall(r'^    "([A-Z]+\d*)", *# \S.*$', PYPROJECT, re.MULTILINE)
    assert sorted(explained) == sorted(ignored)


# The layout of the package


PACKAGES = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
MODULES = sorted(path.stem for path in SOURCE.glob("*.py"))
TO_EVERY_PACKAGE = {"_checks", "_threads", "_version"}


def imports_of(path):
    """Every name that a module imports from asynctune, as ``package.module.name``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asynctune":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "asynctune")


def test_the_top_of_the_package_has_few_entries():
    assert len(PACKAGES) <= 13
    assert len(MODULES) <= 12
    assert {name for name in MODULES if name.startswith("_") and name[1] != "_"} == TO_EVERY_PACKAGE


def test_the_import_contracts_name_every_package_in_few_layers():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c.get("containers") == ["asynctune"])
    assert len(layers) <= 12
    named = {name for layer in layers for name in layer.split(" : ")}
    assert named == {*PACKAGES, *MODULES} - {"__init__"}


def test_no_package_imports_what_is_private_to_another():
    private = []
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0]
        for name in imports_of(path):
            parts = name.split(".")[1:]
            if {*parts[:1]} <= {own, *TO_EVERY_PACKAGE}:
                continue
            if any(part.startswith("_") for part in parts):
                private.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert private == []


PROSE = [
    *SOURCE.rglob("*.py"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


def test_the_prose_is_plain():
    text = "\n".join(path.read_text() for path in PROSE)
    assert re.findall(r"\b(?:is|are) wanted\b", text) == []
    assert len(re.findall(r"\b(?:nobody|whoever|somebody)\b", text, re.IGNORECASE)) <= 5


def test_the_readme_begins_with_commands_that_the_makefile_has():
    commands = re.findall(r"^make (\w+)", README, re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    assert set(commands) <= set(targets)


def test_a_change_is_checked_with_the_command_that_the_readme_gives():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "\nmake test\n" in script.read_text()


def test_the_license_is_the_whole_apache_license():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")


# What surrounds every test


SUITE = '''
import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiofiles
import anyio.to_thread
import pytest

import asynctune

end = threading.Event()
kept = []  # or the garbage collector would mend what the tests break


@pytest.fixture(scope="session", autouse=True)
def end_the_threads():
    yield
    end.set()


def inside(module, function, *args):
    """Call the function as if that module of asynctune did."""
    path = Path(asynctune.__file__).parent / module
    scope = {}
    exec(compile("def call(function, *args): return function(*args)", path, "exec"), scope)
    return scope["call"](function, *args)


def child():
    code = "import sys; sys.stdin.read()"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


@pytest.mark.asyncio
async def test_leaves_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))


def test_leaves_a_thread():
    threading.Thread(target=end.wait, name="some thread").start()


def test_leaves_a_daemon_thread_of_asynctune():
    threading.Thread(target=end.wait, name="asynctune-1", daemon=True).start()


@pytest.mark.asyncio
async def test_leaves_a_thread_from_a_coroutine():
    threading.Thread(target=end.wait, name="some thread").start()


def test_leaves_a_process():
    kept.append(child())


def test_leaves_a_zombie():
    kept.append(child())
    kept[-1].stdin.close()


def test_leaves_a_file():
    kept.append(open(__file__))


@pytest.mark.asyncio
async def test_leaves_a_socket():
    kept.append(socket.socket())


@pytest.mark.asyncio
async def test_blocks_the_loop_in_asynctune():
    inside("runner/runner.py", time.sleep, 0)


@pytest.mark.asyncio
async def test_blocks_the_loop_where_the_error_is_caught():
    try:
        inside("runner/runner.py", time.sleep, 0)
    except Exception:
        pass


@pytest.mark.asyncio
async def test_blocks_the_loop_through_a_library():
    inside("callbacks/logger_writer.py", Path(__file__).read_text)


@pytest.mark.asyncio
async def test_syncs_a_file_in_the_journal():
    with open(os.devnull, "w") as file:
        inside("experiment/journal.py", os.fsync, file.fileno())


@pytest.mark.asyncio
async def test_writes_on_the_loop_outside_the_journal(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        inside("runner/runner.py", os.write, file.fileno(), b"row")


@pytest.mark.asyncio
async def test_passes_with_a_task_that_ended():
    await asyncio.create_task(asyncio.sleep(0))


@pytest.mark.asyncio
async def test_passes_with_the_threads_of_anyio_and_asyncio():
    await anyio.to_thread.run_sync(int)
    await asyncio.to_thread(int)
    async with aiofiles.open(__file__) as file:
        kept.append(await file.read())


@pytest.mark.asyncio
async def test_passes_with_a_process_that_ended():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await process.wait()


@pytest.mark.asyncio
async def test_passes_with_a_process_that_asynctune_starts():
    start = anyio.open_process
    async with await inside("runner/runner.py", start, [sys.executable, "-c", ""]) as process:
        await process.wait()


def test_passes_with_a_thread_that_is_about_to_end():
    soon = threading.Event()
    threading.Thread(target=soon.wait).start()
    soon.set()


def test_passes_with_a_process_that_was_waited_for():
    with child() as process:
        process.communicate()


def test_passes_with_a_file_in_a_cycle_of_garbage():
    cycle = [os.memfd_create("file")]
    cycle.append(cycle)
    os.close(cycle[0])


@pytest.mark.asyncio
async def test_passes_with_a_batch_that_the_journal_writes(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        inside("storage/filesystem.py", os.write, file.fileno(), b"row")


@pytest.mark.asyncio
async def test_passes_with_code_of_the_test_that_blocks_under_asynctune():
    inside("runner/runner.py", lambda: time.sleep(0))


@pytest.mark.asyncio
async def test_passes_with_a_module_that_asynctune_imports():
    inside("runner/runner.py", __import__, "this_is_imported_late")


@pytest.mark.asyncio
async def test_passes_with_asynctune_in_a_thread():
    await asyncio.to_thread(inside, "runner/runner.py", time.sleep, 0)


@pytest.mark.asyncio
@pytest.mark.timing
async def test_passes_with_what_is_timed():
    inside("runner/runner.py", time.sleep, 0)
'''

SAID_OF = {
    "leaves_a_task": r"leaves tasks behind:\s+<Task pending",
    "leaves_a_thread": r"thread 'some thread'",
    "leaves_a_thread_from_a_coroutine": r"thread 'some thread'",
    "leaves_a_daemon_thread_of_asynctune": r"thread 'asynctune-1'",
    "leaves_a_process": r"process \d+: .*sys\.stdin\.read",
    "leaves_a_zombie": r"process \d+: a zombie",
    "leaves_a_file": r"file descriptor \d+: .*test_suite\.py",
    "leaves_a_socket": r"file descriptor \d+: socket",
    "blocks_the_loop_in_asynctune": r"time\.sleep",
    "blocks_the_loop_where_the_error_is_caught": r"time\.sleep in .*runner\.py:1, call",
    "blocks_the_loop_through_a_library": r"io\.open in .*logger_writer\.py:1, call",
    "syncs_a_file_in_the_journal": r"os\.fsync in .*journal\.py:1, call",
    "writes_on_the_loop_outside_the_journal": r"os\.write in .*runner\.py:1, call",
}
CLEAN = [
    name
    for name in re.findall(r"^(?:async )?def test_(\w+)", SUITE, re.MULTILINE)
    if name not in SAID_OF
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What pytest says of each test of SUITE, run beside our conftest.py: "" if it passed."""
    where = tmp_path_factory.mktemp("suite")
    # These threads and processes stay for good, there is nothing to wait for.
    conftest = CONFTEST.read_text().replace("GRACE_S = 2.0", "GRACE_S = 0.1")
    (where / "conftest.py").write_text(conftest)
    (where / "test_suite.py").write_text(SUITE)
    (where / "this_is_imported_late.py").write_text("")
    (where / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = strict\nfilterwarnings = error\nmarkers = timing\n"
        "asyncio_default_fixture_loop_scope = function\n"
    )
    path = os.pathsep.join(filter(None, [str(SOURCE.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    subprocess.run(
        command, cwd=where, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False
    )
    said: dict[str, str] = {}
    for case in ET.parse(where / "report.xml").iter("testcase"):
        name = case.attrib["name"].removeprefix("test_")
        said[name] = said.get(name, "") + "".join(problem.text or "" for problem in case)
    return said


@pytest.mark.parametrize("name", SAID_OF)
def test_a_test_fails_that_leaves_something_behind_or_blocks_the_loop(outcomes, name):
    assert re.search(SAID_OF[name], outcomes[name])


@pytest.mark.parametrize("name", CLEAN)
def test_a_test_passes_that_cleans_up_and_does_not_block_the_loop(outcomes, name):
    assert outcomes[name] == ""
