"""All that runs in a worker process: it holds one trainable at a time and answers its driver.

The driver decides everything. If it goes away its end of the socket closes, and the server that
forked this process kills it with all it started.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import linecache
import os
import pickle
import signal
import socket
import sys
import threading
import time
from typing import Any

from asynctune import track
from asynctune.executors._frames import HEAD, frame
from asynctune.executors._hosted import (
    HOST_GRACE_S,
    Answer,
    AnswerKind,
    as_class,
    build,
    class_session,
    describe,
    perform,
)
from asynctune.hosting import Host, SyncCalls, step
from asynctune.trainable import Trainable

_IOLBF = 1  # of stdio.h, the same everywhere


class Worker:
    """One process, one trainable at a time.

    Args:
        channel: The socket to the driver, which nobody else holds.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._code: dict[str, type[Trainable]] = {}
        self._trainable: Trainable | None = None
        self._calls: SyncCalls | None = None
        self._environment = dict(os.environ)
        self._threads = threading.active_count()
        self._built_at = 0.0

    def serve(self) -> None:
        """Answer requests until the driver says quit or is gone."""
        while True:
            try:
                head, body = self._receive()
            except (EOFError, OSError):
                return  # the driver is gone; the server knows, too
            operation = head["op"]
            if operation == "quit":
                return
            try:
                answer = self._answer(operation, head, body)
            except BaseException as exc:  # also the user's SystemExit and KeyboardInterrupt
                answer = describe(exc)
            reply = {"kind": answer.kind, "checkpoint": answer.checkpoint}
            try:
                self._channel.sendall(frame(reply, answer.body))
            except OSError:
                return

    def _answer(self, operation: str, head: dict[str, Any], body: bytes) -> Answer:
        match operation:
            case "environment":
                self._set_up(json.loads(body))
            case "build":
                self._build(head, body)
            case "call":
                assert self._trainable is not None, "a call came before its trainable"
                args = pickle.loads(body) if body else ()
                return step(perform(self._trainable, head["method"], args))
            case "release":
                return _value(self._release())
            case _:
                raise AssertionError(f"the driver sent the unknown operation {operation!r}")
        return _value(None)

    def _set_up(self, given: dict[str, Any]) -> None:
        """Take over environment and import path, before any code of the user's is loaded."""
        os.environ.clear()
        os.environ.update(given["environment"])
        self._environment = dict(os.environ)
        limit_threads(given["threads"])

    def _build(self, head: dict[str, Any], body: bytes) -> None:
        logdir = head["logdir"]
        os.makedirs(logdir, mode=0o700, exist_ok=True)
        _redirect_output(head["log"])
        _renew_streams()
        code, config = body[: head["code"]], body[head["code"] :]
        for name, lines in head["sources"].items():
            # No file is behind these names (notebook cells): tracebacks find their lines here.
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
        sys.path[:] = head["path"]
        digest = head["digest"]
        if digest not in self._code:
            importlib.invalidate_caches()  # a module may have been written since the last look
            self._code[digest] = as_class(pickle.loads(code))
        os.chdir(logdir)
        self._calls = SyncCalls()
        place = Host(
            logdir=logdir,
            calls=self._calls,
            trial_id=head["trial_id"],
            trial_name=head["trial_name"],
            experiment_tag=head["tag"],
            grace_s=head["grace_s"] + HOST_GRACE_S,
            own_process=True,
        )
        self._built_at = time.monotonic()
        track.ProcessSession.current = class_session(place)
        self._trainable = build(self._code[digest], pickle.loads(config), place)

    def _release(self) -> bool:
        """Forget the trainable; tell whether this process is as good as new."""
        self._trainable = None
        track.ProcessSession.current = None
        if self._calls is not None:
            self._calls.close()
            self._calls = None
        if time.monotonic() - self._built_at > 1.0:
            gc.collect()  # models are full of cycles; a short trial has left little
        _flush_output()
        os.chdir("/")
        _redirect_output(None)
        if dict(os.environ) != self._environment:
            # Restored and not retired: importing scikit-learn alone changes it.
            os.environ.clear()
            os.environ.update(self._environment)
        return threading.active_count() <= self._threads and not _has_children()

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        head_length, body_length = HEAD.unpack(self._exactly(HEAD.size))
        head = json.loads(self._exactly(head_length))
        return head, self._exactly(body_length)

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length:
            count = self._channel.recv_into(view[got:])
            if not count:
                raise EOFError
            got += count
        return bytes(data)


def main(channel: socket.socket) -> None:
    """Be a worker, in a process that was just forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for the driver
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _redirect_output(None)
    _buffer_c_by_lines()
    faulthandler.enable(file=2)
    numpy = sys.modules.get("numpy")
    if numpy is not None:  # preloaded before the fork: its siblings would draw the same numbers
        numpy.random.seed()
    Worker(channel).serve()
    with contextlib.suppress(OSError):
        channel.close()


def limit_threads(count: int) -> None:
    """Limit BLAS libraries that were preloaded; those that load later read the environment."""
    if "numpy" in sys.modules or "torch" in sys.modules:
        with contextlib.suppress(ImportError):
            import threadpoolctl

            threadpoolctl.threadpool_limits(count)


def _redirect_output(path: str | None) -> None:
    """Let everything that is printed, by Python or C, go to a file; None: nowhere."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    target = os.open(path, flags, 0o600) if path else os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
    finally:
        if target > 2:
            os.close(target)


def _renew_streams() -> None:
    """Take the standard streams back from whatever a trial has put in their place."""
    # What the user prints is in the log when it is printed, not when a buffer is full.
    sys.stdout = open(
        1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    sys.stderr = open(
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _buffer_c_by_lines() -> None:
    """What C code prints is in the log line by line too; the C library would fill a buffer first."""
    with contextlib.suppress(OSError, AttributeError, ValueError):  # another libc: only later, then
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _IOLBF, 0)


def _flush_output() -> None:
    """Let what is still in a buffer, Python's or the C library's, go to the log that it was meant for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a trial may have put anything there, or closed it
            stream.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except (AttributeError, OSError):
        return True
    return True


def _value(value: Any) -> Answer:
    return Answer(AnswerKind.VALUE, json.dumps(value).encode())
