"""asynctune: await hyperparameter tuning. ``import asynctune as tune``.

The public names are loaded on first use (PEP 562), since worker processes import this package too and need
only a small part of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune import (
        callbacks,
        executors,
        loggers,
        schedulers,
        simulate,
        storage,
        suggest,
        track,
        utils,
    )
    from asynctune._version import __version__ as __version__
    from asynctune.callbacks.base import Callback
    from asynctune.errors import (
        CheckpointCorrupt,
        ConfigError,
        ExecutorError,
        ExperimentCorrupt,
        ExperimentLocked,
        Fenced,
        MetricMissing,
        NotSerializable,
        SpecMismatch,
        StorageDenied,
        StorageError,
        StorageFull,
        StorageTimeout,
        TrialError,
        TrialStopped,
        TrialTimeout,
        TuneError,
        UnsafePath,
        WorkerDied,
    )
    from asynctune.experiment.analysis import Analysis, ExperimentAnalysis
    from asynctune.experiment.status import Status
    from asynctune.experiment.trial import Trial
    from asynctune.resources import Resources
    from asynctune.runner.api import run, start
    from asynctune.runner.handle import Experiment
    from asynctune.runner.plan.retry import Retry
    from asynctune.schedulers.stoppers.base import Stopper
    from asynctune.schedulers.stoppers.limits import (
        CombinedStopper,
        MaximumIterationStopper,
        TimeoutStopper,
    )
    from asynctune.schedulers.stoppers.plateau import EarlyStopping, TrialPlateauStopper
    from asynctune.secret import Secret
    from asynctune.space.domains import (
        choice,
        grid_search,
        lograndint,
        loguniform,
        qlograndint,
        qloguniform,
        qrandint,
        qrandn,
        quniform,
        randint,
        randn,
        sample_from,
        uniform,
    )
    from asynctune.trainable.base import Trainable
    from asynctune.trainable.durable import DurableTrainable
    from asynctune.trainable.export import ExportFormat
    from asynctune.trainable.function import wrap_function
    from asynctune.trainable.reporter import StatusReporter
    from asynctune.trainable.session import get_checkpoint, report

_MODULE_OF = {
    "Analysis": "experiment.analysis",
    "Callback": "callbacks.base",
    "CheckpointCorrupt": "errors",
    "CombinedStopper": "schedulers.stoppers.limits",
    "ConfigError": "errors",
    "DurableTrainable": "trainable.durable",
    "EarlyStopping": "schedulers.stoppers.plateau",
    "ExecutorError": "errors",
    "Experiment": "runner.handle",
    "ExperimentAnalysis": "experiment.analysis",
    "ExperimentCorrupt": "errors",
    "ExperimentLocked": "errors",
    "ExportFormat": "trainable.export",
    "Fenced": "errors",
    "MaximumIterationStopper": "schedulers.stoppers.limits",
    "MetricMissing": "errors",
    "NotSerializable": "errors",
    "Resources": "resources",
    "Retry": "runner.plan.retry",
    "Secret": "secret",
    "SpecMismatch": "errors",
    "Status": "experiment.status",
    "StatusReporter": "trainable.reporter",
    "Stopper": "schedulers.stoppers.base",
    "StorageDenied": "errors",
    "StorageError": "errors",
    "StorageFull": "errors",
    "StorageTimeout": "errors",
    "TimeoutStopper": "schedulers.stoppers.limits",
    "Trainable": "trainable.base",
    "Trial": "experiment.trial",
    "TrialError": "errors",
    "TrialPlateauStopper": "schedulers.stoppers.plateau",
    "TrialStopped": "errors",
    "TrialTimeout": "errors",
    "TuneError": "errors",
    "UnsafePath": "errors",
    "WorkerDied": "errors",
    "__version__": "_version",
    "choice": "space.domains",
    "get_checkpoint": "trainable.session",
    "grid_search": "space.domains",
    "lograndint": "space.domains",
    "loguniform": "space.domains",
    "qlograndint": "space.domains",
    "qloguniform": "space.domains",
    "qrandint": "space.domains",
    "qrandn": "space.domains",
    "quniform": "space.domains",
    "randint": "space.domains",
    "randn": "space.domains",
    "report": "trainable.session",
    "run": "runner.api",
    "sample_from": "space.domains",
    "start": "runner.api",
    "uniform": "space.domains",
    "wrap_function": "trainable.function",
}
_SUBPACKAGES = (
    "callbacks", "executors", "loggers", "schedulers", "simulate", "storage", "suggest", "track", "utils",
)  # fmt: skip

__all__ = [
    "Analysis",
    "Callback",
    "CheckpointCorrupt",
    "CombinedStopper",
    "ConfigError",
    "DurableTrainable",
    "EarlyStopping",
    "ExecutorError",
    "Experiment",
    "ExperimentAnalysis",
    "ExperimentCorrupt",
    "ExperimentLocked",
    "ExportFormat",
    "Fenced",
    "MaximumIterationStopper",
    "MetricMissing",
    "NotSerializable",
    "Resources",
    "Retry",
    "Secret",
    "SpecMismatch",
    "Status",
    "StatusReporter",
    "Stopper",
    "StorageDenied",
    "StorageError",
    "StorageFull",
    "StorageTimeout",
    "TimeoutStopper",
    "Trainable",
    "Trial",
    "TrialError",
    "TrialPlateauStopper",
    "TrialStopped",
    "TrialTimeout",
    "TuneError",
    "UnsafePath",
    "WorkerDied",
    "callbacks",
    "choice",
    "executors",
    "get_checkpoint",
    "grid_search",
    "loggers",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "report",
    "run",
    "sample_from",
    "schedulers",
    "simulate",
    "start",
    "storage",
    "suggest",
    "track",
    "uniform",
    "utils",
    "wrap_function",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"asynctune.{_MODULE_OF[name]}"), name)
    elif name in _SUBPACKAGES:
        return importlib.import_module(f"asynctune.{name}")
    else:
        raise AttributeError(f"module 'asynctune' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
