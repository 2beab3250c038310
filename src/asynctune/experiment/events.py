"""What happens in a run, as values: the one truth that the journal stores and everybody is told.

Readers, loggers, callbacks, the analysis and the state in memory are all folds over these.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from asynctune.errors import RemoteError, TrialError, TrialTimeout, WorkerDied
from asynctune.result import Row, jsonable


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A driver began to work on the experiment: the first record of every journal, and of each resume.

    Args:
        format: The version of the journal's format.
        name: The experiment.
        trainable: The name of what is tuned.
        metric: The objective, or None.
        mode: ``"min"``, ``"max"`` or None.
        seed: What everything random is derived from.
        num_samples: How often the space is sampled.
        started_at: Wall clock, seconds since 1970; for people, never for decisions.
        pid: The driver's process.
        host: The driver's machine.
        version: The version of asynctune.
        space: The space as text, path -> what is there; a resume compares it.
        epoch: How many drivers worked on it before.
    """

    kind: ClassVar[str] = "run_started"
    format: int
    name: str
    trainable: str
    metric: str | None
    mode: str | None
    seed: int
    num_samples: int
    started_at: float
    pid: int
    host: str
    version: str
    space: dict[str, str] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class TrialAdded:
    """A trial was drawn.

    Args:
        trial_id: Its id; also its directory.
        index: Its number in the run, from 0.
        name: Its label.
        tag: What was drawn for it, as a label.
        config: Its configuration; where JSON ends, a ``repr``.
        drawn: What was drawn, so that the configuration can be rebuilt; None if it was given by hand.
        resources: What it asks for.
        wall_time: Seconds since 1970.
        given: The whole configuration that was given by hand, or what a searcher set beside the samplers,
            if JSON can hold it.
        known: How much the searcher had been told when it suggested this; 0 for what was given by hand.
    """

    kind: ClassVar[str] = "trial_added"
    trial_id: str
    index: int
    name: str
    tag: str
    config: dict[str, Any]
    drawn: dict[str, Any] | None
    resources: dict[str, Any]
    wall_time: float
    given: dict[str, Any] | None = None
    known: int = 0


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial was built in a worker.

    Args:
        trial_id: The trial.
        attempt: How many attempts came before.
        restored_from: The checkpoint that it began from, or None.
        wall_time: Seconds since 1970.
        resume_sequence: The last row that stays, if it began further back than was thought; else None.
    """

    kind: ClassVar[str] = "trial_started"
    trial_id: str
    attempt: int
    restored_from: str | None
    wall_time: float
    resume_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """A trial reported a result.

    Args:
        trial_id: The trial.
        attempt: The attempt it belongs to.
        sequence: The number of the row in its trial, from 0, over all attempts.
        row: The result.
    """

    kind: ClassVar[str] = "reported"
    trial_id: str
    attempt: int
    sequence: int
    row: Row


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint of a trial is complete.

    Args:
        trial_id: The trial.
        attempt: The attempt that wrote it.
        sequence: The last row that it covers, -1 for none.
        path: Where it is, relative to the experiment's directory if it lies in there.
        iteration: The ``training_iteration`` of that row.
    """

    kind: ClassVar[str] = "checkpointed"
    trial_id: str
    attempt: int
    sequence: int
    path: str
    iteration: int | None


@dataclass(frozen=True, slots=True)
class CheckpointDropped:
    """A checkpoint is no longer needed and may be deleted."""

    kind: ClassVar[str] = "checkpoint_dropped"
    trial_id: str
    path: str


@dataclass(frozen=True, slots=True)
class CheckpointRejected:
    """A checkpoint could not be restored; the trial tries the one before.

    Args:
        trial_id: The trial.
        path: The checkpoint, which stays where it is: what was wrong may be mended.
        error: Why.
        wall_time: Seconds since 1970.
    """

    kind: ClassVar[str] = "checkpoint_rejected"
    trial_id: str
    path: str
    error: str
    wall_time: float


@dataclass(frozen=True, slots=True)
class TrialPaused:
    """A trial was saved and gave its slot back; it waits until it goes on.

    Args:
        trial_id: The trial.
        resume_sequence: The last row that its newest checkpoint covers: it will go on behind it.
        wall_time: Seconds since 1970.
        by_hand: Whether its user said so: no scheduler lets it go on.
    """

    kind: ClassVar[str] = "trial_paused"
    trial_id: str
    resume_sequence: int
    wall_time: float
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class TrialResumed:
    """A paused trial goes on; ``TrialStarted`` follows."""

    kind: ClassVar[str] = "trial_resumed"
    trial_id: str
    wall_time: float


@dataclass(frozen=True, slots=True)
class Exploited:
    """A trial goes on from the checkpoint of another, with another configuration.

    Args:
        trial_id: The trial.
        donor: The other one; itself where only its configuration changes.
        checkpoint: The donor's checkpoint, relative to the experiment's directory.
        iteration: The ``training_iteration`` that it covers: where the trial goes on.
        target_iteration: Where the trial was.
        resume_sequence: The last row of the trial that stays, -1 for none: it goes on behind it.
        config: The new configuration; where JSON ends, a ``repr``.
        given: The same, if JSON can hold it.
        tag: The new label of what is in it.
        donor_config: The donor's configuration, as ``config``.
        donor_tag: The donor's label.
        target_tag: The label that the trial had.
        wall_time: Seconds since 1970.
    """

    kind: ClassVar[str] = "exploited"
    trial_id: str
    donor: str
    checkpoint: str
    iteration: int | None
    target_iteration: int | None
    resume_sequence: int
    config: dict[str, Any]
    given: dict[str, Any] | None
    tag: str
    donor_config: dict[str, Any]
    donor_tag: str
    target_tag: str
    wall_time: float


@dataclass(frozen=True, slots=True)
class TrialFailed:
    """An attempt of a trial failed. ``TrialEnded`` follows unless it is tried again.

    Args:
        trial_id: The trial.
        attempt: Which attempt it was, from 0.
        error: The message.
        error_type: The name of the exception's class.
        traceback: The remote traceback, or None.
        resume_sequence: The last row that stays: a retry continues behind it; -1 for none.
        wall_time: Seconds since 1970.
        again: Whether it is tried again.
        resources: What the next attempt asks for, if that is something else.
    """

    kind: ClassVar[str] = "trial_failed"
    trial_id: str
    attempt: int
    error: str
    error_type: str
    traceback: str | None
    resume_sequence: int
    wall_time: float
    again: bool = False
    resources: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TrialReopened:
    """A driver that resumes the experiment takes up a trial that an earlier one left.

    Args:
        trial_id: The trial.
        attempt: How many attempts came before.
        because: What had become of it, such as ``"its driver died"``.
        resume_sequence: The last row that stays: the trial continues behind it; -1 for none.
        wall_time: Seconds since 1970.
    """

    kind: ClassVar[str] = "trial_reopened"
    trial_id: str
    attempt: int
    because: str
    resume_sequence: int
    wall_time: float


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial is over.

    Args:
        trial_id: The trial.
        status: ``"TERMINATED"`` or ``"ERROR"``.
        reason: Why, one of the values of :class:`~asynctune.experiment.trial.StopReason`.
        exported: What ``export_model`` wrote, format -> path.
        note: What a stopped function left behind, or None.
        wall_time: Seconds since 1970.
    """

    kind: ClassVar[str] = "trial_ended"
    trial_id: str
    status: str
    reason: str
    exported: dict[str, str]
    note: str | None
    wall_time: float


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over.

    Args:
        reason: ``"done"``, ``"stopped"``, ``"cancelled"`` or ``"failed"``.
        error: The message of the exception that ended it, or None.
        wall_time: Seconds since 1970.
        seconds: How long this driver worked on it.
    """

    kind: ClassVar[str] = "run_ended"
    reason: str
    error: str | None
    wall_time: float
    seconds: float = 0.0


Event: TypeAlias = (
    RunStarted
    | TrialAdded
    | TrialStarted
    | Reported
    | Checkpointed
    | CheckpointDropped
    | CheckpointRejected
    | TrialPaused
    | TrialResumed
    | Exploited
    | TrialFailed
    | TrialReopened
    | TrialEnded
    | RunEnded
)

_KINDS: dict[str, type[Any]] = {cls.kind: cls for cls in Event.__args__}


_FIELDS = {cls: tuple(field.name for field in dataclasses.fields(cls)) for cls in _KINDS.values()}


_KINDS_OF_ERROR = {cls.__name__: cls for cls in (WorkerDied, TrialTimeout)}


def error_of(event: TrialFailed) -> TrialError:
    """Make the error of a failure again, as far as text can tell."""
    cls = _KINDS_OF_ERROR.get(event.error_type, TrialError)
    error = cls(event.error, trial_id=event.trial_id)
    error.traceback = event.traceback
    if event.traceback:
        error.__cause__ = RemoteError(event.traceback)
    return error


def encode(event: Event, row: bytes | None = None) -> bytes:
    """Write an event as one line of JSON, without its end.

    Args:
        event: The event.
        row: The bytes of a :class:`Reported`'s row as the worker encoded them, so that a row is
            encoded once.
    """
    if row is not None and isinstance(event, Reported):
        head = {
            "kind": event.kind,
            "trial_id": event.trial_id,
            "attempt": event.attempt,
            "sequence": event.sequence,
        }
        return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"row":' + row + b"}"
    body = {"kind": event.kind}
    body.update((name, jsonable(getattr(event, name))) for name in _FIELDS[type(event)])
    return json.dumps(body, separators=(",", ":")).encode()


def decode(data: bytes) -> Event | None:
    """Read an event; None for a kind that this version does not know.

    Raises:
        ValueError: It is not an event.
    """
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ValueError(f"a record is a {type(body).__name__}, not an object")
    cls = _KINDS.get(body.pop("kind", ""))
    if cls is None:
        return None
    known = {name: body[name] for name in _FIELDS[cls] if name in body}
    try:
        event: Event = cls(**known)
    except TypeError as exc:
        raise ValueError(f"a {cls.kind} record lacks a field: {exc}") from exc
    return event
