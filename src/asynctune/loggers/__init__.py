"""Loggers: what happens to each result row of a trial.

A logger is a class; a run makes one instance of it for each trial. :class:`Logger` is the base for
your own, :class:`FileLogger` the base for those that only write text files.
"""

from __future__ import annotations

from typing import Final

from asynctune.loggers.base import Logger, NoopLogger, UnifiedLogger
from asynctune.loggers.csv import CSVLogger
from asynctune.loggers.files import FileLogger
from asynctune.loggers.json import JsonLogger

DEFAULT_LOGGERS: Final[tuple[type[Logger], ...]] = (JsonLogger, CSVLogger)
"""What a run and a stand-alone Trainable log with when nothing else was asked for."""

__all__ = [
    "DEFAULT_LOGGERS",
    "CSVLogger",
    "FileLogger",
    "JsonLogger",
    "Logger",
    "NoopLogger",
    "UnifiedLogger",
]
