"""Log records from the event loop: handlers may block, so they run in a thread."""

from __future__ import annotations

import logging

from asynctune.threads import run_at_once

_log = logging.getLogger("asynctune")


async def warn(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a warning, with the traceback of an exception if one is given."""
    await run_at_once(lambda: _log.warning(message, *args, exc_info=error))
