"""The logger that passes every call to several others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from asynctune.loggers.base import Logger, close_dropped, log_dropped
from asynctune.loggers.csv import CSVLogger
from asynctune.loggers.json import JsonLogger

DEFAULT_LOGGERS: Final[tuple[type[Logger], ...]] = (JsonLogger, CSVLogger)
"""The default loggers of a run and of a stand-alone Trainable."""

_Method: TypeAlias = Literal["on_result", "update_config", "restart", "flush", "close"]


class UnifiedLogger(Logger):
    """Passes every call to several loggers, and keeps their failures apart.

    A logger that raises is dropped, with one message to the ``asynctune.loggers`` logger; the others
    continue.

    Args:
        config: The trial's configuration.
        logdir: The trial's directory.
        trial: The trial, or None outside a run.
        loggers: The classes of the loggers; None for the default ones.
    """

    def __init__(
        self,
        config: dict[str, Any],
        logdir: str | os.PathLike[str],
        trial: Any = None,
        loggers: Iterable[type[Logger]] | None = None,
    ) -> None:
        self._classes = DEFAULT_LOGGERS if loggers is None else tuple(loggers)
        super().__init__(config, logdir, trial)

    def _init(self) -> None:
        self._loggers: list[Logger] = []
        for cls in self._classes:
            try:
                self._loggers.append(cls(self.config, self.logdir, self.trial))
            except Exception as exc:
                log_dropped(cls, self.logdir, "its constructor", exc)

    def on_result(self, result: Mapping[str, Any]) -> None:
        """Pass a result row to every logger."""
        self._each("on_result", result)

    def update_config(self, config: dict[str, Any]) -> None:
        """Pass a new configuration to every logger."""
        self.config = config
        self._each("update_config", config)

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make every logger continue after the last of these rows."""
        self._each("restart", rows)

    def flush(self) -> None:
        """Flush every logger."""
        self._each("flush")

    def close(self) -> None:
        """Close every logger."""
        self._each("close")

    def _each(self, method: _Method, *args: Any) -> None:
        remaining = []
        for logger in self._loggers:
            try:
                getattr(logger, method)(*args)
            except Exception as exc:
                log_dropped(type(logger), self.logdir, method, exc)
                if method != "close":
                    close_dropped(logger)
            else:
                remaining.append(logger)
        self._loggers = remaining
