"""The events of an experiment: every change of state, as a value, in the order of the journal.

Readers, loggers, callbacks, the analysis and the state in memory are all folds over these events.
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
    """Start of a driver: the first record of every journal, and of each resume.

    Args:
        format: The version of the journal's format.
        name: The name of the experiment.
        trainable: The name of the trainable.
        metric: The objective, or None.
        mode: ``"min"``, ``"max"`` or None.
        seed: The root seed, from which every random choice of the run is derived.
        num_samples: The number of repetitions of the space; -1: unlimited.
        started_at: Wall clock, seconds since 1970; for display, never for decisions.
        pid: The id of the driver's process.
        host: The name of the driver's machine.
        version: The version of asynctune.
        space: The space as text, path in the config -> domain or value; a resume compares it.
        epoch: The number of drivers before this one.
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
    """Creation of a trial, from a drawn, suggested or hand-made configuration.

    Args:
        trial_id: The id of the trial; also the name of its directory.
        index: The number of the trial in the run, from 0.
        name: The label of the trial.
        tag: The drawn values, as a label.
        config: The configuration; a value that JSON cannot hold is its ``repr``.
        drawn: The drawn values, from which a resume rebuilds the configuration; None for a trial added
            by hand.
        resources: The resources that the trial requests.
        wall_time: Seconds since 1970.
        given: The whole configuration of a trial added by hand, or the values that a searcher set beside
            the samplers; None if JSON cannot hold them.
        known: The number of notifications (results and endings) that the searcher had received before
            this suggestion; 0 for a trial added by hand.
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
    """Start of an attempt: the trial was built in a worker.

    Args:
        trial_id: The trial.
        attempt: The number of earlier attempts.
        restored_from: The checkpoint that the attempt was restored from, or None.
        wall_time: Seconds since 1970.
        resume_sequence: The last row that stays, if the attempt was restored from an older checkpoint
            than the journal expected; else None.
    """

    kind: ClassVar[str] = "trial_started"
    trial_id: str
    attempt: int
    restored_from: str | None
    wall_time: float
    resume_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """Result of a trial.

    Args:
        trial_id: The trial.
        attempt: The attempt that reported the row.
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
    """Completion of a checkpoint.

    Args:
        trial_id: The trial.
        attempt: The attempt that wrote the checkpoint.
        sequence: The last row that the checkpoint covers, -1 for none.
        path: The path of the checkpoint, relative to the experiment's directory if it lies inside.
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
    """Release of a checkpoint: no trial needs it any longer, so it may be deleted."""

    kind: ClassVar[str] = "checkpoint_dropped"
    trial_id: str
    path: str


@dataclass(frozen=True, slots=True)
class CheckpointRejected:
    """Failure to restore a checkpoint; the trial tries the previous one.

    Args:
        trial_id: The trial.
        path: The checkpoint. It is not deleted, since its user may repair it.
        error: The message of the error.
        wall_time: Seconds since 1970.
    """

    kind: ClassVar[str] = "checkpoint_rejected"
    trial_id: str
    path: str
    error: str
    wall_time: float


@dataclass(frozen=True, slots=True)
class TrialPaused:
    """Pause of a trial: it was saved and released its slot.

    Args:
        trial_id: The trial.
        resume_sequence: The last row that the newest checkpoint covers; the trial continues behind it.
        wall_time: Seconds since 1970.
        by_hand: Whether the user paused the trial, so that no scheduler may resume it.
    """

    kind: ClassVar[str] = "trial_paused"
    trial_id: str
    resume_sequence: int
    wall_time: float
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class TrialResumed:
    """End of a pause; ``TrialStarted`` follows."""

    kind: ClassVar[str] = "trial_resumed"
    trial_id: str
    wall_time: float


@dataclass(frozen=True, slots=True)
class Exploited:
    """Continuation of a trial from a donor's checkpoint, with another configuration.

    Args:
        trial_id: The trial.
        donor: The id of the donor; the trial's own id where only the configuration changes.
        checkpoint: The donor's checkpoint, relative to the experiment's directory.
        iteration: The ``training_iteration`` that the checkpoint covers.
        target_iteration: The ``training_iteration`` that the trial had reached.
        resume_sequence: The last row of the trial that stays, -1 for none; the trial continues behind it.
        config: The new configuration; a value that JSON cannot hold is its ``repr``.
        given: The new configuration; None if JSON cannot hold it.
        tag: The label of the new configuration.
        donor_config: The donor's configuration, in the form of ``config``.
        donor_tag: The donor's label.
        target_tag: The label that the trial had before.
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
    """Failure of an attempt. ``TrialEnded`` follows unless the trial is retried.

    Args:
        trial_id: The trial.
        attempt: The number of the attempt, from 0.
        error: The message of the exception.
        error_type: The name of the exception's class.
        traceback: The remote traceback, or None.
        resume_sequence: The last row that stays, -1 for none; a retry continues behind it.
        wall_time: Seconds since 1970.
        again: Whether the trial is retried.
        resources: The resources that the next attempt requests, if they differ; else None.
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
    """Reopening of a trial of the previous run by a resume.

    Args:
        trial_id: The trial.
        attempt: The number of earlier attempts.
        because: The reason, such as ``"its driver died"``.
        resume_sequence: The last row that stays, -1 for none; the trial continues behind it.
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
    """End of a trial.

    Args:
        trial_id: The trial.
        status: ``"TERMINATED"`` or ``"ERROR"``.
        reason: The stop reason, a value of :class:`~asynctune.experiment.status.StopReason`.
        exported: The files that ``export_model`` wrote, format -> path.
        note: The errors during the shutdown of the trial, as text, or None.
        wall_time: Seconds since 1970.
        num_reported: The number of rows that all attempts of the trial have reported, so that a reader
            notices a missing one; None in journals of earlier builds.
    """

    kind: ClassVar[str] = "trial_ended"
    trial_id: str
    status: str
    reason: str
    exported: dict[str, str]
    note: str | None
    wall_time: float
    num_reported: int | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """End of a run.

    Args:
        reason: ``"done"``, ``"stopped"``, ``"cancelled"`` or ``"failed"``.
        error: The message of the exception that ended the run, or None.
        wall_time: Seconds since 1970.
        seconds: The duration of this driver's work on the experiment, in seconds.
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

_ERROR_TYPES = {cls.__name__: cls for cls in (WorkerDied, TrialTimeout)}


def error_of(event: TrialFailed) -> TrialError:
    """Rebuild the error of a failure from its recorded text."""
    cls = _ERROR_TYPES.get(event.error_type, TrialError)
    error = cls(event.error, trial_id=event.trial_id)
    error.traceback = event.traceback
    if event.traceback:
        error.__cause__ = RemoteError(event.traceback)
    return error


def encode(event: Event, row: bytes | None = None) -> bytes:
    """Encode an event as one line of JSON, without a newline.

    Args:
        event: The event.
        row: The row of a :class:`Reported`, as the JSON bytes that the worker encoded, so that each
            row is encoded once.
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


class UnknownKindError(ValueError):
    """A record is of a kind that only a newer version defines, and must not be skipped.

    Attributes:
        kind: The kind.
    """

    def __init__(self, kind: object) -> None:
        super().__init__(f"the kind {kind!r} is unknown, and the record is not marked as skippable")
        self.kind = kind


def decode(data: bytes) -> Event | None:
    """Decode an event. Return None for an unknown kind whose record is marked as skippable.

    Raises:
        UnknownKindError: The kind is unknown, and skipping the record could change a resume.
        ValueError: The data is not an event.
    """
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ValueError(f"the record must be a JSON object, got a {type(body).__name__}")
    kind = body.pop("kind", "")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        if body.get("skippable") is True:
            return None
        raise UnknownKindError(kind)
    # Fields that a newer version added are left out; new fields have defaults, for older journals.
    fields = {name: body[name] for name in _FIELDS[cls] if name in body}
    try:
        event: Event = cls(**fields)
    except TypeError as exc:
        raise ValueError(f"the {cls.kind} record lacks a field: {exc}") from exc
    return event
