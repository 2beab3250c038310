"""The recovery of a resume from a storage: checkpoints whose driver died before their upload."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor

from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.remote.replica import Replica
from asynctune.experiment.trial import Trial

_NUM_THREADS = 8
"""Number of trials recovered at a time. Each takes several requests, and a run may have thousands."""


def recovery_events(
    history: History, trials: Iterable[Trial], unfinished: Collection[Trial], replica: Replica
) -> list[ev.Event]:
    """Return the events after which each trial continues from a checkpoint that exists. Blocks for a while.

    If the checkpoints of a trial are all neither local nor remote, the events drop them. The newest older
    checkpoint that is still in the storage is restored to the journal, which had dropped it in favour of a
    newer one. Remote checkpoints that no event refers to are deleted: their driver died during the save. A
    trial whose donor's checkpoint was never uploaded goes back to its own last checkpoint, as it does if
    the donor's checkpoint is damaged.

    Args:
        history: The previous runs.
        trials: All trials.
        unfinished: The trials that may continue.
        replica: The remote copy of the experiment.
    """
    saved: dict[str, dict[str, ev.Checkpointed]] = {trial.trial_id: {} for trial in unfinished}
    for _, event in history.reader.events():
        if isinstance(event, ev.Checkpointed) and event.trial_id in saved:
            saved[event.trial_id][event.path] = event
    # A checkpoint may be needed by another trial that began from it, so look at all trials.
    needed: dict[str, set[str]] = {trial.trial_id: set() for trial in unfinished}
    for trial in trials:
        for checkpoint in trial.known_checkpoints:
            path = trial.stored_path(checkpoint.path)
            needed.get(path.partition("/")[0], set()).add(path)
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="asynctune storage") as pool:
        try:
            each = pool.map(
                lambda t: _recover(t, saved[t.trial_id], needed[t.trial_id], replica), unfinished
            )
            return [event for events in each for event in events]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def notice(event: ev.Event) -> str:
    """Return the message for the user about an event of :func:`recovery_events`."""
    match event:
        case ev.CheckpointDropped():
            return f"{event.path} was not uploaded before its driver died"
        case ev.Checkpointed():
            return f"trial {event.trial_id} continues from an earlier checkpoint, {event.path}"
    raise AssertionError(event)


def _recover(
    trial: Trial, saved: Mapping[str, ev.Checkpointed], needed: AbstractSet[str], replica: Replica
) -> list[ev.Event]:
    events: list[ev.Event] = []
    if replica.is_closed:  # the run was cancelled
        return events
    if trial.checkpoints and not any(replica.has(c.path) for c in reversed(trial.checkpoints)):
        gone = (trial.stored_path(checkpoint.path) for checkpoint in trial.checkpoints)
        events.extend(ev.CheckpointDropped(trial.trial_id, path) for path in gone)
        # The trial may have been rewound since it saved a checkpoint. Such a checkpoint is not usable.
        usable = {trial.path_of(e.path): e for e in saved.values() if trial.has_row(e.sequence)}
        path = replica.newest_remote(trial.trial_id, usable)
        if path is not None:
            needed = needed | {usable[path].path}
            events.append(usable[path])
    newest = trial.checkpoint
    # As long as the newest checkpoint is not remote, the older remote ones may be the only copies.
    if newest is None or replica.has_remote(newest.path):
        replica.retain(trial.trial_id, map(trial.path_of, needed), trial.attempt)
    return events
