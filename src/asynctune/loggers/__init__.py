"""Loggers, which write the result rows of one trial to files or elsewhere.

A run makes one instance of each logger class for each trial. :class:`Logger` is the base class of all
loggers, :class:`FileLogger` of those that only write text files. The names are loaded on first use, so a
worker loads the base class alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.loggers.base import Logger, NoopLogger
    from asynctune.loggers.csv import CSVLogger
    from asynctune.loggers.files import Append, FileLogger, Replace, Rewrite, Write
    from asynctune.loggers.json import JsonLogger
    from asynctune.loggers.unified import DEFAULT_LOGGERS, UnifiedLogger

_MODULE_OF = {
    "Append": "files",
    "CSVLogger": "csv",
    "DEFAULT_LOGGERS": "unified",
    "FileLogger": "files",
    "JsonLogger": "json",
    "Logger": "base",
    "NoopLogger": "base",
    "Replace": "files",
    "Rewrite": "files",
    "UnifiedLogger": "unified",
    "Write": "files",
}

__all__ = [
    "DEFAULT_LOGGERS",
    "Append",
    "CSVLogger",
    "FileLogger",
    "JsonLogger",
    "Logger",
    "NoopLogger",
    "Replace",
    "Rewrite",
    "UnifiedLogger",
    "Write",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
