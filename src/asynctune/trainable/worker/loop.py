"""The loop of a worker process, which holds one trainable at a time and answers the driver.

The driver decides everything. When the driver ends, its end of the socket closes, and the worker
server that forked this process kills this process and all its children.
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
    EXTRA_GRACE_S,
    Answer,
    AnswerKind,
    as_class,
    build,
    class_session,
    describe,
    perform,
)
from asynctune.trainable.worker.frames import HEAD, frame

_KILL_WAIT_S = 5.0  # the kill arrives much earlier; a lost one must not keep the process forever
_IOLBF = 1  # line buffering in stdio.h; the value is the same on all platforms


class Worker:
    """Serves one trainable at a time in this process.

    Args:
        channel: The socket to the driver; no other process holds it.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._classes: dict[str, type[Trainable]] = {}
        self._class: type[Trainable] | None = None
        self._trainable: Trainable | None = None
        self._hooks: SyncHookCaller | None = None
        self._environment = dict(os.environ)
        self._initial_threads = threading.active_count()
        self._build_time = 0.0
        self._streams: WeakSet[io.TextIOWrapper] = WeakSet()
        # Kept until the process ends, since modules may print the secrets of earlier trials later.
        self._secrets = Redactor(self._redact_output)

    def serve(self) -> None:
        """Answer requests until the driver sends ``quit`` or ends."""
        redactor.set(self._secrets)
        while True:
            try:
                head, body = self._receive()
            except EOFError:
                return  # the driver has ended, and the worker server kills this process
            except OSError:
                _sleep_until_killed()
                return
            operation = head["op"]
            if operation == "quit":
                return
            try:
                answer = self._answer(operation, head, body)
            except BaseException as exc:  # the user's SystemExit and KeyboardInterrupt too
                self._exit_if_forked(exc)
                answer = describe(exc)
            self._exit_if_forked()
            reply = {"kind": answer.kind, "checkpoint": answer.checkpoint}
            try:
                self._channel.sendall(frame(reply, answer.body))
            except OSError:
                _sleep_until_killed()
                return

    def _answer(self, operation: str, head: dict[str, Any], body: bytes) -> Answer:
        match operation:
            case "environment":
                self._set_environment(json.loads(body))
            case "enter":
                self._enter(head, body)
            case "build":
                self._build(head, body)
            case "call":
                assert self._trainable is not None, "the driver called before it built a trainable"
                args = pickle.loads(body) if body else ()
                return step(perform(self._trainable, head["method"], args))
            case "release":
                return _value_answer(self._release())
            case _:
                raise AssertionError(f"the driver sent the unknown operation {operation!r}")
        return _value_answer(None)

    def _exit_if_forked(self, failure: BaseException | None = None) -> None:
        """Exit if this is a child that the user's code forked and that returned to the worker's loop."""
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

    def _set_environment(self, settings: dict[str, Any]) -> None:
        """Set environment variables and thread limits, before any code of the user is loaded."""
        os.environ.clear()
        os.environ.update(settings["environment"])
        self._environment = dict(os.environ)
        limit_threads(settings["threads"])

    def _enter(self, head: dict[str, Any], code: bytes) -> None:
        """Prepare this process for a trial: redirect output, set the import path, load the code."""
        self._class = None
        try:
            os.makedirs(head["logdir"], mode=0o700, exist_ok=True)
            _redirect_output(head["log"])
        except OSError as exc:
            raise storage_error(exc, f"{head['logdir']} cannot be written to") from exc
        self._streams.update(_replace_streams())
        if self._secrets:
            self._redact_output()
        for name, lines in head["sources"].items():
            # Notebook cells have no file; tracebacks find their lines in the cache.
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
        sys.path[:] = head["path"]
        digest = head["digest"]
        if digest not in self._classes:
            importlib.invalidate_caches()  # modules may have been written since the last import
            self._classes[digest] = as_class(pickle.loads(code))
        self._class = self._classes[digest]

    def _build(self, head: dict[str, Any], config: bytes) -> None:
        assert self._class is not None, "the driver built a trainable whose code failed to load"
        logdir = head["logdir"]
        os.chdir(logdir)
        pickles = io.BytesIO(config)
        values = pickle.load(pickles)
        remote = pickle.load(pickles) if head["remote"] else None
        self._hooks = SyncHookCaller()
        context = TrainableContext(
            logdir=logdir,
            hooks=self._hooks,
            trial_id=head["trial_id"],
            trial_name=head["trial_name"],
            experiment_tag=head["tag"],
            grace_s=head["grace_s"] + EXTRA_GRACE_S,
            own_process=True,
            remote=remote,
        )
        self._build_time = time.monotonic()
        ProcessSession.current = class_session(context)
        self._trainable = build(self._class, values, context)

    def _release(self) -> bool:
        """Drop the trainable. Return whether this process can serve another trial."""
        self._trainable = None
        ProcessSession.current = None
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None
        if time.monotonic() - self._build_time > 1.0:
            gc.collect()  # models are full of cycles; after a short trial little is left to collect
        _flush_output()
        os.chdir("/")
        _redirect_output(None)
        if dict(os.environ) != self._environment:
            # Restore the environment and keep the process: even an import of scikit-learn changes it.
            os.environ.clear()
            os.environ.update(self._environment)
        return threading.active_count() <= self._initial_threads and not _has_children()

    def _redact_output(self) -> None:
        """Redact all standard streams, including those of earlier trials that a logger may hold."""
        for stream in (*self._streams, sys.__stdout__, sys.__stderr__):
            if isinstance(stream, io.TextIOWrapper):
                _redact_writes(stream, self._secrets)

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        head_length, body_length = HEAD.unpack(self._receive_exactly(HEAD.size))
        head = json.loads(self._receive_exactly(head_length))
        return head, self._receive_exactly(body_length)

    def _receive_exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view, received = memoryview(data), 0
        while received < length:
            count = self._channel.recv_into(view[received:])
            if not count:
                raise EOFError
            received += count
        return bytes(data)


def main(channel: socket.socket) -> None:
    """Run a worker in a process that was just forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles a Ctrl-C at the terminal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _redirect_output(None)
    _line_buffer_c_output()
    faulthandler.enable(file=2)
    numpy = sys.modules.get("numpy")
    if numpy is not None:  # preloaded before the fork: all workers would draw the same numbers
        numpy.random.seed()
    Worker(channel).serve()
    with contextlib.suppress(OSError):
        channel.close()


def limit_threads(count: int) -> None:
    """Limit the threads of preloaded BLAS libraries; libraries loaded later read the environment."""
    if "numpy" in sys.modules or "torch" in sys.modules:
        with contextlib.suppress(ImportError):
            import threadpoolctl

            threadpoolctl.threadpool_limits(count)


def _redirect_output(path: str | None) -> None:
    """Redirect the output of Python and C code to the end of a file; None discards the output."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    target = os.open(path, flags, 0o600) if path else os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
    finally:
        if target > 2:
            os.close(target)


def _replace_streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """Create new standard streams; the previous trial may have closed or replaced the old ones."""
    # Line-buffered, so that printed lines appear in the log at once.
    sys.stdout = open(
        1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    sys.stderr = open(
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    return sys.stdout, sys.stderr


def _redact_writes(stream: io.TextIOWrapper, secrets: Redactor) -> None:
    # Patch the instance, so that streams of trials without secrets cost nothing.
    def write(text: Any) -> int:
        return io.TextIOWrapper.write(stream, secrets.text(text) if isinstance(text, str) else text)

    vars(stream)["write"] = write


def _line_buffer_c_output() -> None:
    """Make the C library flush its standard output after each line, not when a buffer is full."""
    with contextlib.suppress(OSError, AttributeError, ValueError):  # other C libraries print later
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _IOLBF, 0)


def _flush_output() -> None:
    """Flush the buffers of Python and the C library, so that the output reaches the trial's log."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a trial may have replaced or closed the stream
            stream.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except (AttributeError, OSError):
        return True  # unknown, so do not reuse the process
    return True


def _sleep_until_killed() -> None:
    """The channel is closed. Sleep until killed: exiting here would look like the trial's own exit.

    Either the driver has ended, and the worker server kills this process; or the user's code has closed
    the channel, and the driver orders the kill.
    """
    time.sleep(_KILL_WAIT_S)


def _value_answer(value: Any) -> Answer:
    return Answer(AnswerKind.VALUE, json.dumps(value).encode())
