"""Drivers that are killed by a real SIGKILL at a byte of their journal.

A small process without threads imports the experiment once and forks a driver for each kill::

    with Drivers("my_module:main") as drivers:
        drivers.run("/tmp/experiment", kill_at=1234)   # dies when the journal has 1,234 bytes
        drivers.run("/tmp/experiment")                 # goes on, to the end

``main(directory)`` is an ``async def`` that runs, or resumes, the experiment in a directory.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from asynctune.experiment.reader import FILE_NAME
from asynctune.storage import filesystem as _files
from asynctune.storage.filesystem import AnyPath, FileSystem


class KillAtByte(FileSystem):
    """Kills this process in the middle of the write that brings the journal to a size.

    Args:
        at: The size in bytes; the bytes up to this size are written.
    """

    __slots__ = ("_at", "_journal")

    def __init__(self, at: int) -> None:
        self._at = at
        self._journal = -1

    def open(self, path: AnyPath, flags: int, mode: int = 0o600) -> int:
        descriptor = super().open(path, flags, mode)
        if os.path.basename(path) == FILE_NAME and flags & os.O_APPEND:
            self._journal = descriptor
        return descriptor

    def write(self, descriptor: int, data: bytes) -> int:
        if descriptor == self._journal:
            room = self._at - os.fstat(descriptor).st_size
            if room < len(data):
                super().write(descriptor, data[: max(0, room)])
                os.kill(os.getpid(), signal.SIGKILL)
        return super().write(descriptor, data)


class Drivers:
    """Runs an experiment in processes of its own, as often as :meth:`run` is called.

    Args:
        target: ``"module:function"``; the function receives the directory.
        path: Directories of the module, beside the import path of this process.
        stderr: The file object or descriptor for errors of the drivers; by default they are discarded.
    """

    def __init__(self, target: str, path: Sequence[str] = (), stderr: int | None = None) -> None:
        given = json.dumps([*path, *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.kills", target, given],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if stderr is None else stderr,
            text=True,
        )

    def run(self, directory: AnyPath, kill_at: int | None = None) -> int:
        """Run a driver to its end.

        Args:
            directory: The argument of the function.
            kill_at: The size of the journal at which the driver is killed; None for no kill.

        Returns:
            The exit code of the driver as of :func:`os.waitstatus_to_exitcode`; -9 after a kill.

        Raises:
            EOFError: The process that forks drivers has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([os.fspath(directory), kill_at]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise EOFError(f"no driver could be started: {self._process.wait()}")
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


def _serve(target: str, path: list[str]) -> None:
    sys.path[:] = path
    module, _, function = target.partition(":")
    main = getattr(importlib.import_module(module), function)
    importlib.import_module("asynctune.runner.api")
    for line in sys.stdin:
        directory, kill_at = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(0)
                os.dup2(2, 1)
                if kill_at is not None:
                    _files.current.set(KillAtByte(kill_at))
                asyncio.run(main(directory))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
