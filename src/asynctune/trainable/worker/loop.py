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
import io
import json
import linecache
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any
from weakref import WeakSet

from asynctune.secret import Redactor, redactor
from asynctune.storage.filesystem import storage_error
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import SyncHookCaller, TrainableContext, step
from asynctune.trainable.session import ProcessSession
from asynctune.trainable.worker.calls import (
    HOST_GRACE_S,
    Answer,
    AnswerKind,
    as_class,
    build,
    class_session,
    describe,
    perform,
)
from asynctune.trainable.worker.frames import HEAD, frame

_END_S = 5.0
_IOLBF = 1  # of stdio.h, the same everywhere


class Worker:
    """One process, one trainable at a time.

    Args:
        channel: The socket to the driver, which nobody else holds.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._code: dict[str, type[Trainable]] = {}
        self._entered: type[Trainable] | None = None
        self._trainable: Trainable | None = None
        self._calls: SyncHookCaller | None = None
        self._environment = dict(os.environ)
        self._threads = threading.active_count()
        self._built_at = 0.0
        self._streams: WeakSet[io.TextIOWrapper] = WeakSet()
        # As long as the process: what modules remember of a trial comes up in later ones.
        self._secrets = Redactor(self._redact_output)

    def serve(self) -> None:
        """Answer requests until the driver says quit or is gone."""
        redactor.set(self._secrets)
        while True:
            try:
                head, body = self._receive()
            except EOFError:
                return  # the driver is gone; the server knows, too
            except OSError:
                _wait_for_the_end()
                return
            operation = head["op"]
            if operation == "quit":
                return
            try:
                answer = self._answer(operation, head, body)
            except BaseException as exc:  # also the user's SystemExit and KeyboardInterrupt
                self._end_if_forked(exc)
                answer = describe(exc)
            self._end_if_forked()
            reply = {"kind": answer.kind, "checkpoint": answer.checkpoint}
            try:
                self._channel.sendall(frame(reply, answer.body))
            except OSError:
                _wait_for_the_end()
                return

    def _answer(self, operation: str, head: dict[str, Any], body: bytes) -> Answer:
        match operation:
            case "environment":
                self._set_up(json.loads(body))
            case "enter":
                self._enter(head, body)
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

    def _end_if_forked(self, failure: BaseException | None = None) -> None:
        """End a child that the user's code forked and that came back here: its parent is the worker."""
        if os.getpid() == self._pid:
            return
        code = 0
        if isinstance(failure, SystemExit):
            code = failure.code if isinstance(failure.code, int) else int(failure.code is not None)
        elif failure is not None:
            traceback.print_exception(failure)
            code = 1
        _flush_output()
        os._exit(code & 0xFF)

    def _set_up(self, given: dict[str, Any]) -> None:
        """Take over environment and import path, before any code of the user's is loaded."""
        os.environ.clear()
        os.environ.update(given["environment"])
        self._environment = dict(os.environ)
        limit_threads(given["threads"])

    def _enter(self, head: dict[str, Any], code: bytes) -> None:
        """Make this the process of a trial, and load its code."""
        self._entered = None
        try:
            os.makedirs(head["logdir"], mode=0o700, exist_ok=True)
            _redirect_output(head["log"])
        except OSError as exc:
            raise storage_error(exc, f"{head['logdir']} cannot be written to") from exc
        self._streams.update(_renew_streams())
        if self._secrets:
            self._redact_output()
        for name, lines in head["sources"].items():
            # No file is behind these names (notebook cells): tracebacks find their lines here.
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
        sys.path[:] = head["path"]
        digest = head["digest"]
        if digest not in self._code:
            importlib.invalidate_caches()  # a module may have been written since the last look
            self._code[digest] = as_class(pickle.loads(code))
        self._entered = self._code[digest]

    def _build(self, head: dict[str, Any], config: bytes) -> None:
        assert self._entered is not None, "its driver knows that the code could not be loaded"
        logdir = head["logdir"]
        os.chdir(logdir)
        given = io.BytesIO(config)
        values = pickle.load(given)
        remote = pickle.load(given) if head["remote"] else None
        self._calls = SyncHookCaller()
        place = TrainableContext(
            logdir=logdir,
            calls=self._calls,
            trial_id=head["trial_id"],
            trial_name=head["trial_name"],
            experiment_tag=head["tag"],
            grace_s=head["grace_s"] + HOST_GRACE_S,
            own_process=True,
            remote=remote,
        )
        self._built_at = time.monotonic()
        ProcessSession.current = class_session(place)
        self._trainable = build(self._entered, values, place)

    def _release(self) -> bool:
        """Forget the trainable; tell whether this process is as good as new."""
        self._trainable = None
        ProcessSession.current = None
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

    def _redact_output(self) -> None:
        """Let no stream write a secret, also those of earlier trials that a logger may hold."""
        for stream in (*self._streams, sys.__stdout__, sys.__stderr__):
            if isinstance(stream, io.TextIOWrapper):
                _redact_writes(stream, self._secrets)

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


def _renew_streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """Take the standard streams back from whatever a trial has put in their place."""
    # What the user prints is in the log when it is printed, not when a buffer is full.
    sys.stdout = open(
        1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    sys.stderr = open(
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    return sys.stdout, sys.stderr


def _redact_writes(stream: io.TextIOWrapper, secrets: Redactor) -> None:
    # On the instance, so that a stream of trials without secrets pays nothing.
    def write(text: Any) -> int:
        return io.TextIOWrapper.write(stream, secrets.text(text) if isinstance(text, str) else text)

    vars(stream)["write"] = write


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


def _wait_for_the_end() -> None:
    """Nothing can be said any more: the driver is gone, or the user's code has closed the channel.

    In either case somebody is about to kill this process. Whoever ended by itself could not be told from
    a trial that did so.
    """
    time.sleep(_END_S)


def _value(value: Any) -> Answer:
    return Answer(AnswerKind.VALUE, json.dumps(value).encode())
