"""All exceptions of asynctune, in one tree.

::

    TuneError
    ├── ConfigError (ValueError)        an argument is wrong; nothing was started
    │   ├── NotSerializable (TypeError) a value cannot be sent to a worker, or stored in a row
    │   ├── UnsafePath                  a name leads outside its directory
    │   └── SpecMismatch                a resume has another space or metric than the experiment
    ├── MetricMissing (KeyError)        a result lacks a metric that the run needs
    ├── TrialError                      a trial failed; its cause is the remote traceback
    │   ├── WorkerDied                  the process of the trial ended
    │   └── TrialTimeout                the trial exceeded a time limit
    ├── CheckpointCorrupt               files do not match their manifest
    ├── ExecutorError                   an executor or actor was used while closed, or on another loop
    ├── ExperimentLocked                another driver runs this experiment
    ├── ExperimentCorrupt               the journal is damaged
    └── StorageError (OSError)          storage failed
        ├── StorageFull                 no space is left
        ├── StorageTimeout              storage did not answer in time
        ├── StorageDenied               storage refused the credentials
        └── Fenced                      a newer writer owns the target

    TrialStopped                        no error: the exception that stops a function
    ├── TrialStopIteration (StopIteration)            in plain functions
    └── TrialStopAsyncIteration (StopAsyncIteration)  in ``async def``

Each message names the culprit (argument, metric, file or trial) and a correct alternative.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class TuneError(Exception):
    """The base class of all errors of asynctune.

    Attributes:
        analysis: On an error that ends a run: the :class:`ExperimentAnalysis` of the run, else None. An
            exception of another class that ends a run has the attribute as well.
    """

    analysis: Any = None


class ConfigError(TuneError, ValueError):
    """An argument, a space or a trainable is wrong. Raised before a worker starts."""


class NotSerializable(ConfigError, TypeError):
    """A trainable or config cannot be pickled, or JSON cannot hold a reported value."""


class UnsafePath(ConfigError):
    """A name or path leads outside the directory that it belongs to."""


class SpecMismatch(ConfigError):
    """A resume has another space, metric or mode than the experiment began with."""


class MetricMissing(TuneError, KeyError):
    """A result lacks a metric that the run needs.

    Args:
        metric: The name of the missing metric.
        found: The names of the metrics of the result.
        wanted_by: The argument that names the metric, e.g. ``"stop"``.
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
        trial_id: The id of the trial, or None for an actor outside a run.
        traceback: The remote traceback as text, or None.
        failures: The error of each failed trial, by trial id, on the error that ``run`` raises.
    """

    def __init__(
        self, message: str, *, trial_id: str | None = None, traceback: str | None = None
    ) -> None:
        super().__init__(message)
        self.trial_id = trial_id
        self.traceback = traceback
        self.failures: dict[str, TrialError] = {}


class WorkerDied(TrialError):
    """The process of a trial ended while the trial was running.

    Attributes:
        signal: The number of the signal that killed the process, or None.
        exitcode: The exit code of the process, or None.
        oom: Whether the process was killed, and the kernel's out-of-memory killer struck in its lifetime.
        peak_rss: The peak resident memory of the process in bytes, or None if unknown.
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
    """A trial exceeded ``step_timeout_s``, ``trial_timeout_s`` or the time limit of a hook."""


class CheckpointCorrupt(TuneError):
    """The files of a checkpoint differ from those that its manifest lists."""


class ExecutorError(TuneError):
    """An executor or actor was used while closed, from another event loop, or where it cannot run."""


class ExperimentLocked(TuneError):
    """Another driver is running this experiment.

    Attributes:
        pid: The process id of the other driver, or None if unknown.
        host: The host name of the other driver, or None if unknown.
    """

    def __init__(self, message: str, *, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.host = host


class ExperimentCorrupt(TuneError):
    """The journal of an experiment is damaged.

    Attributes:
        offset: The byte at which the first damaged record begins, or None.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class StorageError(TuneError, OSError):
    """Storage failed."""


class StorageFull(StorageError):
    """Storage has no space left."""


class StorageTimeout(StorageError):
    """Storage did not answer in time."""


class StorageDenied(StorageError):
    """Storage refused the credentials."""


class Fenced(StorageError):
    """A newer writer owns the target."""


class RemoteError(Exception):
    """The text and traceback of an exception in a worker; the cause of a :class:`TrialError`."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0]).rstrip()


class TrialStopped(Exception):
    """The run has stopped the trial. No :class:`TuneError`, since nothing is wrong.

    The pending report call raises this exception, and so does each later one. Code that catches the
    exception to clean up should raise it again.
    """


class TrialStopIteration(TrialStopped, StopIteration):
    """The stop of a plain function."""


class TrialStopAsyncIteration(TrialStopped, StopAsyncIteration):
    """The stop of a coroutine, which may not raise StopIteration (PEP 479)."""
