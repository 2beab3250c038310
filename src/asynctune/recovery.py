"""What a resume from a storage finds missing: checkpoints whose driver died before they were uploaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from asynctune import events as ev
from asynctune.mirror import Mirror
from asynctune.resume import Past
from asynctune.trial import Trial


def recovered(
    past: Past, trials: Iterable[Trial], unfinished: Collection[Trial], mirror: Mirror
) -> Iterator[ev.Event]:
    """Yield what is to be written down, so that trials go on from what there is. Blocks for a while.

    Of a trial whose checkpoints are all neither here nor there, the journal forgets them. What it had
    forgotten itself, because a newer one was there then, counts again if it is still in the storage.
    What else was committed there, and nothing refers to, is removed: its driver died at it.

    Args:
        past: What earlier drivers left.
        trials: All trials.
        unfinished: Those that may go on.
        mirror: The remote side.
    """
    saved: dict[str, dict[str, ev.Checkpointed]] = {trial.trial_id: {} for trial in unfinished}
    for _, event in past.stored.events():
        if isinstance(event, ev.Checkpointed) and event.trial_id in saved:
            saved[event.trial_id][event.path] = event
    # A trial may have begun from the checkpoint of another.
    needed = {trial.stored_path(c.path) for trial in trials for c in trial.known_checkpoints}
    for trial in unfinished:
        if trial.checkpoints and not any(mirror.has(c.path) for c in reversed(trial.checkpoints)):
            for checkpoint in trial.checkpoints:
                yield ev.CheckpointDropped(trial.trial_id, trial.stored_path(checkpoint.path))
            # One of another line, that the trial has begun anew since, is none to go on from.
            known = saved[trial.trial_id].values()
            usable = {trial.path_of(e.path): e for e in known if trial.has_row(e.sequence)}
            path = mirror.newest(trial.trial_id, usable)
            if path is not None:
                needed.add(usable[path].path)
                yield usable[path]
        newest = trial.checkpoint
        if newest is not None and not mirror.is_there(newest.path):
            continue  # what is there is all there is until that one has come
        own = (path for path in needed if path.startswith(f"{trial.trial_id}/"))
        mirror.retain(trial.trial_id, map(trial.path_of, own), trial.attempt)
