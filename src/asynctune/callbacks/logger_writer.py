"""The driver's side of logging: results are queued at once and written in batches.

Each logger class has its own queue and task, so that a slow or hanging logger (such as one whose tracking
server does not answer) delays no other. A queue keeps the order of the calls for a trial.

A :class:`~asynctune.loggers.FileLogger` formats rows on the event loop, in slices, and its writes go
through aiofiles. Any other logger may block, so all its calls are made in a worker thread.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias, TypeGuard, TypeVar

import aiofiles
import aiofiles.os
import anyio
import anyio.lowlevel
import anyio.to_thread

from asynctune.errors import TuneError
from asynctune.loggers.base import Logger, close_dropped, log_dropped
from asynctune.loggers.files import (
    ENCODING,
    ENCODING_ERRORS,
    Append,
    FileLogger,
    Replace,
    Rewrite,
    Write,
    make_private_dirs,
    private_opener,
    read_text,
    temporary_name,
)
from asynctune.result import Row

_ROWS_PER_SLICE = 100

L = TypeVar("L", bound=Logger)


class LoggerWriter:
    """Calls the loggers of all trials of a run.

    The methods return at once and never touch the disk; :meth:`run` does the work. All of them
    belong to one event loop. No logger can fail the run: a logger that raises is dropped for that trial
    with a message to the ``asynctune.loggers`` logger, at level ERROR the first time for each class
    and at DEBUG from then on.

    Args:
        logger_classes: The classes of the loggers of each trial; a class that is listed twice counts once.
        interval_s: The shortest time between two batches of a class, in seconds. The end of a trial
            is written without this delay.
    """

    def __init__(self, logger_classes: Sequence[type[Logger]], *, interval_s: float = 0.2) -> None:
        self._open: set[str] = set()
        self._queues: list[_FileQueue | _ThreadQueue] = [
            _FileQueue(cls, interval_s) if _keeps_methods(cls) else _ThreadQueue(cls, interval_s)
            for cls in dict.fromkeys(logger_classes)
        ]

    def open(self, trial_id: str, config: dict[str, Any], logdir: str, trial: object) -> None:
        """Begin to log a trial.

        Args:
            trial_id: The id of the trial.
            config: The configuration of the trial.
            logdir: The directory of the trial, which is created if it does not exist.
            trial: The object that the loggers get as their ``trial``.

        Raises:
            TuneError: The trial is being logged already.
        """
        if trial_id in self._open:
            raise TuneError(f"trial {trial_id!r} is being logged already; call end() before open()")
        self._open.add(trial_id)
        for queue in self._queues:
            queue.open(trial_id, config, logdir, trial)

    def result(self, trial_id: str, row: Row) -> None:
        """Log one result row; the caller must not change the row afterwards.

        Raises:
            TuneError: The trial is not being logged.
        """
        self._call(trial_id, _Method.ON_RESULT, row)

    def update_config(self, trial_id: str, config: dict[str, Any]) -> None:
        """Log that a trial continues with another configuration.

        Raises:
            TuneError: The trial is not being logged.
        """
        self._call(trial_id, _Method.UPDATE_CONFIG, config)

    def restart(self, trial_id: str, rows: list[Row]) -> None:
        """Log that a trial continues after the last of these rows, and that all other rows are void.

        Raises:
            TuneError: The trial is not being logged.
        """
        self._call(trial_id, _Method.RESTART, rows)

    def end(self, trial_id: str) -> None:
        """Flush and close the loggers of a trial, if it has any."""
        if trial_id in self._open:
            self._open.remove(trial_id)
            for queue in self._queues:
                queue.end(trial_id)

    def close(self) -> None:
        """End all trials, and let :meth:`run` return once everything is written."""
        for trial_id in tuple(self._open):
            self.end(trial_id)
        for queue in self._queues:
            queue.close()

    async def run(self) -> None:
        """Make the queued calls, until :meth:`close`.

        A cancellation takes effect between the writes of two trials. The other calls stay queued, and
        another ``close`` and ``run`` can still make them; but a logger that is busy in a worker thread
        is abandoned there.
        """
        async with anyio.create_task_group() as tasks:
            for queue in self._queues:
                tasks.start_soon(queue.run, name=f"logs of {queue.name}")

    def _call(self, trial_id: str, method: _Method, argument: Any) -> None:
        if trial_id not in self._open:
            raise TuneError(
                f"cannot call {method} for trial {trial_id!r}, which is not being logged; calls must come "
                "between open() and end()"
            )
        for queue in self._queues:
            queue.call(trial_id, method, argument)


class _Method(StrEnum):
    ON_RESULT = "on_result"
    UPDATE_CONFIG = "update_config"
    RESTART = "restart"


_Calls: TypeAlias = list[tuple[_Method, Any]]


@dataclass(slots=True, eq=False)
class _Log(Generic[L]):
    """One logger of one trial, and the calls that wait for this logger."""

    trial_id: str
    config: dict[str, Any]
    logdir: str
    trial: object
    logger: L | None = None
    calls: _Calls = field(default_factory=list)
    queued: bool = False
    ended: bool = False
    dropped: bool = False


class _LoggerQueue(ABC, Generic[L]):
    """The queue and the task of one logger class."""

    def __init__(self, cls: type[L], interval_s: float) -> None:
        self.name = cls.__qualname__
        self._cls = cls
        self._interval_s = interval_s
        self._logs: dict[str, _Log[L]] = {}
        self._queue: deque[_Log[L]] = deque()
        self._closed = False
        self._has_work = anyio.Event()
        self._is_urgent = anyio.Event()  # the work must not wait for the interval
        self._has_logged_error = False

    def open(self, trial_id: str, config: dict[str, Any], logdir: str, trial: object) -> None:
        log = self._logs[trial_id] = _Log(trial_id, config, logdir, trial)
        self._enqueue(log)

    def call(self, trial_id: str, method: _Method, argument: Any) -> None:
        log = self._logs[trial_id]
        if not log.dropped:
            log.calls.append((method, argument))
            self._enqueue(log)

    def end(self, trial_id: str) -> None:
        log = self._logs.pop(trial_id)
        if not log.dropped:
            log.ended = True
            self._enqueue(log)
            self._is_urgent.set()

    def close(self) -> None:
        self._closed = True
        self._has_work.set()
        self._is_urgent.set()

    async def run(self) -> None:
        # A limiter of our own: other code may use up the threads of the default one.
        limiter = anyio.CapacityLimiter(1)
        while True:
            if not self._queue and not self._closed:
                await self._has_work.wait()
            self._has_work, self._is_urgent = anyio.Event(), anyio.Event()
            for _ in range(len(self._queue)):  # logs that are queued meanwhile are the next batch
                await anyio.lowlevel.checkpoint_if_cancelled()
                log = self._queue.popleft()
                log.queued = False
                await self._work(log, limiter)
            if not self._closed:
                with anyio.move_on_after(self._interval_s):
                    await self._is_urgent.wait()
            elif not self._queue:
                return

    @abstractmethod
    async def _work(self, log: _Log[L], limiter: anyio.CapacityLimiter) -> None:
        """Make the calls that wait for a logger."""

    def _enqueue(self, log: _Log[L]) -> None:
        if not log.queued:
            log.queued = True
            self._queue.append(log)
            self._has_work.set()

    def _build(self, log: _Log[L]) -> None:
        # Called in a worker thread, as is _ThreadQueue._make_calls. Threads are not interrupted or
        # cancelled, so every exception comes from the logger. All are caught here, since the thread's
        # future would mistake a CancelledError or StopIteration of the logger for its own.
        try:
            make_private_dirs(log.logdir)
            log.logger = self._cls(log.config, log.logdir, log.trial)
        except BaseException as exc:
            self._drop(log, "its constructor", exc)

    def _drop(self, log: _Log[L], doing: str, exc: BaseException) -> None:
        # Called in a worker thread too: the user's logging handlers may block.
        level = logging.DEBUG if self._has_logged_error else logging.ERROR
        self._has_logged_error = True
        log.logger, log.dropped = None, True
        log_dropped(self._cls, f"trial {log.trial_id}", doing, exc, level=level)


class _FileQueue(_LoggerQueue[FileLogger]):
    """The queue of loggers that only describe their writes."""

    async def _work(self, log: _Log[FileLogger], limiter: anyio.CapacityLimiter) -> None:
        # Shielded: writes that were taken from a logger and not carried out would be lost.
        with anyio.CancelScope(shield=True):
            if log.logger is None and not log.dropped:
                await anyio.to_thread.run_sync(self._build, log, limiter=limiter)
            calls, log.calls = log.calls, []
            if log.logger is not None:
                await self._write(log, log.logger, calls, limiter)

    async def _write(
        self,
        log: _Log[FileLogger],
        logger: FileLogger,
        calls: _Calls,
        limiter: anyio.CapacityLimiter,
    ) -> None:
        doing = ""
        try:
            for number, (method, argument) in enumerate(calls, 1):
                doing = method
                if method is _Method.ON_RESULT:
                    logger.add_result(argument)
                elif method is _Method.RESTART:
                    logger.add_restart(argument)
                else:
                    logger.add_config(argument)
                if number % _ROWS_PER_SLICE == 0:
                    await anyio.lowlevel.checkpoint()
        except Exception as exc:
            await anyio.to_thread.run_sync(self._drop, log, doing, exc, limiter=limiter)
        # Also after a failure, since the rows before the one that raised are valid.
        try:
            doing = "take"
            for write in logger.take():
                doing = f"writing {write.path}"
                await _carry_out(write, limiter)
        except Exception as exc:
            await anyio.to_thread.run_sync(self._drop, log, doing, exc, limiter=limiter)


class _ThreadQueue(_LoggerQueue[Logger]):
    """The queue of loggers that may block."""

    async def _work(self, log: _Log[Logger], limiter: anyio.CapacityLimiter) -> None:
        calls, log.calls = log.calls, []
        if log.dropped:
            return
        try:
            await anyio.to_thread.run_sync(
                self._make_calls, log, calls, log.ended, abandon_on_cancel=True, limiter=limiter
            )
        except anyio.get_cancelled_exc_class():
            log.dropped = True  # the abandoned thread may still be calling the logger
            raise

    def _make_calls(self, log: _Log[Logger], calls: _Calls, ended: bool) -> None:
        if log.logger is None:
            self._build(log)
        logger = log.logger
        if logger is None:
            return
        doing = ""
        try:
            for method, argument in calls:
                doing = method
                if method is _Method.ON_RESULT:
                    # A copy: a logger may pop a key of the row, which other threads read.
                    logger.on_result(copy.deepcopy(argument))
                elif method is _Method.RESTART:
                    logger.restart(copy.deepcopy(argument))
                else:
                    logger.update_config(argument)
            if ended:
                doing = "flush"
                logger.flush()
                doing = "close"
                logger.close()
        except BaseException as exc:
            self._drop(log, doing, exc)
            if doing != "close":
                with contextlib.suppress(BaseException):
                    close_dropped(logger)


def _keeps_methods(cls: type[Logger]) -> TypeGuard[type[FileLogger]]:
    """Return whether a class inherits all methods in which a FileLogger writes to disk itself."""
    return issubclass(cls, FileLogger) and all(
        getattr(cls, name) is getattr(FileLogger, name)
        for name in ("on_result", "update_config", "restart", "flush", "close")
    )


async def _carry_out(write: Write, limiter: anyio.CapacityLimiter) -> None:
    """Carry out one write: the asynchronous form of :func:`asynctune.loggers.files.carry_out`."""
    match write:
        case Append(path, text):
            await _write_text(path, "a", text)
        case Replace(path, text):
            temporary = temporary_name(path)
            try:
                await _write_text(temporary, "w", text)
                await aiofiles.os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    await aiofiles.os.unlink(temporary)
                raise
        case Rewrite(path, transform):
            # Wholly in a thread, since a transform may process a long file.
            text = await anyio.to_thread.run_sync(
                lambda: transform(read_text(path) or ""), limiter=limiter
            )
            await _carry_out(Replace(path, text), limiter)


async def _write_text(path: str, mode: Literal["a", "w"], text: str) -> None:
    async with aiofiles.open(
        path,
        mode,
        encoding=ENCODING,
        errors=ENCODING_ERRORS,
        newline="",
        opener=private_opener,
    ) as file:
        await file.write(text)
