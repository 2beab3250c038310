"""The driver's side of logging: results are queued at once and written in batches.

Each logger class has a lane of its own, a queue and a task, so that one which is slow or hangs (a
tracking server that does not answer) holds up no other. Within a lane the calls for a trial keep
their order.

A :class:`~asynctune.loggers.FileLogger` formats on the event loop, in slices, and its writes go
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
    """Feeds the loggers of all trials of a run.

    The methods return at once and never touch the disk; :meth:`run` does the work. All of them
    belong to one event loop. No logger can fail the run: one that raises is dropped for that trial
    with a message to the ``asynctune.loggers`` logger, at level ERROR the first time for each class
    and at DEBUG from then on.

    Args:
        logger_classes: What each trial is logged with; a class that is listed twice counts once.
        interval_s: The shortest time between two batches of a class, in seconds. The end of a trial
            is written without waiting for it.
    """

    def __init__(self, logger_classes: Sequence[type[Logger]], *, interval_s: float = 0.2) -> None:
        self._open: set[str] = set()
        self._lanes: list[_FileLane | _ThreadLane] = [
            _FileLane(cls, interval_s) if _only_describes(cls) else _ThreadLane(cls, interval_s)
            for cls in dict.fromkeys(logger_classes)
        ]

    def open(self, trial_id: str, config: dict[str, Any], logdir: str, trial: object) -> None:
        """Begin to log a trial.

        Args:
            trial_id: The trial.
            config: Its configuration.
            logdir: Its directory, which is created if it does not exist.
            trial: What the loggers get as their ``trial``.

        Raises:
            TuneError: The trial is being logged already.
        """
        if trial_id in self._open:
            raise TuneError(f"trial {trial_id!r} is being logged already; end() it before open()")
        self._open.add(trial_id)
        for lane in self._lanes:
            lane.open(trial_id, config, logdir, trial)

    def result(self, trial_id: str, row: Row) -> None:
        """Log one result row, which must not change any more.

        Raises:
            TuneError: The trial is not being logged.
        """
        self._call(trial_id, _Method.ON_RESULT, row)

    def update_config(self, trial_id: str, config: dict[str, Any]) -> None:
        """Log that a trial goes on with another configuration.

        Raises:
            TuneError: The trial is not being logged.
        """
        self._call(trial_id, _Method.UPDATE_CONFIG, config)

    def restart(self, trial_id: str, rows: list[Row]) -> None:
        """Log that a trial goes on behind the last of these rows; others that were logged do not count.

        Raises:
            TuneError: The trial is not being logged.
        """
        self._call(trial_id, _Method.RESTART, rows)

    def end(self, trial_id: str) -> None:
        """Flush and close the loggers of a trial, if it has any."""
        if trial_id in self._open:
            self._open.remove(trial_id)
            for lane in self._lanes:
                lane.end(trial_id)

    def close(self) -> None:
        """End all trials, and let :meth:`run` return once everything is written."""
        for trial_id in tuple(self._open):
            self.end(trial_id)
        for lane in self._lanes:
            lane.close()

    async def run(self) -> None:
        """Write what is queued, until :meth:`close`.

        A cancellation takes effect between the writes of two trials. What was not written then
        stays queued, and may still be written by another ``close`` and ``run``; but a logger that
        is busy in a worker thread is abandoned there.
        """
        async with anyio.create_task_group() as tasks:
            for lane in self._lanes:
                tasks.start_soon(lane.run, name=f"logs of {lane.name}")

    def _call(self, trial_id: str, method: _Method, argument: Any) -> None:
        if trial_id not in self._open:
            raise TuneError(
                f"{method} for trial {trial_id!r}, which is not being logged; it belongs between "
                "open() and end()"
            )
        for lane in self._lanes:
            lane.call(trial_id, method, argument)


class _Method(StrEnum):
    ON_RESULT = "on_result"
    UPDATE_CONFIG = "update_config"
    RESTART = "restart"


_Calls: TypeAlias = list[tuple[_Method, Any]]


@dataclass(slots=True, eq=False)
class _Log(Generic[L]):
    """One logger of one trial, and the calls that wait for it."""

    trial_id: str
    config: dict[str, Any]
    logdir: str
    trial: object
    logger: L | None = None
    calls: _Calls = field(default_factory=list)
    queued: bool = False
    ended: bool = False
    dropped: bool = False


class _Lane(ABC, Generic[L]):
    """The queue and the task of one logger class."""

    def __init__(self, cls: type[L], interval_s: float) -> None:
        self.name = cls.__qualname__
        self._cls = cls
        self._interval_s = interval_s
        self._logs: dict[str, _Log[L]] = {}
        self._queue: deque[_Log[L]] = deque()
        self._closed = False
        self._some = anyio.Event()  # there is something to do
        self._urgent = anyio.Event()  # and it should not wait for the interval
        self._on_message = False

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
            self._urgent.set()

    def close(self) -> None:
        self._closed = True
        self._some.set()
        self._urgent.set()

    async def run(self) -> None:
        # Its own limiter: others who use up the threads of the default one cannot stop the logs.
        limiter = anyio.CapacityLimiter(1)
        while True:
            if not self._queue and not self._closed:
                await self._some.wait()
            self._some, self._urgent = anyio.Event(), anyio.Event()
            for _ in range(len(self._queue)):  # what is added meanwhile is the next batch
                await anyio.lowlevel.checkpoint_if_cancelled()
                log = self._queue.popleft()
                log.queued = False
                await self._work(log, limiter)
            if not self._closed:
                with anyio.move_on_after(self._interval_s):
                    await self._urgent.wait()
            elif not self._queue:
                return

    @abstractmethod
    async def _work(self, log: _Log[L], limiter: anyio.CapacityLimiter) -> None:
        """Make the calls that wait for a logger."""

    def _enqueue(self, log: _Log[L]) -> None:
        if not log.queued:
            log.queued = True
            self._queue.append(log)
            self._some.set()

    def _build(self, log: _Log[L]) -> None:
        # In a worker thread, as _ThreadLane._make_calls, where nobody is interrupted or cancelled:
        # whatever is raised here comes from the logger, and a CancelledError or StopIteration of
        # its own would be mistaken for something else on its way through the future.
        try:
            make_private_dirs(log.logdir)
            log.logger = self._cls(log.config, log.logdir, log.trial)
        except BaseException as exc:
            self._drop(log, "its constructor", exc)

    def _drop(self, log: _Log[L], doing: str, exc: BaseException) -> None:
        # In a worker thread, too: the handlers of the user's logging may block.
        level = logging.DEBUG if self._on_message else logging.ERROR
        self._on_message = True
        log.logger, log.dropped = None, True
        log_dropped(self._cls, f"trial {log.trial_id}", doing, exc, level=level)


class _FileLane(_Lane[FileLogger]):
    """For loggers that only describe what they would write."""

    async def _work(self, log: _Log[FileLogger], limiter: anyio.CapacityLimiter) -> None:
        # Shielded: what was taken from a logger and not written would be lost.
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
        # Also after a failure: the rows before the one that raised are sound.
        try:
            doing = "take"
            for write in logger.take():
                doing = f"writing {write.path}"
                await _carry_out(write, limiter)
        except Exception as exc:
            await anyio.to_thread.run_sync(self._drop, log, doing, exc, limiter=limiter)


class _ThreadLane(_Lane[Logger]):
    """For loggers that may do anything."""

    async def _work(self, log: _Log[Logger], limiter: anyio.CapacityLimiter) -> None:
        calls, log.calls = log.calls, []
        if log.dropped:
            return
        try:
            await anyio.to_thread.run_sync(
                self._make_calls, log, calls, log.ended, abandon_on_cancel=True, limiter=limiter
            )
        except anyio.get_cancelled_exc_class():
            log.dropped = True  # its thread may still be busy with it
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
                    # A copy, since other threads read the row: a logger that pops a key of it would
                    # break them.
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


def _only_describes(cls: type[Logger]) -> TypeGuard[type[FileLogger]]:
    """Whether a class has left alone the methods in which a FileLogger writes by itself."""
    return issubclass(cls, FileLogger) and all(
        getattr(cls, name) is getattr(FileLogger, name)
        for name in ("on_result", "update_config", "restart", "flush", "close")
    )


async def _carry_out(write: Write, limiter: anyio.CapacityLimiter) -> None:
    """The asynchronous twin of :func:`asynctune.loggers.files.carry_out`."""
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
            # In a thread as a whole: a transform may have a long file to work through.
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
