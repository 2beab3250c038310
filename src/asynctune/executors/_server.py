"""The worker server: a small single-threaded process that forks workers and is their guardian.

The driver speaks to it over one socket, in lines of JSON: ``fork`` (with the worker's end of a socket
pair) and ``kill``. It answers with ``started`` and ``exited``, which it knows because it reaps. When the
driver is gone, by whatever way, it kills every worker's process group and ends.

It never looks into what driver and worker say to each other, and it never runs the user's code but for
the modules that ``preload`` names.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
from typing import Any, NoReturn

from asynctune.executors import _worker

_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 1.0


class Server:
    """Forks workers on request and tells of their ends.

    Args:
        control: The socket to the driver.
        driver: The process id of the driver.
    """

    def __init__(self, control: socket.socket, driver: int) -> None:
        self._control = control
        self._driver = driver
        self._workers: dict[int, int] = {}  # pid -> the driver's number for it
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
        for pid, known in self._workers.items():
            if known == number:
                _kill_group(pid)

    def _fork(self, number: int, descriptor: int) -> None:
        try:
            pid = os.fork()
        except OSError as exc:
            os.close(descriptor)
            self.tell({"worker": number, "failed": str(exc)})
            return
        if pid == 0:
            self._become_worker(descriptor)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # on both sides of the fork: whoever comes first
        os.close(descriptor)
        self._workers[pid] = number
        self.tell({"worker": number, "pid": pid})

    def _become_worker(self, descriptor: int) -> NoReturn:
        code = 1
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
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
            number = self._workers.pop(pid, None)
            if number is not None:
                # While the dead leader is not reaped its group cannot be another's.
                _kill_group(pid)
            if dead is None:
                with contextlib.suppress(ChildProcessError):
                    _, dead = os.waitpid(pid, 0)
            if number is not None:
                self.tell({"worker": number, "exited": dead})

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


def _next_dead() -> tuple[int | None, int | None]:
    """Find a child that has died: its pid, and its wait status if it had to be reaped to be found."""
    if hasattr(os, "waitid"):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None, None
        return (found.si_pid, None) if found is not None else (None, None)
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None, None
    return (pid, status) if pid else (None, None)


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


def main(descriptor: int, driver: int, preload: list[str]) -> None:
    """Be a server; called by the line that the driver starts Python with."""
    control = socket.socket(fileno=descriptor)
    server = Server(control, driver)
    for name in preload:
        if _driver_is_gone(control):
            return
        try:
            importlib.import_module(name)
        except Exception as exc:
            server.tell({"error": f"{name!r} cannot be imported: {type(exc).__name__}: {exc}"})
            return
    server.tell({"ready": True})
    gc.collect()
    gc.freeze()  # what is loaded now stays shared between the workers
    server.run()
