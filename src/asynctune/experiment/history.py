"""What the previous runs of an experiment left: their journal, read once from beginning to end."""

from __future__ import annotations

from dataclasses import dataclass, field

from asynctune.errors import SpecMismatch
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader
from asynctune.experiment.state import state_from_disk
from asynctune.space.fingerprint import differences


@dataclass(frozen=True, slots=True)
class History:
    """What earlier drivers left.

    Args:
        stored: Their journal, read to its end.
        started: The first record.
        epoch: How many drivers there were.
        last_ends: Trial -> the place of its last ``TrialEnded``.
        seconds: How long they worked.
        ended_well: Whether the last of them wrote down its end.
        failed: Whether that end was an error, which cancelled the trials that ran.
        lost_track: The trials of which something was written since the last driver started, if it
            did not end well: their logs may lack rows.
    """

    stored: JournalReader
    started: ev.RunStarted
    epoch: int
    last_ends: dict[str, int]
    seconds: float
    ended_well: bool
    failed: bool
    lost_track: frozenset[str]


@dataclass(slots=True)
class _Reading:
    epoch: int = 0
    seconds: float = 0.0
    since: float = 0.0
    latest: float = 0.0
    ended: bool = True
    failed: bool = False
    touched: set[str] = field(default_factory=set)
    last_ends: dict[str, int] = field(default_factory=dict)
    first: ev.RunStarted | None = None

    def take(self, event: ev.Event, place: int) -> None:
        if isinstance(event, ev.RunStarted):
            self._close(max(0.0, self.latest - self.since))
            self.first = self.first or event
            self.epoch += 1
            self.since = self.latest = event.started_at
            self.ended = self.failed = False
        elif isinstance(event, ev.RunEnded):
            self._close(event.seconds)
            self.ended = True
            self.failed = event.reason == "failed"
            self.touched.clear()
        else:
            self.touched.add(event.trial_id)
            moment = getattr(event, "wall_time", None)
            if isinstance(event, ev.Reported):
                moment = event.row.get("timestamp")
            if isinstance(moment, int | float):
                self.latest = max(self.latest, moment)
            if isinstance(event, ev.TrialEnded):
                self.last_ends[event.trial_id] = place

    def _close(self, seconds: float) -> None:
        if not self.ended:
            self.seconds += seconds


def read_history(stored: JournalReader, directory: str, *, logs_are_old: bool = False) -> History:
    """Read a journal from its beginning to its end, and see that it makes sense.

    Args:
        stored: The journal.
        directory: The experiment.
        logs_are_old: Whether the journal came from elsewhere, so that no log here has kept up with it.

    Raises:
        ExperimentCorrupt: It does not.
    """
    state = state_from_disk(directory, stored.read_rows)
    reading = _Reading()

    def take(event: ev.Event, place: int) -> None:
        state.apply(event, place)
        reading.take(event, place)

    stored.replay(take)
    seconds = reading.seconds
    if not reading.ended:
        seconds += max(0.0, reading.latest - reading.since)
    assert reading.first is not None, "a journal without its first record does not exist"
    lost_track = frozenset() if reading.ended else frozenset(reading.touched)
    if logs_are_old:
        lost_track = frozenset(state.trials)
    return History(
        stored=stored,
        started=reading.first,
        epoch=reading.epoch,
        last_ends=reading.last_ends,
        seconds=seconds,
        ended_well=reading.ended,
        failed=reading.failed,
        lost_track=lost_track,
    )


def check_spec(history: History, now: ev.RunStarted) -> None:
    """Refuse to go on with another space or objective.

    Args:
        history: What is continued.
        now: What it is continued with.

    Raises:
        SpecMismatch: The message lists what differs.
    """
    before = history.started
    found = differences(before.space, now.space)
    for name in ("metric", "mode"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            found.append(f"{name} was {old!r} and is {new!r}")
    if before.seed != now.seed:
        found.append(f"seed was {before.seed} and is {now.seed}")
    if found:
        raise SpecMismatch(
            f"the experiment {before.name!r} began with something else: {'; '.join(found)}. Give it "
            "what it began with, or choose another name (num_samples, stop and time_budget_s may change)"
        )
