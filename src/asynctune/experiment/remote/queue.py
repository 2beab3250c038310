"""What waits to be uploaded, and how far the uploads of a run have come."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from asynctune.errors import StorageDenied, StorageError, StorageFull, StorageTimeout


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
class TrialQueue:
    """What is to be done for one trial, one thing after the other."""

    newest: str | None = None
    """The checkpoint that waits."""
    wanted: list[str] = field(default_factory=list)
    """Those that are not passed over: another trial begins from them, or an earlier driver left them."""
    dropped: list[str] = field(default_factory=list)
    skipped: dict[str, None] = field(default_factory=dict)
    """Those that were passed over."""
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

    def keep(self, path: str) -> None:
        """Do not remove a checkpoint: it was saved again under its name."""
        self.dropped = [each for each in self.dropped if each != path]

    def want_skipped(self, kept: AbstractSet[str]) -> int:
        """Let those that were passed over be sent after all, if they are kept; return how many are."""
        again = [path for path in self.skipped if path in kept]
        self.skipped.clear()
        self.wanted += again
        return len(again)

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


def checkpoint_of(stored: str) -> str:
    """Return the checkpoint that a path of the journal lies in."""
    return "/".join(stored.split("/")[:2])


def is_down(error: Exception) -> bool:
    """Tell whether an error is one of the place as a whole, so that nothing else will work either."""
    return isinstance(error, StorageTimeout | StorageDenied | StorageFull)


def incomplete_error(stats: UploadStats, directory: str, cause: Exception | None) -> StorageError:
    """Return the error for uploads that did not come to their end.

    Args:
        stats: How far they came.
        directory: Where all of it is.
        cause: Why, if that is known.
    """
    kind = type(cause) if isinstance(cause, StorageError) else StorageError
    error = kind(
        f"not everything could be uploaded to {stats}. All of it is in {directory}; resume the experiment "
        "there to upload the rest"
    )
    error.__cause__ = cause
    return error
