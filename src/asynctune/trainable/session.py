"""What a function reports through: the session of the trial that it runs in."""

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
"""What a function checkpoints: a dict, or the path of a directory."""


class Session(Protocol):
    """What reporting needs to know of the trial that it is called in."""

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
"""That of the trial which runs here; several trials in one process never share one."""


class ProcessSession:
    """The session of a process that holds one trial at a time.

    Threads that the user's code starts do not inherit context variables; in a worker process there is
    only one trial that they can mean. Only the worker's main loop sets it.
    """

    current: Session | None = None


def log(**metrics: Any) -> Awaitable[None] | None:
    """Report metrics of the running trial.

    In a plain function this blocks until it was decided how to go on. In ``async def`` it returns an
    awaitable that does the same without blocking its loop, and that must be awaited.

    Args:
        **metrics: Any of these can be used for stopping and optimisation. ``checkpoint`` is a dict or
            directory to begin from when the trial is paused, retried or resumed.

    Raises:
        TrialStopped: The trial was told to stop: a ``StopIteration``, in ``async def`` its async twin.
    """
    return _current()(**metrics)


def report(metrics: Mapping[str, Any] | None = None, /, **more: Any) -> Awaitable[None] | None:
    """Report metrics of the running trial, as a dict, as keywords, or both; see :func:`log`."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"report() was given {metrics!r}; a dict of metrics or keywords are wanted")
    # Through the session itself: a metric may have any name, and numbers are keys of JSON's, too.
    named = {
        key if isinstance(key, str) else str(key): value for key, value in (metrics or {}).items()
    }
    return _current()(**(named | more))


def trial_dir() -> str:
    """Return the directory where the results of the trial are saved."""
    directory = _current().logdir
    assert directory is not None, "a session of a run always has a directory"
    return directory


def trial_name() -> str | None:
    """Return the name of the trial; None for a reporter that was built by hand without one."""
    return _current().trial_name


def trial_id() -> str | None:
    """Return the id of the trial; None for a reporter that was built by hand without one."""
    return _current().trial_id


def get_checkpoint() -> Checkpoint | None:
    """Return the checkpoint to begin from (a dict, or the path of a directory), None at first."""
    return _current().checkpoint


def _current() -> Session:
    found = session.get() or ProcessSession.current
    if found is None:
        found = Standalone()
        session.set(found)
    return found


class Done:
    """An awaitable that has nothing to wait for."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Standalone:
    """The session of code that runs outside a run: a trial directory of its own, and no decisions."""

    checkpoint: Checkpoint | None = None

    def __init__(self) -> None:
        from asynctune.loggers.unified import UnifiedLogger  # a worker needs no logger

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
    """The session of code that cannot report: it knows its trial, and says what to do instead."""

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
        raise TuneError(f"report() and track.log() do not work here: {self._instead}")
