"""The worker server: a small single-threaded process that forks, supervises and kills workers.

The driver sends requests over one socket, as lines of JSON: ``fork`` (with the worker's end of a socket
pair) and ``kill``. The server reports the exit of each worker, since it is the parent that reaps them.
When the driver ends, in whatever way, the server kills the process group of every worker and exits.

Each worker sends its pid to the driver itself, before anything else: if the server dies right after the
fork, the driver still learns of the worker.

The server never reads the messages between driver and worker. Of the user's code it runs only the
imports of the modules that ``preload`` names.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from asynctune.trainable.worker import loop as _worker

_PR_SET_CHILD_SUBREAPER = 36
_PF_EXITING = 0x4  # from sched.h of the kernel
_TICK_S = 1.0
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss


@dataclass(slots=True)
class _Child:
    """A worker process.

    Args:
        number: The number that the driver gave to the worker.
        oom_kills_before: The count of :meth:`Server._unattributed_kills` at the fork; None if unknown.
        kill_requested: Whether the driver requested the kill while the worker was alive.
    """

    number: int
    oom_kills_before: int | None
    kill_requested: bool = False


class Server:
    """Forks workers on request and reports their exits.

    Args:
        control: The socket to the driver.
        driver: The process id of the driver.
        vmstat: The path of the file with the kernel's counters.
    """

    def __init__(self, control: socket.socket, driver: int, vmstat: str) -> None:
        self._control = control
        self._driver = driver
        self._vmstat = vmstat
        # Kills by the out-of-memory killer that explain the death of a worker.
        self._attributed_kills = 0
        self._workers: dict[int, _Child] = {}  # by pid
        self._buffer = b""
        self._descriptors: list[int] = []
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._driver_fd = _open_pidfd(driver)

    def run(self) -> None:
        """Serve until the driver ends, then kill all workers and their children."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # SIGTERM only wakes select: the server exits when the driver ends, not on request.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        _become_subreaper()
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ, self._on_control)
        selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        if self._driver_fd is not None:
            # EOF is not enough: a child that the user forked from the driver keeps the socket open.
            selector.register(self._driver_fd, selectors.EVENT_READ, lambda: False)
        self._selector = selector
        try:
            alive = True
            while alive:
                ready = selector.select(None if self._driver_fd is not None else _TICK_S)
                for key, _ in ready:
                    alive = key.data() and alive
                if self._driver_fd is None and os.getppid() != self._driver:
                    alive = False
        finally:
            self._kill_all()

    def _on_control(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 64)
        except OSError:
            return False
        self._descriptors += descriptors
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._handle(json.loads(line))
        return True

    def _on_wake(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        self._reap()
        return True

    def _handle(self, request: dict[str, Any]) -> None:
        number = request["worker"]
        if request["op"] == "fork":
            self._fork(number, self._descriptors.pop(0))
            return
        for pid, child in self._workers.items():
            if child.number == number:
                child.kill_requested = child.kill_requested or not _is_exiting(pid)
                _kill_group(pid)

    def _fork(self, number: int, descriptor: int) -> None:
        oom_kills_before = self._unattributed_kills()
        try:
            pid = os.fork()
        except OSError as exc:
            os.close(descriptor)
            self.send({"worker": number, "failed": str(exc)})
            return
        if pid == 0:
            self._become_worker(number, descriptor)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # in both processes, since either may run first
        os.close(descriptor)
        self._workers[pid] = _Child(number, oom_kills_before)

    def _become_worker(self, number: int, descriptor: int) -> NoReturn:
        code = 1
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self.send({"worker": number, "pid": os.getpid()})
            # Close the server's descriptors, so that a worker does not keep the sockets open.
            self._selector.close()
            self._control.close()
            self._wake_read.close()
            self._wake_write.close()
            if self._driver_fd is not None:
                os.close(self._driver_fd)
            for other in self._descriptors:
                os.close(other)
            _worker.main(socket.socket(fileno=descriptor))
            code = 0
        finally:
            # Not sys.exit, which would run the atexit hooks that modules registered in the server.
            os._exit(code)

    def _reap(self) -> None:
        while True:
            pid, dead = _find_dead()
            if pid is None:
                return
            child = self._workers.pop(pid, None)
            if child is not None:
                # Before the dead leader is reaped, since the kernel may reuse its group id afterwards.
                _kill_group(pid)
            if dead is None:
                with contextlib.suppress(ChildProcessError):
                    dead = _status_and_peak(*os.wait4(pid, 0))
            if child is not None:
                status, peak = dead or (None, None)
                message = {"worker": child.number, "exited": status, "peak_rss": peak}
                message["ordered"] = child.kill_requested
                message["oom"] = self._ran_out_of_memory(child, status)
                self.send(message)

    def _unattributed_kills(self) -> int | None:
        """Return the number of kills by the out-of-memory killer that explain no worker's death yet."""
        count = oom_kills(self._vmstat)
        return None if count is None else count - self._attributed_kills

    def _ran_out_of_memory(self, child: _Child, status: int | None) -> bool | None:
        """Return whether the out-of-memory killer explains the death of a worker; None if unknown."""
        if child.kill_requested or status is None or status & 0x7F != signal.SIGKILL:
            return False
        oom_kills_now = self._unattributed_kills()
        if oom_kills_now is None or child.oom_kills_before is None:
            return None
        if oom_kills_now <= child.oom_kills_before:
            return False
        self._attributed_kills += 1  # one kill explains one death only
        return True

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the driver as a line of JSON."""
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _kill_all(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
        # A subreaper also inherits descendants that left their group; find them by their parent's pid.
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                for child in _children():
                    with contextlib.suppress(OSError):
                        os.kill(child, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, 0)


def oom_kills(vmstat: str) -> int | None:
    """Return the number of kills by the kernel's out-of-memory killer; None if it cannot be read."""
    try:
        with open(vmstat, "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        return None
    return None


def _find_dead() -> tuple[int | None, tuple[int, int] | None]:
    """Find a dead child. Return its pid, and its status and peak memory if the search reaped it.

    Without ``os.waitid`` a dead child cannot be found without reaping it.
    """
    if hasattr(os, "waitid"):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None, None
        return (found.si_pid, None) if found is not None else (None, None)
    try:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
    except ChildProcessError:
        return None, None
    return (pid, _status_and_peak(pid, status, usage)) if pid else (None, None)


def _status_and_peak(_: int, status: int, usage: Any) -> tuple[int, int]:
    return status, usage.ru_maxrss * _RSS_UNIT


def _is_exiting(pid: int) -> bool:
    """Return whether a child is already exiting, so that a kill has no effect.

    An exiting process closes its files before it can be reaped. The driver notices the closed channel
    and requests the kill, which must not be recorded as the cause of death.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (OSError, IndexError, ValueError):
        return True  # unknown without /proc; a worker most likely exits by itself
    return bool(flags & _PF_EXITING)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):  # between fork and setpgid there is no group yet
        os.kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    """Return the pids of the children of this process."""
    own = os.getpid()
    pids: list[int] = []
    if not os.path.isdir("/proc/self"):
        return pids
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == own:
                pids.append(int(name))
    return pids


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _become_subreaper() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _driver_is_gone(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLHUP)
    return bool(poll.poll(0))


def _exit_on_hangup(control: socket.socket, *, enabled: bool) -> None:
    """Make the kernel kill this process, even in an import, when the driver's socket closes."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC if enabled else flags & ~os.O_ASYNC)


def main(descriptor: int, driver: int, preload: list[str], vmstat: str) -> None:
    """Run the server; called by the command line with which the driver starts Python.

    Args:
        descriptor: The file descriptor of the socket to the driver.
        driver: The process id of the driver.
        preload: The names of the modules to import before the first fork.
        vmstat: The path of the file with the kernel's counters.
    """
    control = socket.socket(fileno=descriptor)
    server = Server(control, driver, vmstat)
    # An import can take long, and the driver sends nothing meanwhile.
    _exit_on_hangup(control, enabled=True)
    for name in preload:
        if _driver_is_gone(control):
            return
        try:
            importlib.import_module(name)
        except Exception as exc:
            server.send({"error": f"{name!r} cannot be imported: {type(exc).__name__}: {exc}"})
            return
    _exit_on_hangup(control, enabled=False)
    server.send({"ready": True})
    gc.collect()
    gc.freeze()  # keeps the pages of all loaded modules shared by the workers
    server.run()
