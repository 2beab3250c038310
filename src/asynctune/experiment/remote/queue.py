"""The queue of uploads and deletions of one trial, and the statistics of a run's uploads."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from asynctune.errors import StorageDenied, StorageError, StorageFull, StorageTimeout


@dataclass(frozen=True, slots=True)
class UploadStats:
    """Statistics of the uploads of a run.

    Args:
        url: The URL of the remote copy.
        committed: The number of checkpoints that this run has committed.
        skipped: The number of checkpoints that were skipped in favour of a newer one of the same trial.
        waiting: The number of checkpoints that wait for their upload.
        journal_bytes: The number of bytes of the journal that are uploaded.
        error: The message of the last failed attempt, None if no upload is failing.
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
    """The remote work of one trial, which one worker does step by step. Checkpoints are local paths."""

    newest: str | None = None
    """The newest checkpoint, if it waits for its upload."""
    required: list[str] = field(default_factory=list)
    """Checkpoints that must not be skipped: another trial begins from them, or a previous run left them."""
    dropped: list[str] = field(default_factory=list)
    """Checkpoints to delete."""
    skipped: dict[str, None] = field(default_factory=dict)
    """Checkpoints that were skipped in favour of a newer one. A dict as an ordered set."""
    awaits_newer: bool = False
    """Whether the newest checkpoint was deleted before its upload. A newer one follows then."""
    files_due: bool = False
    """Whether logs and exported files wait for their upload."""
    busy: bool = False
    """Whether a worker works on this queue."""
    queued: bool = False
    """Whether the trial waits for a worker."""

    def pop_newest(self) -> str:
        """Remove and return the newest checkpoint."""
        assert self.newest is not None, "no checkpoint waits"
        path, self.newest = self.newest, None
        return path

    def keep(self, path: str) -> None:
        """Cancel the deletion of a checkpoint, since the trial has saved it again under its name."""
        self.dropped = [each for each in self.dropped if each != path]

    def require_skipped(self, kept: AbstractSet[str]) -> int:
        """Enqueue the skipped checkpoints after all, if they are kept. Return their number."""
        again = [path for path in self.skipped if path in kept]
        self.skipped.clear()
        self.required += again
        return len(again)

    @property
    def waiting(self) -> int:
        """The number of checkpoints that wait for their upload."""
        return (self.newest is not None) + len(self.required)

    @property
    def is_done(self) -> bool:
        """Whether no work waits."""
        return not (self.waiting or self.dropped or self.files_due)

    @property
    def is_idle(self) -> bool:
        """Whether no work waits, and no worker works on the queue."""
        return self.is_done and not self.busy


def checkpoint_of(stored: str) -> str:
    """Return the checkpoint, as ``<trial id>/<name>``, that holds a path from the journal."""
    return "/".join(stored.split("/")[:2])


def is_down(error: Exception) -> bool:
    """Return whether an error is one of the whole storage, so that all other uploads will fail too."""
    return isinstance(error, StorageTimeout | StorageDenied | StorageFull)


def incomplete_error(stats: UploadStats, directory: str, cause: Exception | None) -> StorageError:
    """Return the error for incomplete uploads.

    Args:
        stats: The statistics of the uploads.
        directory: The local directory of the experiment, which is complete.
        cause: The first failure, if there is one. A ``StorageError`` gives its class to the error.
    """
    kind = type(cause) if isinstance(cause, StorageError) else StorageError
    error = kind(
        f"not everything could be uploaded to {stats}. The experiment is complete in {directory}; resume "
        "it from that directory to upload the rest"
    )
    error.__cause__ = cause
    return error
