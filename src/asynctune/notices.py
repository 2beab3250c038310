"""Log records from the event loop: handlers may block, so they run in a thread."""

from __future__ import annotations

import logging

import anyio.to_thread

_log = logging.getLogger("asynctune")


async def warn(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a warning, with the traceback of an exception if one is given."""
    await anyio.to_thread.run_sync(lambda: _log.warning(message, *args, exc_info=error))
