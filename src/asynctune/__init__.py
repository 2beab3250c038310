"""asynctune: await hyperparameter tuning. ``import asynctune as tune``.

The public names are loaded when they are first used (PEP 562): worker processes import this package
too, and need little of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune import executors, loggers, schedulers, simulate, storage, suggest, track, utils
    from asynctune._version import __version__ as __version__
    from asynctune.analysis import Analysis, ExperimentAnalysis
    from asynctune.callback import Callback
    from asynctune.durable import DurableTrainable
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
    from asynctune.experiment import Experiment
    from asynctune.export import ExportFormat
    from asynctune.function import wrap_function
    from asynctune.plateau import EarlyStopping, TrialPlateauStopper
    from asynctune.reporter import StatusReporter
    from asynctune.resources import Resources
    from asynctune.retry import Retry
    from asynctune.secret import Secret
    from asynctune.session import get_checkpoint, report
    from asynctune.space import (
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
    from asynctune.status import Status
    from asynctune.stopper import Stopper
    from asynctune.stoppers import CombinedStopper, MaximumIterationStopper, TimeoutStopper
    from asynctune.trainable import Trainable
    from asynctune.trial import Trial
    from asynctune.tuning import run, start

_MODULE_OF = {
    "Analysis": "analysis",
    "Callback": "callback",
    "CheckpointCorrupt": "errors",
    "CombinedStopper": "stoppers",
    "ConfigError": "errors",
    "DurableTrainable": "durable",
    "EarlyStopping": "plateau",
    "ExecutorError": "errors",
    "Experiment": "experiment",
    "ExperimentAnalysis": "analysis",
    "ExperimentCorrupt": "errors",
    "ExperimentLocked": "errors",
    "ExportFormat": "export",
    "Fenced": "errors",
    "MaximumIterationStopper": "stoppers",
    "MetricMissing": "errors",
    "NotSerializable": "errors",
    "Resources": "resources",
    "Retry": "retry",
    "Secret": "secret",
    "SpecMismatch": "errors",
    "Status": "status",
    "StatusReporter": "reporter",
    "Stopper": "stopper",
    "StorageDenied": "errors",
    "StorageError": "errors",
    "StorageFull": "errors",
    "StorageTimeout": "errors",
    "TimeoutStopper": "stoppers",
    "Trainable": "trainable",
    "Trial": "trial",
    "TrialError": "errors",
    "TrialPlateauStopper": "plateau",
    "TrialStopped": "errors",
    "TrialTimeout": "errors",
    "TuneError": "errors",
    "UnsafePath": "errors",
    "WorkerDied": "errors",
    "__version__": "_version",
    "choice": "space",
    "get_checkpoint": "session",
    "grid_search": "space",
    "lograndint": "space",
    "loguniform": "space",
    "qlograndint": "space",
    "qloguniform": "space",
    "qrandint": "space",
    "qrandn": "space",
    "quniform": "space",
    "randint": "space",
    "randn": "space",
    "report": "session",
    "run": "tuning",
    "sample_from": "space",
    "start": "tuning",
    "uniform": "space",
    "wrap_function": "function",
}
_SUBPACKAGES = (
    "executors", "loggers", "schedulers", "simulate", "storage", "suggest", "track", "utils",
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
