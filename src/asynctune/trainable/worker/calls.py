"""Build a trainable, call its methods and encode the answers; shared by all executors.

Workers load this module, so it imports few modules, and none of the driver.
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
from asynctune.trainable.context import TrainableContext, current_context
from asynctune.trainable.function import FunctionTrainable, wrap_function
from asynctune.trainable.session import NoReports, Session

# Three levels up, since this file is asynctune/trainable/worker/calls.py.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TESTING = os.path.join(_PACKAGE, "testing") + os.sep
EXTRA_GRACE_S = 1.0
"""Seconds that a trainable waits for its function beyond the grace of its executor.

The executor's limit expires first, so that the executor decides about the kill.
"""

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
    """The kind of an answer.

    ``ROW``: a result. ``ENDED``: the last result once more, since the function has ended. ``VALUE``: any
    other JSON value. ``BYTES``: the return value of ``save_to_object``. ``ERROR``: an exception as text.
    """

    ROW = "row"
    ENDED = "ended"
    VALUE = "value"
    BYTES = "bytes"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a trainable to a call.

    Args:
        kind: The kind of the answer.
        body: The answer as JSON; for ``BYTES`` the bytes themselves.
        checkpoint: Whether a row contains or requests a checkpoint.
        error: The exception itself, if it was raised in this process and no secrets are in use. A pickle of
            the answer leaves it out.
    """

    kind: AnswerKind
    body: bytes = b""
    checkpoint: bool = False
    error: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Not every exception of the user can be pickled, and no pickle of the user's reaches the driver.
        return Answer, (self.kind, self.body, self.checkpoint)


def as_class(trainable: Any) -> type[Trainable]:
    """Return the Trainable class for a class or function."""
    if isinstance(trainable, type) and issubclass(trainable, Trainable):
        return trainable
    return wrap_function(trainable)


def named_code(build: Callable[..., CodeType], arguments: Any, name: str) -> CodeType:
    """Rebuild a code object with a file name. Pickles of trainables refer to this function."""
    return build(*arguments).replace(co_filename=name)


def build(cls: type[Trainable], config: dict[str, Any], context: TrainableContext) -> Trainable:
    """Build a trainable in its context, with the secrets of its configuration resolved.

    The values of the secrets are registered with the redactor, so that :func:`perform` and
    :func:`describe` remove them from answers.
    """
    if redactor.get() is None:
        redactor.set(Redactor())
    config = resolve(config)
    variables = copy_context()
    variables.run(current_context.set, context)
    # The first argument of a DurableTrainable is its remote_checkpoint_dir.
    make: Any = cls
    if context.remote is not None:
        make = partial(make, context.remote.storage.url)
    trainable: Trainable = variables.run(make, config)
    return trainable


def class_session(context: TrainableContext) -> Session:
    """Return the session of a class trainable, which returns its results instead of reporting them."""
    return NoReports(
        context.trial_id,
        context.trial_name,
        os.path.join(context.logdir, ""),
        instead="a Trainable class returns its results from _train()",
    )


async def perform(trainable: Trainable, method: str, args: tuple[Any, ...]) -> Answer:
    """Call a public method of a trainable and encode the answer. Exceptions of the method propagate."""
    if method == "reset_config":
        args = tuple(map(resolve, args))
    value = await getattr(trainable, f"_run_{method}")(*args)
    if method == "train":
        if _result.RESULT_DUPLICATE in value:
            return Answer(AnswerKind.ENDED, _encode_row(value))
        requested = bool(value.get(_result.SHOULD_CHECKPOINT))
        reported = isinstance(trainable, FunctionTrainable) and trainable.offers_checkpoint
        return Answer(AnswerKind.ROW, _encode_row(value), checkpoint=requested or reported)
    if isinstance(value, bytes):
        return Answer(AnswerKind.BYTES, value)
    plain = _result.jsonable(value)
    if method != "save":  # restore needs the real path of the checkpoint
        plain = concealed(plain)
    return Answer(AnswerKind.VALUE, json.dumps(plain).encode())


def describe(error: BaseException) -> Answer:
    """Encode an exception. The encoding succeeds even if ``str`` of the user's exception raises."""
    try:
        head = f"{type(error).__name__}: {error}"
    except Exception as exc:
        head = f"{type(error).__name__} (whose str() raised {type(exc).__name__})"
    try:
        formatted = traceback.TracebackException.from_exception(error, compact=True)
        _trim(formatted)
        text = "".join(formatted.format())
    except Exception as exc:
        text = f"{head}\n(its traceback could not be formatted: {type(exc).__name__})"
    body = {
        "type": redacted(type(error).__name__),
        "own": isinstance(error, TuneError),
        "message": _truncate(redacted(head)),
        "text": _truncate(redacted(str(error))) if isinstance(error, TuneError) else "",
        "errno": error.errno if isinstance(error, StorageError) else None,
        "traceback": _truncate(redacted(text)),
    }
    # The exception object would still contain the secrets that were redacted from its text.
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
            f"a result must be at most {_MAX_ROW >> 20} MiB, got {len(data) >> 20} MiB, most of it in "
            f"result[{largest!r}]; save large objects in a checkpoint"
        )
    return data


def _is_own(path: str) -> bool:
    """Return whether a source file is asynctune's, and not a trainable of its contract suites."""
    return path.startswith(_PACKAGE + os.sep) and not path.startswith(_TESTING)


def _trim(formatted: traceback.TracebackException, depth: int = 0) -> None:
    """Remove the frames of asynctune above the user's code, which do not explain the error."""
    frames = list(formatted.stack)
    while frames and _is_own(os.path.abspath(frames[0].filename)):
        frames.pop(0)
    if frames:  # an error of asynctune itself keeps its frames
        formatted.stack[:] = frames
    if depth < 20:
        for chained in (formatted.__cause__, formatted.__context__, *(formatted.exceptions or ())):
            if chained is not None:
                _trim(chained, depth + 1)


def _truncate(text: str) -> str:
    # Lone surrogates survive the \\u escapes of JSON, but cannot be written to the text files later.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - _MAX_TEXT} characters left out ...]\n{text[-half:]}"
