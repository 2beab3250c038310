"""Sessions: how code that trains reports metrics to its trial, and reads the trial's id and directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Generator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from asynctune import result as _result
from asynctune.errors import TuneError
from asynctune.trainable.context import new_standalone_dir

Checkpoint = dict[str, Any] | str
"""The checkpoint of a function: a dict, or the path of a directory."""


class Session(Protocol):
    """The running trial, as seen by the functions of :mod:`asynctune.track`."""

    @property
    def trial_id(self) -> str | None: ...
    @property
    def trial_name(self) -> str | None: ...
    @property
    def logdir(self) -> str | None: ...
    @property
    def checkpoint(self) -> Checkpoint | None: ...
    def __call__(self, /, **metrics: Any) -> Awaitable[None] | None: ...


session: ContextVar[Session | None] = ContextVar("asynctune_session", default=None)
"""The session of the running trial; concurrent trials in one process never share a session."""


class ProcessSession:
    """The session of a worker process, which runs one trial at a time.

    Threads of the user's code do not inherit context variables, but in a worker process they can only
    belong to one trial.
    """

    current: Session | None = None
    """The session of the worker's trial; None between trials and in other processes."""


def log(**metrics: Any) -> Awaitable[None] | None:
    """Report metrics of the running trial.

    In a plain function ``log`` blocks until the scheduler has decided. In ``async def``, ``log`` returns
    an awaitable that does the same without blocking the loop. The awaitable must be awaited.

    Args:
        **metrics: The metrics; each of them can be used for stopping and optimisation. ``checkpoint`` is
            a dict or the path of a directory, from which the trial continues after a pause, a retry or
            a resume.

    Raises:
        TrialStopped: The trial was stopped: a ``StopIteration``, in ``async def`` a
            ``StopAsyncIteration``.
    """
    return _current()(**metrics)


def report(metrics: Mapping[str, Any] | None = None, /, **more: Any) -> Awaitable[None] | None:
    """Report metrics of the running trial, as a dict, as keywords, or both; see :func:`log`.

    Args:
        metrics: A dict of metrics.
        **more: More metrics; a keyword replaces the entry of the same name.

    Raises:
        TypeError: ``metrics`` is not a dict.
        TrialStopped: The trial was stopped, as for :func:`log`.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"metrics of report() must be a dict, got {metrics!r}; or pass keywords")
    # Parameters are positional-only, so that a metric may have any name. Number keys become strings, as
    # in JSON.
    named = {
        key if isinstance(key, str) else str(key): value for key, value in (metrics or {}).items()
    }
    return _current()(**(named | more))


def trial_dir() -> str:
    """Return the directory of the trial's results."""
    directory = _current().logdir
    assert directory is not None, "a session of a run always has a directory"
    return directory


def trial_name() -> str | None:
    """Return the name of the trial; None for a reporter that the caller built without a name."""
    return _current().trial_name


def trial_id() -> str | None:
    """Return the id of the trial; None for a reporter that the caller built without an id."""
    return _current().trial_id


def get_checkpoint() -> Checkpoint | None:
    """Return the checkpoint to begin from: a dict or the path of a directory; None if there is none."""
    return _current().checkpoint


def _current() -> Session:
    current = session.get() or ProcessSession.current
    if current is None:
        current = Standalone()
        session.set(current)
    return current


class Done:
    """An awaitable that returns at once."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # unreachable; makes this function a generator, so that __await__ returns an iterator


class Standalone:
    """The session of code outside a run: it has its own trial directory, and is never stopped."""

    checkpoint: Checkpoint | None = None

    def __init__(self) -> None:
        from asynctune.loggers.unified import UnifiedLogger  # late: workers write no log files

        self.trial_id = uuid.uuid4().hex[:8]
        self.trial_name = self.trial_id
        self.logdir = os.path.join(new_standalone_dir("standalone"), "")
        self._iteration = 0
        self._logger = UnifiedLogger({_result.TRIAL_ID: self.trial_id}, self.logdir)

    def __call__(self, /, **metrics: Any) -> Awaitable[None]:
        metrics.pop("checkpoint", None)
        self._iteration += 1
        row = _result.normalise(metrics)
        row.setdefault(_result.TRAINING_ITERATION, self._iteration)
        row[_result.TRIAL_ID] = self.trial_id
        self._logger.on_result(row)
        self._logger.flush()
        return Done()


class NoReports:
    """The session of code that returns or yields its results; a call of ``report`` is an error.

    Args:
        trial_id: The id of the trial.
        trial_name: The name of the trial.
        logdir: The directory of the trial.
        checkpoint: The checkpoint to begin from.
        instead: The way this code gives its results, for the error message.
    """

    def __init__(
        self,
        trial_id: str | None,
        trial_name: str | None,
        logdir: str,
        checkpoint: Checkpoint | None = None,
        *,
        instead: str,
    ) -> None:
        self.trial_id = trial_id
        self.trial_name = trial_name
        self.logdir = logdir
        self.checkpoint = checkpoint
        self._instead = instead

    def __call__(self, /, **metrics: Any) -> None:
        raise TuneError(f"report() and track.log() cannot be called in this trial: {self._instead}")
