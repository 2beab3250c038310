"""A trial that is being run: its state, and the wires to its task."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import anyio

from asynctune import events as ev
from asynctune.result import Row, copy_row
from asynctune.trial import StopReason, Trial


class LiveTrial(Trial):
    """A trial of a run that is alive. Await it for its last result."""

    def __init__(self, event: ev.TrialAdded, **given: Any) -> None:
        super().__init__(event, **given)
        self.order: StopReason | None = None
        self.scope = anyio.CancelScope()
        self.grace = anyio.CancelScope(shield=True)
        self.has_slot = anyio.Event()
        self.is_over = anyio.Event()
        self.left_behind: str | None = None
        self.ended_run: Exception | None = None

    def __await__(self) -> Generator[Any, Any, Row]:
        return self._outcome().__await__()

    async def _outcome(self) -> Row:
        """Wait for the end.

        Returns:
            The last result; empty if there was none.

        Raises:
            TrialError: The trial failed.
            Exception: What ended the whole run, if it happened in this trial.
        """
        await self.is_over.wait()
        if self.ended_run is not None:
            raise self.ended_run
        if self.error is not None:
            raise self.error
        return copy_row(self.last_result)

    def stop(self) -> None:
        """Stop this trial at its next report; at once if it has not started."""
        self.end(StopReason.USER)

    def cancel(self) -> None:
        """Stop this trial now: it may clean up for ``grace_s``, then its worker is killed."""
        self.end(StopReason.CANCELLED, now=True)

    def end(self, reason: StopReason, *, now: bool = False) -> None:
        """Order the end.

        Args:
            reason: Why.
            now: Not only at the next report.
        """
        if self.is_over.is_set():
            return
        if self.order is None:
            self.order = reason
        if now or not self.has_slot.is_set():
            self.scope.cancel()
