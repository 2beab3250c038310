"""Callbacks: objects that follow the journal of a run.

:class:`Callback` is the base for your own; the other names are the types of the arguments of its methods:
:data:`Event` is any of the events. All names are loaded when they are first used, so that the import of one
callback loads no other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.callbacks.base import Callback
    from asynctune.experiment.events import (
        CheckpointDropped,
        Checkpointed,
        CheckpointRejected,
        Event,
        Exploited,
        Reported,
        RunEnded,
        RunStarted,
        TrialAdded,
        TrialEnded,
        TrialFailed,
        TrialPaused,
        TrialReopened,
        TrialResumed,
        TrialStarted,
    )
    from asynctune.experiment.trial import CheckpointRef, Trial
    from asynctune.result import Row

_MODULE_OF = {
    "Callback": "callbacks.base",
    "CheckpointDropped": "experiment.events",
    "CheckpointRef": "experiment.trial",
    "CheckpointRejected": "experiment.events",
    "Checkpointed": "experiment.events",
    "Event": "experiment.events",
    "Exploited": "experiment.events",
    "Reported": "experiment.events",
    "Row": "result",
    "RunEnded": "experiment.events",
    "RunStarted": "experiment.events",
    "Trial": "experiment.trial",
    "TrialAdded": "experiment.events",
    "TrialEnded": "experiment.events",
    "TrialFailed": "experiment.events",
    "TrialPaused": "experiment.events",
    "TrialReopened": "experiment.events",
    "TrialResumed": "experiment.events",
    "TrialStarted": "experiment.events",
}

__all__ = [
    "Callback",
    "CheckpointDropped",
    "CheckpointRef",
    "CheckpointRejected",
    "Checkpointed",
    "Event",
    "Exploited",
    "Reported",
    "Row",
    "RunEnded",
    "RunStarted",
    "Trial",
    "TrialAdded",
    "TrialEnded",
    "TrialFailed",
    "TrialPaused",
    "TrialReopened",
    "TrialResumed",
    "TrialStarted",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"asynctune.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
