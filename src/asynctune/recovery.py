"""What a resume from a storage finds missing: checkpoints whose driver died before they were uploaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asynctune import events as ev
from asynctune.mirror import Mirror
from asynctune.resume import Past
from asynctune.trial import Trial


def recovered(past: Past, trials: Iterable[Trial], mirror: Mirror) -> Iterator[ev.Event]:
    """Yield what is to be written down, so that trials go on from what there is. Blocks for a while.

    What was committed there and no journal knows is removed. Of a trial whose checkpoints are all neither
    here nor there, the journal forgets them. What it had forgotten itself, because a newer one was there
    then, counts again if it is still in the storage.

    Args:
        past: What earlier drivers left.
        trials: The trials that may go on.
        mirror: The remote side.
    """
    trials = list(trials)
    saved: dict[str, list[ev.Checkpointed]] = {trial.trial_id: [] for trial in trials}
    for _, event in past.stored.events():
        if isinstance(event, ev.Checkpointed) and event.trial_id in saved:
            saved[event.trial_id].append(event)
    for trial in trials:
        known = {trial.path_of(event.path): event for event in saved[trial.trial_id]}
        mirror.retain(trial.trial_id, known)
        if not trial.checkpoints or any(mirror.has(c.path) for c in reversed(trial.checkpoints)):
            continue
        for checkpoint in trial.checkpoints:
            yield ev.CheckpointDropped(trial.trial_id, trial.stored_path(checkpoint.path))
        # One of another line, that the trial has begun anew since, is none to go on from.
        usable = {path: event for path, event in known.items() if trial.has_row(event.sequence)}
        path = mirror.newest(trial.trial_id, usable)
        if path is not None:
            yield usable[path]
