"""The time at which dropped checkpoints may be deleted from the storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from asynctune.experiment.remote.queue import checkpoint_of
from asynctune.experiment.trial import Trial


class RemoteRetention:
    """The dropped checkpoints of an experiment, and the uploads that must precede their deletion.

    A resume from the storage sees only the uploaded part of the journal. So a checkpoint may be deleted
    once the upload of the journal includes its drop. A checkpoint from which another trial began may be
    deleted once that trial has uploaded a checkpoint of its own. Paths are those of the journal.
    """

    def __init__(self) -> None:
        # Checkpoint -> (end of the journal with its drop, trial id), in the order of the journal.
        self._dropped: dict[str, tuple[int, str]] = {}
        self._missing: set[tuple[str, str]] = set()
        # Trial id -> the donors' checkpoints that it needs until it has uploaded one of its own.
        self._donors: dict[str, list[str]] = {}
        # Trial id -> the checkpoints that it has saved since it began from a donor.
        self._own: dict[str, set[str]] = {}
        self._pins: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether any deletion is pending."""
        return bool(self._dropped)

    def add_trial(self, trial: Trial, *, is_uploaded: bool) -> None:
        """Register a trial of the previous run.

        Args:
            trial: The trial.
            is_uploaded: Whether all its checkpoints are certainly remote.
        """
        for checkpoint in trial.checkpoints:
            path = trial.stored_path(checkpoint.path)
            if path.startswith(f"{trial.trial_id}/"):
                self.on_saved(trial.trial_id, path)
            else:
                self.on_exploited(trial.trial_id, path)
        if is_uploaded and trial.checkpoint is not None:
            self.on_uploaded(trial.trial_id, trial.stored_path(trial.checkpoint.path))
        if trial.status.is_final:
            self.on_ended(trial.trial_id)

    def add_missing(self, trial_id: str, path: str) -> None:
        """Register a checkpoint that no longer exists, so that its next drop deletes nothing.

        A later checkpoint of the same name is a new one, and its drop deletes it.
        """
        self._missing.add((trial_id, path))

    def on_dropped(self, trial_id: str, path: str, end: int) -> None:
        """Register the drop of a checkpoint.

        Args:
            trial_id: The trial.
            path: The checkpoint.
            end: The end of the journal that includes the drop, in bytes.
        """
        if (trial_id, path) in self._missing:
            self._missing.discard((trial_id, path))
        else:
            self._dropped[checkpoint_of(path)] = end, trial_id

    def on_saved(self, trial_id: str, path: str) -> None:
        """Register a new checkpoint. Cancel the deletion of an older one of the same name."""
        root = checkpoint_of(path)
        self._dropped.pop(root, None)
        if trial_id in self._donors:
            self._own[trial_id].add(root)

    def on_exploited(self, trial_id: str, path: str) -> None:
        """Register that a trial continues from a donor's checkpoint."""
        root = checkpoint_of(path)
        self._donors.setdefault(trial_id, []).append(root)
        self._own[trial_id] = set()
        self._pins[root] += 1

    def on_uploaded(self, trial_id: str, path: str) -> bool:
        """Register an uploaded checkpoint. Return whether it released a donor's checkpoint."""
        is_own = checkpoint_of(path) in self._own.get(trial_id, ())
        if is_own:
            self._release_donors(trial_id)
        return is_own

    def on_ended(self, trial_id: str) -> None:
        """Register the end of a trial. Release its donors, unless a checkpoint of its own will follow."""
        if not self._own.get(trial_id):
            self._release_donors(trial_id)

    def close(self) -> None:
        """Cancel the deletion of all checkpoints that other trials still need. No upload will follow."""
        self._dropped = {r: dropped for r, dropped in self._dropped.items() if r not in self._pins}

    def due(self, end: int) -> Iterator[tuple[str, str]]:
        """Yield each checkpoint that may be deleted, as (trial id, checkpoint), once.

        Args:
            end: The number of bytes of the journal that are uploaded.
        """
        due: list[str] = []
        for root, (drop_end, _) in self._dropped.items():
            if drop_end > end:
                break
            if root not in self._pins:
                due.append(root)
        for root in due:
            yield self._dropped.pop(root)[1], root

    def _release_donors(self, trial_id: str) -> None:
        self._own.pop(trial_id, None)
        for root in self._donors.pop(trial_id, ()):
            self._pins[root] -= 1
            if not self._pins[root]:
                del self._pins[root]
