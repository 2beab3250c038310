"""The driver's end of the worker server: starts the server, requests workers, and receives their deaths."""

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
"""The file with the kernel's count of out-of-memory kills."""


def import_path() -> list[str]:
    """Return the import path of this process, without relative parts."""
    return [os.path.abspath(entry or os.curdir) for entry in sys.path]


@dataclass(frozen=True, slots=True)
class Death:
    """The cause of a worker's death.

    Args:
        status: The wait status of the process; None if unknown.
        why: The reason why the driver killed the worker, or another reason that is known.
        oom: Whether the out-of-memory killer struck during the worker's life; None if unknown.
        peak_rss: The peak memory of the worker in bytes; None if unknown.
        started: Whether the process was started at all.
    """

    status: int | None = None
    why: str | None = None
    oom: bool | None = None
    peak_rss: int | None = None
    started: bool = True

    def error(self, trial_id: str | None, during: str) -> WorkerDied:
        """Return the error for the trial of the worker.

        Args:
            trial_id: The id of the trial; None outside a run.
            during: The call that was in progress, as ``"train()"``.
        """
        if not self.started:
            purpose = f" for trial {trial_id}" if trial_id else ""
            why = self.why or "unknown reason"
            return WorkerDied(f"no worker could be started{purpose}: {why}", trial_id=trial_id)
        worker = f"the worker of trial {trial_id}" if trial_id else "the worker"
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        if code is None or (code == -9 and self.why is not None):
            text = f"{worker} ended during {during}" + (f": {self.why}" if self.why else "")
            signum = 9 if code else None
            return WorkerDied(text, trial_id=trial_id, signal=signum, peak_rss=self.peak_rss)
        if code >= 0:
            text = f"{worker} ended by itself with exit code {code} during {during}"
            return WorkerDied(text, trial_id=trial_id, exitcode=code, peak_rss=self.peak_rss)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "an unnamed signal"
        memory = ""
        if -code == 9:
            name += ", perhaps out of memory" if self.oom is None else ""
            memory = ": the kernel's out-of-memory killer struck meanwhile" if self.oom else ""
            if self.peak_rss is not None:
                memory += f"; its peak memory was {_size(self.peak_rss)}"
        text = f"{worker} was killed by signal {-code} ({name}) during {during}{memory}"
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
        process: The process of the server.
        control: The socket to the server.
        on_exit: A function that is called with a worker's number and its death.
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
        self._kill_reasons: dict[int, str] = {}
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
            preload: The names of modules that the server imports before it forks.
            on_exit: A function that is called with a worker's number and its death.
            vmstat: The file with the kernel's count of out-of-memory kills.

        Raises:
            ConfigError: A module of ``preload`` cannot be imported.
            ExecutorError: The server ended while it started.
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
        """Request a worker and return the driver's end of its channel.

        Args:
            number: The number of the worker, under which ``on_exit`` gets its death.
        """
        ours, theirs = socket.socketpair()
        self._alive.add(number)
        message = json.dumps({"op": "fork", "worker": number}).encode() + b"\n"
        try:
            socket.send_fds(self._control, [message], [theirs.fileno()])
        except OSError:
            # Later, so that on_exit does not run inside the caller's call of fork().
            self._loop.call_soon(self._on_server_end, "its server cannot be reached")
        finally:
            theirs.close()
        ours.setblocking(False)
        return ours

    def kill(self, number: int, why: str) -> None:
        """Request the kill of a worker's process group.

        Args:
            number: The number of the worker.
            why: The reason, which becomes part of the error.
        """
        if number in self._alive and not self.is_gone:
            self._kill_reasons.setdefault(number, why)
            try:
                self._control.send(json.dumps({"op": "kill", "worker": number}).encode() + b"\n")
            except OSError:  # the server hangs or has ended
                self._kill_directly(number)

    async def close(self) -> None:
        """End the server, which kills its workers, and wait for the end of the server."""
        self._on_server_end("its pool was closed")
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # start() has raised it; without this asyncio would log it, too
        await run_uninterrupted(_wait, self._process, undo=lambda _: None)

    def _read(self) -> None:
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_server_end("its server had ended")
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
        kill_reason = self._kill_reasons.get(number)
        self._forget(number)
        if "failed" in message:
            death = Death(why=message["failed"], started=False)
        else:
            why = kill_reason if message["ordered"] else None
            death = Death(message["exited"], why, message["oom"], message["peak_rss"])
        self._on_exit(number, death)

    def _forget(self, number: int) -> None:
        self._alive.discard(number)
        self._kill_reasons.pop(number, None)
        _, descriptor = self._pidfds.pop(number, (0, None))
        if descriptor is not None:
            os.close(descriptor)

    def _kill_directly(self, number: int) -> None:
        pid, descriptor = self._pidfds.get(number, (0, None))
        if descriptor is not None:
            # Through the pidfd first, which fails if another process has got the same pid since.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, 0)
                os.killpg(pid, signal.SIGKILL)

    def _on_server_end(self, why: str) -> None:
        """Close the connection to the server, kill its workers and report their deaths."""
        if self.is_gone:
            return
        self.is_gone = True
        if not self._ready.done():
            self._ready.set_exception(
                ExecutorError("the worker server ended while it started; stderr shows its errors")
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


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.{0 if unit == 'B' else 1}f} {unit}"
