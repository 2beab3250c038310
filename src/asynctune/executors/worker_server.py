"""The driver's end of the worker server: starts it, asks it for workers, hears of their deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asynctune._threads import run_uninterrupted
from asynctune.errors import ConfigError, ExecutorError, WorkerDied

_BOOT = (
    "import sys, json; descriptor, driver, path, preload, vmstat = map(json.loads, sys.argv[1:]); "
    "sys.path[:] = path; from asynctune.trainable.worker.server import main; "
    "main(descriptor, driver, preload, vmstat)"
)
_END_S = 5.0
VMSTAT = "/proc/vmstat"
"""Where the kernel counts how often its out-of-memory killer struck."""


def import_path() -> list[str]:
    """Return the import path of this process, without relative parts."""
    return [os.path.abspath(entry or os.curdir) for entry in sys.path]


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended.

    Args:
        status: Its wait status, None if that is unknown.
        why: Why it was ended, if the driver ended it, or what else is known.
        oom: Whether the out-of-memory killer struck during its life, None if that is unknown.
        peak_rss: The most memory that it held at once, in bytes.
        started: Whether there was a process at all.
    """

    status: int | None = None
    why: str | None = None
    oom: bool | None = None
    peak_rss: int | None = None
    started: bool = True

    def error(self, trial_id: str | None, during: str) -> WorkerDied:
        """Return the error of a trial that it happened to.

        Args:
            trial_id: The trial, if it was one's.
            during: What it was doing.
        """
        if not self.started:
            whom = f"for trial {trial_id}" if trial_id else "at all"
            why = self.why or "for an unknown reason"
            return WorkerDied(f"no worker could be started {whom}: {why}", trial_id=trial_id)
        where = f"the worker of trial {trial_id}" if trial_id else "the worker"
        code = None if self.status is None else _exitcode(self.status)
        if code is None or (code == -9 and self.why is not None):
            text = f"{where} ended during {during}" + (f": {self.why}" if self.why else "")
            signum = 9 if code else None
            return WorkerDied(text, trial_id=trial_id, signal=signum, peak_rss=self.peak_rss)
        if code >= 0:
            text = f"{where} ended by itself with exit code {code} during {during}"
            return WorkerDied(text, trial_id=trial_id, exitcode=code, peak_rss=self.peak_rss)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "an unnamed signal"
        memory = ""
        if -code == 9:
            name += ", perhaps out of memory" if self.oom is None else ""
            struck = ": the kernel's out-of-memory killer struck meanwhile" if self.oom else ""
            memory = struck
            if self.peak_rss is not None:
                memory += f"; its peak memory was {_size(self.peak_rss)}"
        text = f"{where} was killed by signal {-code} ({name}) during {during}{memory}"
        return WorkerDied(
            text,
            trial_id=trial_id,
            signal=-code,
            oom=-code == 9 and bool(self.oom),
            peak_rss=self.peak_rss,
        )


class WorkerServer:
    """A running worker server. Create it with :meth:`start`.

    Args:
        process: The server.
        control: The socket to it.
        on_exit: Called with a worker's number and how it ended.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        on_exit: Callable[[int, Death], None],
    ) -> None:
        self._process = process
        self._control = control
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._alive: set[int] = set()
        self._orders: dict[int, str] = {}
        self._pidfds: dict[int, tuple[int, int | None]] = {}
        self.is_gone = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(control.fileno(), self._read)

    @classmethod
    async def start(
        cls,
        preload: Sequence[str],
        on_exit: Callable[[int, Death], None],
        vmstat: str = VMSTAT,
    ) -> WorkerServer:
        """Start a server.

        Args:
            preload: Modules that it imports before it forks.
            on_exit: As above.
            vmstat: The file with the kernel's counters.

        Raises:
            ConfigError: A module of ``preload`` cannot be imported.
            ExecutorError: The server ended at once.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await run_uninterrupted(_spawn, theirs, list(preload), vmstat, undo=_end)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        server = cls(process, ours, on_exit)
        try:
            await asyncio.wait([server._ready])
            server._ready.result()
        except BaseException:
            await server.close()
            raise
        return server

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are alive."""
        return [pid for pid, _ in self._pidfds.values()]

    def fork(self, number: int) -> socket.socket:
        """Ask for a worker and return our end of its channel. Its death is told to ``on_exit``."""
        ours, theirs = socket.socketpair()
        self._alive.add(number)
        order = json.dumps({"op": "fork", "worker": number}).encode() + b"\n"
        try:
            socket.send_fds(self._control, [order], [theirs.fileno()])
        except OSError:
            self._loop.call_soon(self._server_gone, "its server cannot be reached")
        finally:
            theirs.close()
        ours.setblocking(False)
        return ours

    def kill(self, number: int, why: str) -> None:
        """Ask for the death of a worker and of all in its process group."""
        if number in self._alive and not self.is_gone:
            self._orders.setdefault(number, why)
            try:
                self._control.send(json.dumps({"op": "kill", "worker": number}).encode() + b"\n")
            except OSError:  # the server does not read, or has ended
                self._kill_directly(number)

    async def close(self) -> None:
        """End the server, which ends its workers; return when it has ended."""
        self._server_gone("its pool was closed")
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # it has been raised where the server was started
        await run_uninterrupted(_wait, self._process, undo=lambda _: None)

    def _read(self) -> None:
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._server_gone("its server had ended")
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))

    def _on_message(self, message: dict[str, Any]) -> None:
        if "worker" not in message:
            if message.get("error"):
                text = f"preload: {message['error']}"
                self._ready.set_exception(ConfigError(text))
            else:
                self._ready.set_result(None)
            return
        number = message["worker"]
        if "pid" in message:
            self._pidfds[number] = (message["pid"], _pidfd(message["pid"]))
            return
        order = self._orders.get(number)
        self._forget(number)
        if "failed" in message:
            death = Death(why=message["failed"], started=False)
        else:
            why = order if message["ordered"] else None
            death = Death(message["exited"], why, message["oom"], message["peak_rss"])
        self._on_exit(number, death)

    def _forget(self, number: int) -> None:
        self._alive.discard(number)
        self._orders.pop(number, None)
        _, descriptor = self._pidfds.pop(number, (0, None))
        if descriptor is not None:
            os.close(descriptor)

    def _kill_directly(self, number: int) -> None:
        pid, descriptor = self._pidfds.get(number, (0, None))
        if descriptor is not None:
            # Through the pidfd first: it cannot hit a stranger that got the number since.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, 0)
                os.killpg(pid, signal.SIGKILL)

    def _server_gone(self, why: str) -> None:
        """The server has ended, or shall: nobody guards its workers any more."""
        if self.is_gone:
            return
        self.is_gone = True
        if not self._ready.done():
            self._ready.set_exception(
                ExecutorError("the worker server ended while it started; its errors are on stderr")
            )
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for number in list(self._alive):
            self._kill_directly(number)
            self._forget(number)
            self._on_exit(number, Death(why=why))


def _spawn(theirs: socket.socket, preload: list[str], vmstat: str) -> subprocess.Popen[bytes]:
    arguments = [theirs.fileno(), os.getpid(), import_path(), preload, vmstat]
    return subprocess.Popen(
        [sys.executable, "-c", _BOOT, *map(json.dumps, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
        cwd="/",
    )


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _exitcode(status: int) -> int:
    # os.waitstatus_to_exitcode, spelled out: the module must import where os lacks it.
    if status & 0x7F:
        return -(status & 0x7F)
    return (status >> 8) & 0xFF


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.{0 if unit == 'B' else 1}f} {unit}"
