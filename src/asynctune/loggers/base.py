"""The interface of a logger, and the removal of a logger that raises."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

_log = logging.getLogger("asynctune.loggers")


class Logger:
    """Base class of all loggers. A logger receives the results of one trial.

    Subclasses override :meth:`on_result` and, as needed, the other methods. The constructor ends with a
    call of ``_init()``, the place to open files or connections. The run makes one call at a time, though
    not always from the same thread. A resumed run makes a new instance for the same directory.

    Args:
        config: The trial's configuration.
        logdir: The trial's directory. ``_init()`` must make a relative path absolute, since a trainable may
            change the working directory later.
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
        """Log one result row, which the logger must not change."""
        raise NotImplementedError(f"{type(self).__qualname__} must override on_result(result)")

    def update_config(self, config: dict[str, Any]) -> None:
        """Replace the current configuration."""
        self.config = config

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Continue after the last of these rows, following a failure or a resume.

        The default does nothing, for trackers that can only append. A logger that can rewrite its log
        rewrites it to hold these rows and no others.

        Args:
            rows: The rows of the trial up to the point from which it continues.
        """

    def flush(self) -> None:
        """Write all buffered data."""

    def close(self) -> None:
        """Release the resources of the logger. The run makes no call after this one."""


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
    """Log that a logger raised and is no longer used.

    Args:
        cls: The class of the logger.
        where: The trial of the logger, or the directory of the trial.
        doing: The name of the method that raised.
        exc: The exception, whose traceback is part of the message.
        level: The level of the message.
    """
    text = "%s of %s is dropped, since %s raised %s; the other loggers go on"
    name = cls.__qualname__
    _log.log(level, text, name, where, doing, type(exc).__qualname__, exc_info=exc)


def close_dropped(logger: Logger) -> None:
    """Close a logger that raised. A second exception is logged at the debug level only."""
    try:
        logger.close()
    except Exception:
        _log.debug("%s could not be closed either", type(logger).__qualname__, exc_info=True)
