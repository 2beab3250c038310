"""Trainables that fail in every way in which a process can fail, and hang in every state.

Workers import this module, so it imports little.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from asynctune.trainable.base import Trainable


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to fail.

    Args:
        commit: A function that fails in this way, or returns a value that cannot be sent to the driver.
        said: A regular expression that matches the error of the trial.
        signal: The signal that ends the process, or None.
        exitcode: The exit code of a process that exits by itself, or None.
    """

    commit: Callable[[], Any]
    said: str
    signal: int | None = None
    exitcode: int | None = None

    @property
    def kills(self) -> bool:
        """Whether the process ends."""
        return self.signal is not None or self.exitcode is not None


class WantsTwoError(Exception):
    """An exception that cannot be unpickled, since its ``args`` do not fit its constructor."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


class MuteError(Exception):
    """An exception whose ``str`` raises."""

    def __str__(self) -> str:
        raise RuntimeError("it does not want to be shown")


def _raises(kind: type[BaseException], *args: str) -> Callable[[], NoReturn]:
    def commit() -> NoReturn:
        raise kind(*args)

    return commit


def _raises_at_length() -> NoReturn:
    raise ValueError("x" * 10_000_000)


def _raises_in_a_circle() -> NoReturn:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def _is_killed_by(number: int) -> Callable[[], None]:
    def commit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)
        signal.pause()  # another thread may receive the signal, a moment later

    return commit


def _reads_nowhere() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


FAULTS: dict[str, Fault] = {
    "raise": Fault(_raises(ValueError, "planted"), "ValueError: planted"),
    "sys.exit": Fault(lambda: sys.exit(5), "SystemExit: 5"),
    "exit 0": Fault(lambda: os._exit(0), "ended by itself with exit code 0", exitcode=0),
    "exit 3": Fault(lambda: os._exit(3), "ended by itself with exit code 3", exitcode=3),
    "SIGKILL": Fault(_is_killed_by(9), r"killed by signal 9 \(SIGKILL\)", signal=9),
    "SIGTERM": Fault(_is_killed_by(15), r"killed by signal 15 \(SIGTERM\)", signal=15),
    "SIGABRT": Fault(_is_killed_by(6), r"killed by signal 6 \(SIGABRT\)", signal=6),
    "SIGSEGV": Fault(_reads_nowhere, r"killed by signal 11 \(SIGSEGV\)", signal=11),
    "not rebuilt": Fault(_raises(WantsTwoError, "a", "b"), "WantsTwoError: a and b"),
    "not shown": Fault(_raises(MuteError), r"MuteError \(whose str\(\) raised RuntimeError\)"),
    "10 MB": Fault(_raises_at_length, "ValueError: x+\n.*left out"),
    "circle": Fault(_raises_in_a_circle, "ValueError: first"),
    "interrupt": Fault(_raises(KeyboardInterrupt), "KeyboardInterrupt"),
    "memory": Fault(_raises(MemoryError), "MemoryError"),
    "unpicklable": Fault(threading.Lock, "[Ll]ock"),
}
"""Every way to fail, by name."""


class Crashes(Trainable):
    """Fails in the phase ``config["phase"]`` in the way ``config["fault"]``, if that is a fault.

    The phases are the names of the hooks. The trial trains three iterations, and fails in the second.
    """

    def _at(self, phase: str) -> Any:
        fault = self.config.get("fault")
        if fault in FAULTS and self.config["phase"] == phase:
            return FAULTS[fault].commit()
        return None

    def _setup(self, config: dict[str, Any]) -> None:
        self._at("_setup")

    def _train(self) -> dict[str, Any]:
        step = self.iteration + 1
        value = self._at("_train") if step >= 2 else None
        return {"step": step, "value": value, "done": step >= 3}

    def _save(self, tmp_checkpoint_dir: str) -> dict[str, Any]:
        return {"value": self._at("_save")}

    def _restore(self, checkpoint: Any) -> None:
        self._at("_restore")

    def _export_model(self, export_formats: list[str], export_dir: str) -> dict[str, Any]:
        return {"model": self._at("_export_model") or export_dir}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._at("reset_config")
        return True

    def _stop(self) -> Any:
        return self._at("_stop")


STATES = ("asleep", "gil", "stopped", "children")
"""The states of a hung worker: the values of ``config["state"]`` of :class:`Hangs`."""


class Hangs(Trainable):
    """Never returns from its first ``train()``; its second attempt trains once and is done.

    Before the hang the trial writes ``<role>:<pid>`` and a blank for each of its processes to the FIFO
    ``config["fifo"]``. In the state ``stopped`` the worker only sleeps: the reader of the FIFO stops the
    worker, since a stopped process could not write.
    """

    def _train(self) -> dict[str, Any]:
        mark = os.path.join(self.logdir, "hung")
        if os.path.exists(mark):
            return {"done": True}
        open(mark, "wb").close()
        state = self.config["state"]
        told = [f"worker:{os.getpid()} "]
        if state == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if state == "children":
            told.append(f"child:{subprocess.Popen(['sleep', '600']).pid} ")
            told.append(f"child:{fork_sleeper()} ")
        with open(self.config["fifo"], "w", encoding="ascii") as fifo:
            fifo.write("".join(told))
        if state == "gil":
            re.match(r"(a+)+$", "a" * 60 + "b")
        time.sleep(600)
        return {}


def fork_sleeper() -> int:
    """Fork a child that sleeps and keeps every descriptor of its parent open. Return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(600)
        finally:
            os._exit(0)
    return pid
