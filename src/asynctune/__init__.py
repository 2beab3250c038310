"""asynctune: await hyperparameter tuning. ``import asynctune as tune``.

The public names are loaded when they are first used (PEP 562): worker processes import this package
too, and need little of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune import executors, loggers, schedulers, simulate, storage, suggest, track, utils
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
    from asynctune.function_runner import StatusReporter, wrap_function
    from asynctune.resources import Resources
    from asynctune.retry import Retry
    from asynctune.secret import Secret
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
    from asynctune.stopper import Stopper
    from asynctune.stoppers import (
        CombinedStopper,
        EarlyStopping,
        MaximumIterationStopper,
        TimeoutStopper,
        TrialPlateauStopper,
    )
    from asynctune.track import get_checkpoint, report
    from asynctune.trainable import Trainable
    from asynctune.trial import Status, Trial
    from asynctune.tuning import run, start

__version__ = "0.1.0"

_WHERE = {
    "analysis": ("Analysis", "ExperimentAnalysis"),
    "callback": ("Callback",),
    "durable": ("DurableTrainable",),
    "errors": (
        "CheckpointCorrupt",
        "ConfigError",
        "ExecutorError",
        "ExperimentCorrupt",
        "ExperimentLocked",
        "Fenced",
        "MetricMissing",
        "NotSerializable",
        "SpecMismatch",
        "StorageDenied",
        "StorageError",
        "StorageFull",
        "StorageTimeout",
        "TrialError",
        "TrialStopped",
        "TrialTimeout",
        "TuneError",
        "UnsafePath",
        "WorkerDied",
    ),
    "experiment": ("Experiment",),
    "export": ("ExportFormat",),
    "function_runner": ("StatusReporter", "wrap_function"),
    "resources": ("Resources",),
    "retry": ("Retry",),
    "secret": ("Secret",),
    "space": (
        "choice",
        "grid_search",
        "loguniform",
        "lograndint",
        "qlograndint",
        "qloguniform",
        "qrandint",
        "qrandn",
        "quniform",
        "randint",
        "randn",
        "sample_from",
        "uniform",
    ),
    "stopper": ("Stopper",),
    "stoppers": (
        "CombinedStopper",
        "EarlyStopping",
        "MaximumIterationStopper",
        "TimeoutStopper",
        "TrialPlateauStopper",
    ),
    "track": ("get_checkpoint", "report"),
    "trainable": ("Trainable",),
    "trial": ("Status", "Trial"),
    # Not a module called run: importing that would put it in the place of the function.
    "tuning": ("run", "start"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
_SUBPACKAGES = (
    "executors", "loggers", "schedulers", "simulate", "storage", "suggest", "track", "utils",
)  # fmt: skip

__all__ = sorted([*_MODULE_OF, *_SUBPACKAGES])


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
