"""What waits to be uploaded, and how far the uploads of a run have come."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UploadStats:
    """How far the uploads of a run have come.

    Args:
        url: Where they go.
        committed: How many checkpoints this run has made complete there.
        skipped: How many were passed over because a newer one of their trial was there to be uploaded.
        waiting: How many are still to come.
        journal_bytes: How much of the journal is there.
        error: Why the last attempt failed, None if it did not.
    """

    url: str
    committed: int
    skipped: int
    waiting: int
    journal_bytes: int
    error: str | None

    def __str__(self) -> str:
        text = f"{self.url}: {self.committed} checkpoints uploaded"
        text += f", {self.skipped} skipped for newer ones" if self.skipped else ""
        text += f", {self.waiting} still to come" if self.waiting else ""
        return text + (f" ({self.error})" if self.error else "")


@dataclass(slots=True)
class Lane:
    """What is to be done for one trial, one thing after the other."""

    newest: str | None = None
    """The checkpoint that waits."""
    wanted: list[str] = field(default_factory=list)
    """Those that are not passed over: another trial begins from them, or an earlier driver left them."""
    dropped: list[str] = field(default_factory=list)
    is_behind: bool = False
    """Whether the newest was gone before it could be sent."""
    results: bool = False
    busy: bool = False
    queued: bool = False

    def take_newest(self) -> str:
        """Return the checkpoint that waits, which waits no longer."""
        assert self.newest is not None, "none waits"
        path, self.newest = self.newest, None
        return path

    @property
    def waiting(self) -> int:
        """How many checkpoints wait."""
        return (self.newest is not None) + len(self.wanted)

    @property
    def is_done(self) -> bool:
        """Whether nothing waits."""
        return not (self.waiting or self.dropped or self.results)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing is under way."""
        return self.is_done and not self.busy
