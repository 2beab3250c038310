"""The guards of every test: a test leaves nothing behind, and asynctune never blocks the event loop.

``nothing_leaks`` surrounds each test, and ``no_blocking_calls`` each asynchronous one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import select
import signal
import sys
import sysconfig
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from blockbuster import BlockBuster, BlockBusterFunction
from hypothesis import settings

import asynctune

if TYPE_CHECKING:
    from object_server import ObjectServer

# A failed assertion of a contract suite then shows its values, like one of a test.
pytest.register_assert_rewrite("asynctune.testing")

# The duration of an example does not matter for its correctness.
settings.register_profile("asynctune", deadline=None)
settings.load_profile("asynctune")

# A shell that starts pytest in the background makes pytest, and every script that pytest starts, ignore
# Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection, which would visit them in each test."""
    gc.collect()
    gc.freeze()


GRACE_S = 5.0
"""The seconds that a thread or child may take to end. A test waits for the end and never sleeps."""

_PACKAGE = str(Path(asynctune.__file__).parent) + os.sep
_TESTING = _PACKAGE + "testing" + os.sep
_FILES = _PACKAGE + "storage/filesystem.py"
_SYNCHRONOUS = ("ExperimentAnalysis.", "JournalReader.", "_exists")
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of each proof: hours")


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the user asked for the long form of the reliability tests."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def results_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for the results of this test, instead of one in the home directory."""
    path = tmp_path / "results"
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(path))
    return path


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or an open file behind.

    The check follows the end of the other fixtures and of the event loop.
    """
    before = _Snapshot.take()
    yield
    leaks = before.leaks()
    if {"s3_server", "anonymous_server"} & set(request.fixturenames):
        # A thread of obstore closes the connections of its pool, some time later.
        leaks = [leak for leak in leaks if "socket:[" not in leak]
    if leaks:
        pytest.fail("the test leaves behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def no_task_leaks(request: pytest.FixtureRequest, nothing_leaks: None) -> None:
    """Fail an asynchronous test that leaves a task behind; other tests get no event loop."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("tasks_are_done")


@pytest_asyncio.fixture
async def tasks_are_done() -> AsyncIterator[None]:
    """Fail if tasks are pending at the end of the test, before the event loop cancels them."""
    yield
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    if leaked:
        names = "\n  ".join(map(repr, leaked))
        pytest.fail(f"the test leaves tasks behind:\n  {names}", pytrace=False)


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make a blocking call by asynctune on a running event loop raise, and fail the test.

    Calls by a test, a trainable or a callback itself are allowed. The watch costs time at each lock, so
    tests marked ``timing`` run without the watch.
    """
    node = request.node
    if not node.get_closest_marker("asyncio") or node.get_closest_marker("timing"):
        yield
        return
    caught: list[str] = []
    functions = _watched_functions()
    for name, function in functions.items():
        function.can_block_predicate = _only_by_others(name, function, caught)
    with contextlib.ExitStack() as stack:
        for function in functions.values():
            function.activate()
            stack.callback(function.deactivate)
        yield
    if caught:  # asynctune may have caught the error, in a retry or with a dropped logger
        pytest.fail("blocks the event loop:\n  " + "\n  ".join(caught), pytrace=False)


# What a test leaves behind


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The threads, children and open files of this process at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    files: frozenset[tuple[int, str]]

    @classmethod
    def take(cls) -> _Snapshot:
        return cls(
            threads=frozenset(threading.enumerate()),
            children=frozenset(_children()),
            files=frozenset(_open_files()),
        )

    def leaks(self) -> list[str]:
        """Describe what has been left since a snapshot, after a wait for what is ending."""
        for thread in self._new_threads():
            thread.join(GRACE_S)
        threads = self._new_threads()
        for pid in _children() - self.children:
            _wait_for_exit(pid)
        children = _children() - self.children
        files = _open_files() - self.files
        if files:  # a file in a cycle of garbage stays open until the garbage is collected
            gc.collect()
            files = _open_files() - self.files
        return [
            *(f"thread {thread.name!r}" for thread in threads),
            *(f"process {pid}: {_command(pid)}" for pid in sorted(children)),
            *(f"file descriptor {number}: {target}" for number, target in sorted(files)),
        ]

    def _new_threads(self) -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in self.threads and _counts(t)]


def _counts(thread: threading.Thread) -> bool:
    # The threads of anyio end with their loop, which does not wait for their ends.
    if thread.name.startswith("AnyIO worker thread"):
        return False
    return not thread.daemon or thread.name.startswith("asynctune")


def _children() -> set[int]:
    """Return the direct children of this process, zombies included."""
    own = str(os.getpid()).encode()
    found = set()
    for entry in _listed("/proc"):
        if entry.isdigit():
            # The process may end meanwhile. The second word behind the name in brackets is the parent.
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stat:
                if stat.read().rpartition(b")")[2].split(None, 2)[1] == own:
                    found.add(int(entry))
    return found


def _wait_for_exit(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        watched = os.pidfd_open(pid)
        try:
            select.select([watched], [], [], GRACE_S)
        finally:
            os.close(watched)


def _command(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return "it ended just now"
    return text.replace("\0", " ").strip() or "a zombie"


def _open_files() -> set[tuple[int, str]]:
    found = set()
    for entry in _listed("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the directory itself, open while it was listed
            found.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
    return found


def _listed(directory: str) -> list[str]:
    # Only Linux has these directories; elsewhere the guards watch threads and tasks alone.
    return os.listdir(directory) if sys.platform == "linux" else []


# What blocks the event loop


def _watched_functions() -> dict[str, BlockBusterFunction]:
    """Return the blocking functions: those of blockbuster, and more that asynctune might call."""
    functions = BlockBuster(asynctune).functions
    for name in ("os.getcwd", "os.path.abspath"):  # these functions read no disk
        del functions[name]
    for name in ("builtins.open", "io.open", "os.open", "os.fsync", "os.fdatasync"):
        functions[name] = BlockBusterFunction(None, name, scanned_modules=asynctune)
    for name, argument, at_once in (
        ("os.waitpid", 1, os.WNOHANG),
        ("os.waitid", 2, os.WNOHANG),
        ("fcntl.flock", 1, fcntl.LOCK_NB),
    ):
        functions[name] = BlockBusterFunction(
            None,
            name,
            scanned_modules=asynctune,
            can_block_predicate=lambda *args, argument=argument, at_once=at_once: bool(
                args[argument] & at_once
            ),
        )
    for function in functions.values():
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
        function.can_block_in("linecache.py", "updatecache")  # for the text of a traceback
        function.can_block_in("logging/__init__.py", "callHandlers")  # asyncio logs on the loop
        # asyncio itself starts a process in this way, and offers no other.
        function.can_block_in("asyncio/base_events.py", {"subprocess_exec", "subprocess_shell"})
    return functions


def _only_by_others(
    name: str, function: BlockBusterFunction, caught: list[str]
) -> Callable[..., bool]:
    harmless = function.can_block_predicate

    def may_block(*args: Any, **kwargs: Any) -> bool:
        if harmless(*args, **kwargs):
            return True
        frame = _nearest_of_asynctune(function)
        if frame is None:
            return True
        # The journal hands each batch to the page cache, in microseconds: the one exception.
        if frame.f_code.co_filename == _FILES and name == "os.write":
            return True
        # The contract suites are tests, which may block their own loop.
        if frame.f_code.co_filename.startswith(_TESTING):
            return True
        # Synchronous methods that a test itself chose to call on its loop.
        if frame.f_code.co_qualname.startswith(_SYNCHRONOUS):
            return True
        caught.append(
            f"{name} in {frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_qualname}"
        )
        return False

    return may_block


def _nearest_of_asynctune(function: BlockBusterFunction) -> FrameType | None:
    """Return the frame of asynctune that made a call, directly or through libraries.

    Return None if code of a test is nearer, or if the frame may block.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        for allowed, names in function.can_block_functions:
            if path.endswith(allowed) and frame.f_code.co_name in names:
                return None
        if frame.f_code.co_name == "<module>":  # an import, which happens once
            return None
        if path.startswith(_PACKAGE):
            return frame
        if not path.startswith(("<", *_LIBRARIES)):
            return None
        frame = frame.f_back
    return None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A real S3 server on loopback, with the bucket ``bucket``."""
    from object_server import object_server  # missing beside a copy of this file

    with object_server(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def anonymous_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """The same server without signatures, which serves the GS client of obstore, too."""
    from object_server import object_server

    with object_server(tmp_path_factory.mktemp("anonymous"), signed=False) as server:
        yield server
