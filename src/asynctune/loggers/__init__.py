"""Loggers: what formats the result rows of one trial into files.

A run makes one instance of each logger class for each trial. :class:`Logger` is the base for your own,
:class:`FileLogger` the base for those that only write text files. The names are loaded when they are
first used: a worker loads the base class alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.loggers.base import Logger, NoopLogger
    from asynctune.loggers.csv import CSVLogger
    from asynctune.loggers.files import FileLogger
    from asynctune.loggers.json import JsonLogger
    from asynctune.loggers.unified import DEFAULT_LOGGERS, UnifiedLogger

_MODULE_OF = {
    "CSVLogger": "csv",
    "DEFAULT_LOGGERS": "unified",
    "FileLogger": "files",
    "JsonLogger": "json",
    "Logger": "base",
    "NoopLogger": "base",
    "UnifiedLogger": "unified",
}

__all__ = [
    "DEFAULT_LOGGERS",
    "CSVLogger",
    "FileLogger",
    "JsonLogger",
    "Logger",
    "NoopLogger",
    "UnifiedLogger",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
