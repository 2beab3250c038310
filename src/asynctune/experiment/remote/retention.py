"""When checkpoints that nothing needs are removed from a storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from asynctune.experiment.remote.queue import checkpoint_of
from asynctune.experiment.trial import Trial


class RemoteRetention:
    """What has been dropped, and what has to be there first.

    Whoever goes on from the storage knows of an experiment what its journal says there. So a checkpoint is
    removed when the journal there says that nothing needs it; and one from which another trial began, when
    that other trial has one of its own there. Paths are those of the journal.
    """

    def __init__(self) -> None:
        self._dropped: dict[str, tuple[int, str]] = {}
        self._gone: set[tuple[str, str]] = set()
        self._donors: dict[str, list[str]] = {}
        self._fresh: dict[str, set[str]] = {}
        self._pins: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether any removal is still to come."""
        return bool(self._dropped)

    def take_up(self, trial: Trial, *, are_there: bool) -> None:
        """Take note of a trial that earlier drivers left.

        Args:
            trial: The trial.
            are_there: Whether all its checkpoints are certainly there.
        """
        for checkpoint in trial.checkpoints:
            path = trial.stored_path(checkpoint.path)
            if path.startswith(f"{trial.trial_id}/"):
                self.saved(trial.trial_id, path)
            else:
                self.began_from(trial.trial_id, path)
        if are_there and trial.checkpoint is not None:
            self.stored(trial.trial_id, trial.stored_path(trial.checkpoint.path))
        if trial.status.is_final:
            self.ended(trial.trial_id)

    def expect_gone(self, trial_id: str, path: str) -> None:
        """Be told of a checkpoint that is neither here nor there: its drop removes nothing.

        What is called so from now on is a new one.
        """
        self._gone.add((trial_id, path))

    def dropped(self, trial_id: str, path: str, end: int) -> None:
        """A checkpoint is not needed any more.

        Args:
            trial_id: Whose it is.
            path: The checkpoint.
            end: Where the journal ends that says so.
        """
        if (trial_id, path) in self._gone:
            self._gone.discard((trial_id, path))
        else:
            self._dropped[checkpoint_of(path)] = end, trial_id

    def saved(self, trial_id: str, path: str) -> None:
        """A trial has saved a checkpoint, perhaps under the name of one that was dropped."""
        root = checkpoint_of(path)
        self._dropped.pop(root, None)
        if trial_id in self._donors:
            self._fresh[trial_id].add(root)

    def began_from(self, trial_id: str, path: str) -> None:
        """A trial goes on from a checkpoint of another."""
        root = checkpoint_of(path)
        self._donors.setdefault(trial_id, []).append(root)
        self._fresh[trial_id] = set()
        self._pins[root] += 1

    def stored(self, trial_id: str, path: str) -> bool:
        """A checkpoint is there; tell whether something may be removed now that could not before."""
        is_own = checkpoint_of(path) in self._fresh.get(trial_id, ())
        if is_own:
            self._let_go(trial_id)
        return is_own

    def ended(self, trial_id: str) -> None:
        """A trial has ended: it waits for its own checkpoint, if it has saved one since."""
        if not self._fresh.get(trial_id):
            self._let_go(trial_id)

    def close(self) -> None:
        """Nothing more will come: what a trial still needs stays there."""
        self._dropped = {r: dropped for r, dropped in self._dropped.items() if r not in self._pins}

    def due(self, end: int) -> Iterator[tuple[str, str]]:
        """Yield trials and checkpoints that may be removed, once.

        Args:
            end: Where the journal ends that is there.
        """
        due: list[str] = []
        for root, (said, _) in self._dropped.items():
            if said > end:
                break
            if root not in self._pins:
                due.append(root)
        for root in due:
            yield self._dropped.pop(root)[1], root

    def _let_go(self, trial_id: str) -> None:
        self._fresh.pop(trial_id, None)
        for root in self._donors.pop(trial_id, ()):
            self._pins[root] -= 1
            if not self._pins[root]:
                del self._pins[root]
