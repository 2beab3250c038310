"""What every executor does where the trainable lives: build it, call it, put the answer into bytes.

Part of the worker's side: it imports little, and nothing of the driver's.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import CodeType
from typing import Any

from asynctune import result as _result
from asynctune.errors import NotSerializable, StorageError, TuneError
from asynctune.secret import Redactor, concealed, redacted, redactor, resolve
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import TrainableContext, host
from asynctune.trainable.function import FunctionTrainable, wrap_function
from asynctune.trainable.session import NoReports, Session

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOST_GRACE_S = 1.0
"""How much longer than its executor a trainable waits for its function: the executor is to decide."""

_MAX_ROW = 16 << 20
_MAX_TEXT = 64 << 10

METHODS = frozenset(
    {
        "train",
        "save",
        "restore",
        "save_to_object",
        "restore_from_object",
        "delete_checkpoint",
        "export_model",
        "reset_config",
        "get_config",
        "stop",
    }
)


class AnswerKind(StrEnum):
    """What a call came back with."""

    ROW = "row"
    ENDED = "ended"
    VALUE = "value"
    BYTES = "bytes"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a trainable.

    Args:
        kind: What it is.
        body: JSON, but for ``BYTES``.
        checkpoint: Whether a row came with a checkpoint that wants to be kept.
        error: The exception itself, where it happened in this process and there are no secrets.
    """

    kind: AnswerKind
    body: bytes = b""
    checkpoint: bool = False
    error: BaseException | None = None


def as_class(trainable: Any) -> type[Trainable]:
    """Return the Trainable class for a class or function."""
    if isinstance(trainable, type) and issubclass(trainable, Trainable):
        return trainable
    return wrap_function(trainable)


def named_code(build: Callable[..., CodeType], arguments: Any, name: str) -> CodeType:
    """Rebuild a code object under the name of its file; pickles of trainables refer to this function."""
    return build(*arguments).replace(co_filename=name)


def build(cls: type[Trainable], config: dict[str, Any], place: TrainableContext) -> Trainable:
    """Build a trainable that knows where it lives, with the secrets of its configuration resolved.

    From then on this context knows the values: :func:`perform` and :func:`describe` let none of them out.
    """
    if redactor.get() is None:
        redactor.set(Redactor())
    config = resolve(config)
    context = copy_context()
    context.run(host.set, place)
    # A durable trainable is told first where its checkpoints go.
    make: Any = cls
    if place.remote is not None:
        make = partial(make, place.remote.storage.url)
    trainable: Trainable = context.run(make, config)
    return trainable


def class_session(place: TrainableContext) -> Session:
    """Return the session of a class trainable: it knows its trial, and returns its results."""
    return NoReports(
        place.trial_id,
        place.trial_name,
        os.path.join(place.logdir, ""),
        instead="a Trainable class returns its results from _train()",
    )


async def perform(trainable: Trainable, method: str, args: tuple[Any, ...]) -> Answer:
    """Call a method of the public face and put the answer into bytes. An exception of it propagates."""
    if method == "reset_config":
        args = tuple(map(resolve, args))
    value = await getattr(trainable, f"_run_{method}")(*args)
    if method == "train":
        if _result.RESULT_DUPLICATE in value:
            return Answer(AnswerKind.ENDED, _encode_row(value))
        wanted = bool(value.get(_result.SHOULD_CHECKPOINT))
        offered = isinstance(trainable, FunctionTrainable) and trainable.offers_checkpoint
        return Answer(AnswerKind.ROW, _encode_row(value), checkpoint=wanted or offered)
    if isinstance(value, bytes):
        return Answer(AnswerKind.BYTES, value)
    plain = _result.jsonable(value)
    if method != "save":  # the path of a checkpoint is used again, not only shown
        plain = concealed(plain)
    return Answer(AnswerKind.VALUE, json.dumps(plain).encode())


def describe(error: BaseException) -> Answer:
    """Put an exception into bytes; nothing that a user's exception does can make this fail."""
    try:
        head = f"{type(error).__name__}: {error}"
    except Exception as exc:
        head = f"{type(error).__name__} (whose str() raised {type(exc).__name__})"
    try:
        shown = traceback.TracebackException.from_exception(error, compact=True)
        _trim(shown)
        text = "".join(shown.format())
    except Exception as exc:
        text = f"{head}\n(its traceback could not be formatted: {type(exc).__name__})"
    body = {
        "type": redacted(type(error).__name__),
        "own": isinstance(error, TuneError),
        "message": _cut(redacted(head)),
        "text": _cut(redacted(str(error))) if isinstance(error, TuneError) else "",
        "errno": error.errno if isinstance(error, StorageError) else None,
        "traceback": _cut(redacted(text)),
    }
    # The exception itself would show what its text no longer does.
    kept = None if redactor.get() else error
    return Answer(AnswerKind.ERROR, json.dumps(body).encode(), error=kept)


def _encode_row(value: Mapping[str, Any]) -> bytes:
    body = dict(value)
    config = body.pop(_result.CONFIG, None)
    row = _result.normalise(body)
    if config is not None:
        row[_result.CONFIG] = _result.shown(config)
    row = _result.without_secrets(row)
    data = _result.encode(row)
    if len(data) > _MAX_ROW:
        largest = max(row, key=lambda key: len(_result.encode({key: row[key]})))
        raise NotSerializable(
            f"a result has {len(data) >> 20} MiB, most of it in result[{largest!r}]; at most "
            f"{_MAX_ROW >> 20} MiB are wanted. Save large objects in a checkpoint"
        )
    return data


def _trim(shown: traceback.TracebackException, depth: int = 0) -> None:
    """Leave out our own frames above the user's: they explain nothing."""
    frames = list(shown.stack)
    while frames and os.path.abspath(frames[0].filename).startswith(_PACKAGE + os.sep):
        frames.pop(0)
    if frames:
        shown.stack[:] = frames
    if depth < 20:
        for chained in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
            if chained is not None:
                _trim(chained, depth + 1)


def _cut(text: str) -> str:
    # Lone surrogates survive JSON's \\u escapes but not the files that the text is written to.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - _MAX_TEXT} characters left out ...]\n{text[-half:]}"
