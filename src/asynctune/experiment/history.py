"""The previous runs of an experiment, as one pass over their journal finds them."""

from __future__ import annotations

from dataclasses import dataclass, field

from asynctune.errors import SpecMismatch
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader
from asynctune.experiment.state import state_from_disk
from asynctune.space.fingerprint import differences


@dataclass(frozen=True, slots=True)
class History:
    """The previous runs of an experiment.

    Args:
        reader: The reader of their journal, at its end.
        started: The first record.
        epoch: The number of drivers.
        end_offsets: Trial id -> offset of the trial's last ``TrialEnded``.
        seconds: The total duration of the runs, in seconds.
        ended_cleanly: Whether the last driver recorded the end of its run.
        stale_logs: The ids of the trials whose logs may lack rows: those with an event since the last
            driver started, if that driver recorded no end; all, if the journal was just downloaded.
    """

    reader: JournalReader
    started: ev.RunStarted
    epoch: int
    end_offsets: dict[str, int]
    seconds: float
    ended_cleanly: bool
    stale_logs: frozenset[str]


@dataclass(slots=True)
class _Fold:
    epoch: int = 0
    seconds: float = 0.0
    since: float = 0.0
    latest: float = 0.0
    ended: bool = True
    touched: set[str] = field(default_factory=set)
    end_offsets: dict[str, int] = field(default_factory=dict)
    first: ev.RunStarted | None = None

    def apply(self, event: ev.Event, offset: int) -> None:
        if isinstance(event, ev.RunStarted):
            # If the previous driver died before its RunEnded, its last timestamp stands for its end.
            self._close(max(0.0, self.latest - self.since))
            self.first = self.first or event
            self.epoch += 1
            self.since = self.latest = event.started_at
            self.ended = False
        elif isinstance(event, ev.RunEnded):
            self._close(event.seconds)
            self.ended = True
            self.touched.clear()
        else:
            self.touched.add(event.trial_id)
            timestamp = getattr(event, "wall_time", None)
            if isinstance(event, ev.Reported):
                timestamp = event.row.get("timestamp")
            if isinstance(timestamp, int | float):
                self.latest = max(self.latest, timestamp)
            if isinstance(event, ev.TrialEnded):
                self.end_offsets[event.trial_id] = offset

    def _close(self, seconds: float) -> None:
        if not self.ended:
            self.seconds += seconds


def read_history(reader: JournalReader, directory: str, *, logs_are_old: bool = False) -> History:
    """Read a journal to its end, and check that its events are consistent.

    Args:
        reader: The reader of the journal.
        directory: The directory of the experiment.
        logs_are_old: Whether the journal was just downloaded, so that the local logs are older.

    Raises:
        ExperimentCorrupt: The journal is damaged or inconsistent.
    """
    state = state_from_disk(directory, reader.read_rows)
    fold = _Fold()

    def apply(event: ev.Event, offset: int) -> None:
        state.apply(event, offset)
        fold.apply(event, offset)

    reader.replay(apply)
    seconds = fold.seconds
    if not fold.ended:
        seconds += max(0.0, fold.latest - fold.since)
    assert fold.first is not None, "the reader accepts no journal without its first record"
    stale_logs = frozenset() if fold.ended else frozenset(fold.touched)
    if logs_are_old:
        stale_logs = frozenset(state.trials)
    return History(
        reader=reader,
        started=fold.first,
        epoch=fold.epoch,
        end_offsets=fold.end_offsets,
        seconds=seconds,
        ended_cleanly=fold.ended,
        stale_logs=stale_logs,
    )


def check_spec(history: History, now: ev.RunStarted) -> None:
    """Check that a resume has the space, objective and seed of the experiment.

    Args:
        history: The previous runs.
        now: The first record of the resuming run.

    Raises:
        SpecMismatch: They differ; the message lists the differences.
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
            f"the experiment {before.name!r} must be resumed with the arguments that it began with: "
            f"{'; '.join(found)}. Pass the original ones, or choose another name (num_samples, stop and "
            "time_budget_s may change)"
        )
