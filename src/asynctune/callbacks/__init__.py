"""Callbacks: objects that follow the journal of a run.

:class:`Callback` is the base for your own; the other names are the types of what its methods get. All names
are loaded when they are first used, so that the import of one callback loads no other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.callbacks.base import Callback
    from asynctune.experiment.events import Event, Exploited
    from asynctune.experiment.trial import CheckpointRef, Trial
    from asynctune.result import Row

_MODULE_OF = {
    "Callback": "callbacks.base",
    "CheckpointRef": "experiment.trial",
    "Event": "experiment.events",
    "Exploited": "experiment.events",
    "Row": "result",
    "Trial": "experiment.trial",
}

__all__ = [
    "Callback",
    "CheckpointRef",
    "Event",
    "Exploited",
    "Row",
    "Trial",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"asynctune.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
