"""What a resume from a storage finds missing: checkpoints whose driver died before they were uploaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor

from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.remote.replica import Replica
from asynctune.experiment.trial import Trial

_AT_ONCE = 8
"""A trial takes some requests, one after the other, and an experiment may have thousands of trials."""


def recovery_events(
    history: History, trials: Iterable[Trial], unfinished: Collection[Trial], replica: Replica
) -> list[ev.Event]:
    """Return what is to be written down, so that trials go on from what there is. Blocks for a while.

    Of a trial whose checkpoints are all neither here nor there, the journal forgets them. What it had
    forgotten itself, because a newer one was there then, counts again if it is still in the storage.
    What else was committed there, and nothing refers to, is removed: its driver died at it. A trial whose
    donor's checkpoint never came there goes back to its own last one, as it does where that is damaged.

    Args:
        history: What earlier drivers left.
        trials: All trials.
        unfinished: Those that may go on.
        replica: The remote side.
    """
    saved: dict[str, dict[str, ev.Checkpointed]] = {trial.trial_id: {} for trial in unfinished}
    for _, event in history.stored.events():
        if isinstance(event, ev.Checkpointed) and event.trial_id in saved:
            saved[event.trial_id][event.path] = event
    # A trial may have begun from the checkpoint of another.
    needed: dict[str, set[str]] = {trial.trial_id: set() for trial in unfinished}
    for trial in trials:
        for checkpoint in trial.known_checkpoints:
            path = trial.stored_path(checkpoint.path)
            needed.get(path.partition("/")[0], set()).add(path)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="asynctune storage") as pool:
        try:
            each = pool.map(
                lambda t: _recover(t, saved[t.trial_id], needed[t.trial_id], replica), unfinished
            )
            return [event for events in each for event in events]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def notice(event: ev.Event) -> str:
    """Return what the user should know of one of these events."""
    match event:
        case ev.CheckpointDropped():
            return f"{event.path} was not uploaded before its driver died"
        case ev.Checkpointed():
            return f"trial {event.trial_id} goes on from an earlier checkpoint, {event.path}"
    raise AssertionError(event)


def _recover(
    trial: Trial, saved: Mapping[str, ev.Checkpointed], needed: AbstractSet[str], replica: Replica
) -> list[ev.Event]:
    events: list[ev.Event] = []
    if replica.is_closed:  # the run was cancelled meanwhile
        return events
    if trial.checkpoints and not any(replica.has(c.path) for c in reversed(trial.checkpoints)):
        gone = (trial.stored_path(checkpoint.path) for checkpoint in trial.checkpoints)
        events.extend(ev.CheckpointDropped(trial.trial_id, path) for path in gone)
        # One of another line, that the trial has begun anew since, is none to go on from.
        usable = {trial.path_of(e.path): e for e in saved.values() if trial.has_row(e.sequence)}
        path = replica.newest(trial.trial_id, usable)
        if path is not None:
            needed = needed | {usable[path].path}
            events.append(usable[path])
    newest = trial.checkpoint
    # As long as the newest is not there, what is there is all there is.
    if newest is None or replica.has_remote(newest.path):
        replica.retain(trial.trial_id, map(trial.path_of, needed), trial.attempt)
    return events
