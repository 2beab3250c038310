"""Every exception of asynctune, in one tree.

::

    TuneError
    ├── ConfigError (ValueError)        an argument is wrong; nothing was started
    │   ├── NotSerializable (TypeError) something cannot travel to a worker, or into a row
    │   ├── UnsafePath                  a name would leave its directory
    │   └── SpecMismatch                a resumed experiment was given another space or metric
    ├── MetricMissing (KeyError)        a result lacks a metric that something waits for
    ├── TrialError                      a trial failed; its cause is the remote traceback
    │   ├── WorkerDied                  its process ended under it
    │   └── TrialTimeout                it ran into a limit
    ├── CheckpointCorrupt               files do not match their manifest
    ├── ExecutorError                   an executor or actor was used in a way it cannot be
    ├── ExperimentLocked                another driver runs this experiment
    ├── ExperimentCorrupt               the journal is damaged
    └── StorageError (OSError)          storage failed
        ├── StorageFull
        ├── StorageTimeout
        ├── StorageDenied
        └── Fenced                      a newer writer owns the target

    TrialStopped                        not an error: how a stop reaches a function
    ├── TrialStopIteration (StopIteration)            in plain functions
    └── TrialStopAsyncIteration (StopAsyncIteration)  in ``async def``

Each message names the culprit (argument, metric, file, trial) and says what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class TuneError(Exception):
    """The root of everything that asynctune raises."""


class ConfigError(TuneError, ValueError):
    """An argument, a space or a trainable is wrong. Raised before a worker starts."""


class NotSerializable(ConfigError, TypeError):
    """A trainable or config cannot be pickled, or a reported value is not JSON's."""


class UnsafePath(ConfigError):
    """A name or path would lead outside the directory that it belongs to."""


class SpecMismatch(ConfigError):
    """A resumed experiment was given another space, metric or mode than it began with."""


class MetricMissing(TuneError, KeyError):
    """A result lacks a metric that the run needs.

    Args:
        metric: The name that was looked for.
        found: The names that the result has.
        wanted_by: The argument that asked for it, e.g. ``"stop"``.
    """

    def __init__(self, metric: str, found: Iterable[str], wanted_by: str = "metric") -> None:
        self.metric = metric
        self.found = sorted(found)
        self.wanted_by = wanted_by
        super().__init__(metric)

    def __str__(self) -> str:
        return (
            f"{self.wanted_by} asks for {self.metric!r}, which this result does not have; "
            f"it has {', '.join(self.found) or 'no metrics'}"
        )


class TrialError(TuneError):
    """A trial failed.

    Attributes:
        trial_id: The trial, or None for an actor outside a run.
        traceback: The remote traceback as text, or None.
        failures: On the error that ``run`` raises: every failed trial's own error, by trial id.
        analysis: On the error that ``run`` raises: the :class:`ExperimentAnalysis` of the run, else None.
    """

    def __init__(
        self, message: str, *, trial_id: str | None = None, traceback: str | None = None
    ) -> None:
        super().__init__(message)
        self.trial_id = trial_id
        self.traceback = traceback
        self.failures: dict[str, TrialError] = {}
        self.analysis: Any = None


class WorkerDied(TrialError):
    """The process of a trial ended under it.

    Attributes:
        signal: The number of the signal that killed it, or None.
        exitcode: Its exit code, or None.
        oom: Whether it was killed and the kernel's out-of-memory killer struck during its life.
        peak_rss: The most memory that it held at once, in bytes, or None if that is unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        trial_id: str | None = None,
        signal: int | None = None,
        exitcode: int | None = None,
        oom: bool = False,
        peak_rss: int | None = None,
    ) -> None:
        super().__init__(message, trial_id=trial_id)
        self.signal = signal
        self.exitcode = exitcode
        self.oom = oom
        self.peak_rss = peak_rss


class TrialTimeout(TrialError):
    """A trial ran into ``step_timeout_s``, ``trial_timeout_s`` or the limit of a hook."""


class CheckpointCorrupt(TuneError):
    """The files of a checkpoint are not those that its manifest lists."""


class ExecutorError(TuneError):
    """An executor or an actor was used closed, from another event loop, or where it cannot run."""


class ExperimentLocked(TuneError):
    """Another driver is running this experiment.

    Attributes:
        pid: Its process, or None if that is unknown.
        host: Its machine, likewise.
    """

    def __init__(self, message: str, *, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.host = host


class ExperimentCorrupt(TuneError):
    """The journal of an experiment is damaged.

    Attributes:
        offset: The byte at which the first record that is no good begins, or None.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class StorageError(TuneError, OSError):
    """Storage failed.

    Attributes:
        analysis: On an error that ends a run: the :class:`ExperimentAnalysis` of the run, else None.
    """

    analysis: Any = None


class StorageFull(StorageError):
    """There is no room left."""


class StorageTimeout(StorageError):
    """Storage did not answer in time."""


class StorageDenied(StorageError):
    """Storage refused the credentials."""


class Fenced(StorageError):
    """A newer writer owns the target."""


class RemoteError(Exception):
    """The text of an exception that was raised in a worker; the cause of a :class:`TrialError`."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0]).rstrip()


class TrialStopped(Exception):
    """The trial was told to stop. Not a :class:`TuneError`, since nothing is wrong.

    It is raised by the report call that is pending when the stop is ordered, and by each later one.
    Code that catches it to clean up should let it go on.
    """


class TrialStopIteration(TrialStopped, StopIteration):
    """How a stop reaches a plain function."""


class TrialStopAsyncIteration(TrialStopped, StopAsyncIteration):
    """How a stop reaches a coroutine, which may not raise StopIteration (PEP 479)."""
