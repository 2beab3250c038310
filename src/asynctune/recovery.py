"""What a resume from a storage finds missing: checkpoints whose driver died before they were uploaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asynctune import events as ev
from asynctune.mirror import Mirror
from asynctune.resume import Past
from asynctune.trial import Trial


def recovered(past: Past, trials: Iterable[Trial], mirror: Mirror) -> Iterator[ev.Event]:
    """Yield what is to be written down, so that trials go on from what there is. Blocks for a while.

    Of a trial whose checkpoints are all neither here nor there, the journal forgets them. What it had
    forgotten itself, because a newer one was there then, counts again if it is still in the storage.

    Args:
        past: What earlier drivers left.
        trials: The trials that may go on.
        mirror: The remote side.
    """
    lost = {
        trial.trial_id: trial
        for trial in trials
        if trial.checkpoints and not any(mirror.has(c.path) for c in reversed(trial.checkpoints))
    }
    if not lost:
        return
    saved: dict[str, dict[str, ev.Checkpointed]] = {trial_id: {} for trial_id in lost}
    for _, event in past.stored.events():
        if isinstance(event, ev.Checkpointed) and event.trial_id in lost:
            saved[event.trial_id][lost[event.trial_id].path_of(event.path)] = event
    for trial_id, trial in lost.items():
        for checkpoint in trial.checkpoints:
            yield ev.CheckpointDropped(trial_id, trial.stored_path(checkpoint.path))
        path = mirror.newest(trial_id, saved[trial_id])
        if path is not None:
            yield saved[trial_id][path]
