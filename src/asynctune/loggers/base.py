"""The interface of a logger, and what becomes of one that raises."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

_log = logging.getLogger("asynctune.loggers")


class Logger:
    """Base class of all loggers: receives the results of one trial.

    Subclasses override :meth:`on_result` and, as needed, the other methods. Calls come one at a
    time, from one thread at a time, though not always from the same thread.

    Args:
        config: The trial's configuration.
        logdir: The trial's directory.
        trial: The trial, or None outside a run.

    Attributes:
        config: The trial's current configuration.
        logdir: The trial's directory.
        trial: The trial, or None outside a run.
    """

    def __init__(
        self, config: dict[str, Any], logdir: str | os.PathLike[str], trial: Any = None
    ) -> None:
        self.config = config
        self.logdir = os.fspath(logdir)
        self.trial = trial
        self._init()

    def _init(self) -> None:
        """Set up; called at the end of the constructor."""

    def on_result(self, result: Mapping[str, Any]) -> None:
        """Log one result row, which the logger may not change."""
        raise NotImplementedError(f"{type(self).__qualname__} must override on_result(result)")

    def update_config(self, config: dict[str, Any]) -> None:
        """Take note of a configuration that replaces the current one."""
        self.config = config

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The trial goes on behind the last of these rows, after a failure or a resume.

        By default nothing: a tracker that only ever adds goes on adding. A logger whose log can be
        rewritten leaves it as if it had been given these rows and no others.
        """

    def flush(self) -> None:
        """Write out whatever is still buffered."""

    def close(self) -> None:
        """Release what the logger holds; the last call that it receives."""


class NoopLogger(Logger):
    """Logs nothing."""

    def on_result(self, result: Mapping[str, Any]) -> None:
        """Do nothing."""


def log_dropped(
    cls: type[Logger],
    where: str,
    doing: str,
    exc: BaseException,
    *,
    level: int = logging.ERROR,
) -> None:
    """Log that a logger raised and is used no more.

    Args:
        cls: The logger's class.
        where: Which of its instances: the trial or its directory.
        doing: What raised.
        exc: What it raised; the message carries its traceback.
        level: The level of the message.
    """
    text = "%s of %s is dropped, since %s raised %s; the other loggers go on"
    name = cls.__qualname__
    _log.log(level, text, name, where, doing, type(exc).__qualname__, exc_info=exc)


def close_dropped(logger: Logger) -> None:
    """Let a logger that raised release what it holds; a second failure is of little interest."""
    try:
        logger.close()
    except Exception:
        _log.debug("%s could not be closed either", type(logger).__qualname__, exc_info=True)
