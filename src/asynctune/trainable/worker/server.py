"""The worker server: a small single-threaded process that forks workers and is their guardian.

The driver speaks to it over one socket, in lines of JSON: ``fork`` (with the worker's end of a socket
pair) and ``kill``. It answers with ``started`` and ``exited``, which it knows because it reaps. When the
driver is gone, by whatever way, it kills every worker's process group and ends.

A worker tells its pid itself, before it does anything else: if this process dies right after the fork,
the driver still knows of it.

It never looks into what driver and worker say to each other, and it never runs the user's code but for
the modules that ``preload`` names.
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
_PF_EXITING = 0x4  # of the kernel's sched.h
_TICK_S = 1.0
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(slots=True)
class _Child:
    """A worker as the server knows it.

    Args:
        number: The driver's number for it.
        strikes: How often the out-of-memory killer had struck others before it began, None: unknown.
        ordered: Whether the driver ordered its death while it was alive.
    """

    number: int
    strikes: int | None
    ordered: bool = False


class Server:
    """Forks workers on request and tells of their ends.

    Args:
        control: The socket to the driver.
        driver: The process id of the driver.
        vmstat: The file with the kernel's counters.
    """

    def __init__(self, control: socket.socket, driver: int, vmstat: str) -> None:
        self._control = control
        self._driver = driver
        self._vmstat = vmstat
        self._explained = 0  # strikes of the out-of-memory killer that deaths were put down to
        self._workers: dict[int, _Child] = {}  # by pid
        self._buffer = b""
        self._received: list[int] = []
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._driver_fd = _pidfd(driver)

    def run(self) -> None:
        """Serve until the driver is gone, then leave nothing behind."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(
            signal.SIGTERM, lambda *_: None
        )  # wakes select; the driver's end is what counts
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        _become_subreaper()
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ, self._on_control)
        selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        if self._driver_fd is not None:
            # EOF alone is defeated by a child that the user forked from the driver.
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
        self._received += descriptors
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._order(json.loads(line))
        return True

    def _on_wake(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        self._reap()
        return True

    def _order(self, order: dict[str, Any]) -> None:
        number = order["worker"]
        if order["op"] == "fork":
            self._fork(number, self._received.pop(0))
            return
        for pid, child in self._workers.items():
            if child.number == number:
                child.ordered = child.ordered or not _is_exiting(pid)
                _kill_group(pid)

    def _fork(self, number: int, descriptor: int) -> None:
        strikes = self._strikes()
        try:
            pid = os.fork()
        except OSError as exc:
            os.close(descriptor)
            self.tell({"worker": number, "failed": str(exc)})
            return
        if pid == 0:
            self._become_worker(number, descriptor)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # on both sides of the fork: whoever comes first
        os.close(descriptor)
        self._workers[pid] = _Child(number, strikes)

    def _become_worker(self, number: int, descriptor: int) -> NoReturn:
        code = 1
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self.tell({"worker": number, "pid": os.getpid()})
            # The server's own descriptors, so that nothing of it lives on in a worker.
            self._selector.close()
            self._control.close()
            self._wake_read.close()
            self._wake_write.close()
            if self._driver_fd is not None:
                os.close(self._driver_fd)
            for other in self._received:
                os.close(other)
            _worker.main(socket.socket(fileno=descriptor))
            code = 0
        finally:
            # Not sys.exit: atexit hooks that modules registered in the server are not this process's.
            os._exit(code)

    def _reap(self) -> None:
        while True:
            pid, dead = _next_dead()
            if pid is None:
                return
            child = self._workers.pop(pid, None)
            if child is not None:
                # While the dead leader is not reaped its group cannot be another's.
                _kill_group(pid)
            if dead is None:
                with contextlib.suppress(ChildProcessError):
                    dead = _status_and_peak(*os.wait4(pid, 0))
            if child is not None:
                status, peak = dead or (None, None)
                died = {"worker": child.number, "exited": status, "peak_rss": peak}
                died["ordered"] = child.ordered
                died["oom"] = self._is_explained_by_memory(child, status)
                self.tell(died)

    def _strikes(self) -> int | None:
        """Return how often the out-of-memory killer struck without that a death was put down to it."""
        count = oom_kills(self._vmstat)
        return None if count is None else count - self._explained

    def _is_explained_by_memory(self, child: _Child, status: int | None) -> bool | None:
        """Tell whether the out-of-memory killer struck during the life of a worker that was killed."""
        if child.ordered or status is None or status & 0x7F != signal.SIGKILL:
            return False
        strikes = self._strikes()
        if strikes is None or child.strikes is None:
            return None
        if strikes <= child.strikes:
            return False
        self._explained += 1  # one strike is not the death of two
        return True

    def tell(self, message: dict[str, Any]) -> None:
        """Send the driver a line."""
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _kill_all(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
        # As subreaper this process also inherits what left its group; those are found by their parent.
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
    """Read how often the kernel's out-of-memory killer has struck; None if that cannot be known."""
    try:
        with open(vmstat, "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        return None
    return None


def _next_dead() -> tuple[int | None, tuple[int, int] | None]:
    """Find a child that has died; with its status and peak if it had to be reaped to be found."""
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
    """Tell whether a child is already at its end, so that a kill would change nothing.

    A dying process closes its files, and by that lets the driver order its death, before it can be
    reaped.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (OSError, IndexError, ValueError):
        return True  # without /proc it cannot be known; that it died by itself is likelier
    return bool(flags & _PF_EXITING)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):  # between fork and setpgid there is no group yet
        os.kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    """List the processes whose parent is this one."""
    own = os.getpid()
    found: list[int] = []
    if not os.path.isdir("/proc/self"):
        return found
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == own:
                found.append(int(name))
    return found


def _pidfd(pid: int) -> int | None:
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


def _end_with(control: socket.socket, *, armed: bool) -> None:
    """Let the kernel end this process, whatever it is doing, when the driver's end closes."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC if armed else flags & ~os.O_ASYNC)


def main(descriptor: int, driver: int, preload: list[str], vmstat: str) -> None:
    """Be a server; called by the line that the driver starts Python with."""
    control = socket.socket(fileno=descriptor)
    server = Server(control, driver, vmstat)
    _end_with(control, armed=True)  # an import can take long, and the driver says nothing meanwhile
    for name in preload:
        if _driver_is_gone(control):
            return
        try:
            importlib.import_module(name)
        except Exception as exc:
            server.tell({"error": f"{name!r} cannot be imported: {type(exc).__name__}: {exc}"})
            return
    _end_with(control, armed=False)
    server.tell({"ready": True})
    gc.collect()
    gc.freeze()  # what is loaded now stays shared between the workers
    server.run()
