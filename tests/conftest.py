"""What every test is held to: it leaves nothing behind, and asynctune never blocks the event loop.

Each test is surrounded by ``nothing_leaks`` and, if it is asynchronous, by ``no_blocking_calls``.
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

# So that a failed assertion of a contract suite shows its values, as one of a test does.
pytest.register_assert_rewrite("asynctune.testing")

# How long an example takes says nothing about whether it is right.
settings.register_profile("asynctune", deadline=None)
settings.load_profile("asynctune")

# A shell that starts pytest in the background lets it ignore Ctrl-C, and every script that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look through it at each of thousands of tests."""
    gc.collect()
    gc.freeze()


GRACE_S = 5.0
"""How long a thread or child that was told to end may take to do so. Waited for, never slept."""

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
    """Whether the long form of a proof is wanted."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def results_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs of this test write, unless it says otherwise. Never the home directory."""
    path = tmp_path / "results"
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(path))
    return path


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or an open file behind.

    It looks when the other fixtures of the test are gone and its event loop is closed.
    """
    before = _Snapshot.take()
    yield
    leaks = before.leaks()
    if {"s3_server", "anonymous_server"} & set(request.fixturenames):
        # The connections of obstore's pool are closed by a thread of its own, some time later.
        leaks = [leak for leak in leaks if "socket:[" not in leak]
    if leaks:
        pytest.fail("the test leaves behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def no_task_leaks(request: pytest.FixtureRequest, nothing_leaks: None) -> None:
    """Fail an asynchronous test that leaves a task behind; ordinary tests get no event loop."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("tasks_are_done")


@pytest_asyncio.fixture
async def tasks_are_done() -> AsyncIterator[None]:
    """Look for tasks at the end of the test, before its event loop would cancel them."""
    yield
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    if leaked:
        names = "\n  ".join(map(repr, leaked))
        pytest.fail(f"the test leaves tasks behind:\n  {names}", pytrace=False)


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a blocking call by asynctune on a running event loop raise, and fail the test.

    What a test, a trainable or a callback does there itself is not watched. The watch costs time at
    each lock, so tests marked ``timing`` run without it.
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
    if caught:  # what was raised may have been caught, by a retry or where loggers are dropped
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
        """Describe what is there now and was not then, after waiting for what is ending."""
        for thread in self._new_threads():
            thread.join(GRACE_S)
        threads = self._new_threads()
        for pid in _children() - self.children:
            _wait_for_exit(pid)
        children = _children() - self.children
        files = _open_files() - self.files
        if files:  # a file that nothing refers to any more is open until the cycle is collected
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
    # anyio's threads end with their loop, which did not wait for them to do so.
    if thread.name.startswith("AnyIO worker thread"):
        return False
    return not thread.daemon or thread.name.startswith("asynctune")


def _children() -> set[int]:
    """The direct children of this process, those that nobody reaped included."""
    own = str(os.getpid()).encode()
    found = set()
    for entry in _listed("/proc"):
        if entry.isdigit():
            # It may end while we look. The second word behind the name in brackets is the parent.
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
    # Only Linux has these directories; elsewhere threads and tasks are all that is looked after.
    return os.listdir(directory) if sys.platform == "linux" else []


# What blocks the event loop


def _watched_functions() -> dict[str, BlockBusterFunction]:
    """Name what blocks: blockbuster's own list, and what a journal and a worker pool might call."""
    functions = BlockBuster(asynctune).functions
    for name in ("os.getcwd", "os.path.abspath"):  # these look at no disk
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
        function.can_block_in("logging/__init__.py", "callHandlers")  # as asyncio itself logs
        # How asyncio itself starts a process; it offers no other way.
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
        # A synchronous face that the test itself chose to call on its loop.
        if frame.f_code.co_qualname.startswith(_SYNCHRONOUS):
            return True
        caught.append(
            f"{name} in {frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_qualname}"
        )
        return False

    return may_block


def _nearest_of_asynctune(function: BlockBusterFunction) -> FrameType | None:
    """Find the frame of asynctune that asked for the call, libraries between them or not.

    None if code of a test is nearer, or if the call comes from where it may block.
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
    from object_server import object_server  # not there where this file is copied to

    with object_server(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def anonymous_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """The same without signatures, which is also enough of GS for obstore's client."""
    from object_server import object_server

    with object_server(tmp_path_factory.mktemp("anonymous"), signed=False) as server:
        yield server
