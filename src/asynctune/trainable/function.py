"""Functions as trainables: ``_train()`` runs the function until its next report."""

from __future__ import annotations

import inspect
import shutil
import traceback
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from asynctune import result as _result
from asynctune.errors import TrialError, TrialStopped, TuneError
from asynctune.result import Row
from asynctune.storage.checkpoints.manifest import MANIFEST
from asynctune.trainable.base import Trainable, unpack
from asynctune.trainable.session import Checkpoint, Session
from asynctune.trainable.signature import Form, Function, ReporterBy, Signature, inspect_function
from asynctune.trainable.steppers import (
    AsyncGeneratorStepper,
    FunctionCall,
    FunctionEnd,
    GeneratorStepper,
    TaskStepper,
    ThreadStepper,
)

CHECKPOINT = "checkpoint"
"""The keyword of a report that is a checkpoint, not a metric: ``reporter(loss=1, checkpoint=...)``."""


def wrap_function(function: Function) -> type[FunctionTrainable]:
    """Create a Trainable class from a function; each ``train()`` runs it until its next report.

    Args:
        function: A function of ``(config)`` or ``(config, reporter)``: plain, ``async def``, a generator
            or an async generator.

    Raises:
        ConfigError: The function cannot be called with these arguments.
    """
    signature = inspect_function(function)
    asynchronous = signature.form in (Form.ASYNC, Form.ASYNC_GENERATOR)
    base = AsyncFunctionTrainable if asynchronous else FunctionTrainable
    namespace = {"_function": staticmethod(function), "_signature": signature}
    return type(signature.name, (base,), namespace)


class FunctionTrainable(Trainable):
    """A plain function or generator as a Trainable; created by :func:`wrap_function`."""

    _function: ClassVar[Function]
    _signature: ClassVar[Signature]

    def _setup(self, config: dict[str, Any]) -> None:
        self._config_copy = config
        self._checkpoint: Checkpoint | None = None
        self._new_checkpoint: Checkpoint | None = None
        self._last_row: Row = {}
        self._end: FunctionEnd | None = None
        self._stop_requested = False
        self._stepper: ThreadStepper | GeneratorStepper | None = None

    @property
    def offers_checkpoint(self) -> bool:
        """Whether the last report contained a checkpoint."""
        return self._new_checkpoint is not None

    def _train(self) -> Any:
        if self._end is not None:
            return self._row_after_end(self._end)
        if self._stepper is None:
            is_generator = self._signature.form is Form.GENERATOR
            self._stepper = (GeneratorStepper if is_generator else ThreadStepper)(
                self._function_call()
            )
        return self._row_from(self._stepper.next())

    def _row_from(self, item: Any) -> Row:
        """Return the row of ``_train`` for an item of a stepper: a report, or the function's end."""
        self._new_checkpoint = None
        if not isinstance(item, FunctionEnd):
            return self._row_of_report(item)
        self._end = item
        if item.error is not None:
            error = item.error
            if isinstance(error, Exception) and not isinstance(
                error, StopIteration | StopAsyncIteration
            ):
                raise error
            # Raised as they are, StopIteration, SystemExit and others would end a generator, a task or
            # the process instead of the trial.
            raise RuntimeError(f"{self._signature.name} raised {error!r}") from error
        if isinstance(item.value, Mapping):
            return self._row_of_report(item.value)
        if inspect.iscoroutine(item.value) or inspect.isgenerator(item.value):
            item.value.close()
        if inspect.isawaitable(item.value) or isinstance(item.value, Iterator | AsyncIterator):
            raise TuneError(
                f"{self._signature.name} returned an object of type {type(item.value).__name__!r} whose "
                "code has not run; declare the function with `async def`, or let the function itself yield"
            )
        return self._duplicate_row()

    def _row_after_end(self, end: FunctionEnd) -> Row:
        if end.error is not None and not self._stop_requested:
            raise TuneError(
                f"{self._signature.name} has already ended with {end.error!r}"
            ) from end.error
        return self._duplicate_row()

    def _row_of_report(self, metrics: Any) -> Row:
        if not isinstance(metrics, Mapping):
            raise TypeError(f"{self._signature.name} must yield dicts of metrics, got {metrics!r}")
        row = dict(metrics)
        checkpoint = row.pop(CHECKPOINT, None)
        if checkpoint is not None and not isinstance(checkpoint, Mapping | str | Path):
            raise TypeError(
                f"checkpoint reported by {self._signature.name} must be a dict or the path of a "
                f"directory, got {type(checkpoint).__qualname__}"
            )
        if isinstance(checkpoint, Path):
            checkpoint = str(checkpoint)
        if isinstance(checkpoint, Mapping):
            checkpoint = dict(checkpoint)
        self._new_checkpoint = checkpoint
        if self._new_checkpoint is not None:
            self._checkpoint = self._new_checkpoint
        self._last_row = row
        return row

    def _duplicate_row(self) -> Row:
        return {**self._last_row, _result.DONE: True, _result.RESULT_DUPLICATE: True}

    def _save(self, tmp_checkpoint_dir: str) -> Any:
        if self._checkpoint is None:
            raise TuneError(
                f"{self._signature.name} has reported no checkpoint; pass one with "
                "reporter(..., checkpoint=...) or tune.report(..., checkpoint=...)"
            )
        if isinstance(self._checkpoint, dict):
            return self._checkpoint
        source = Path(self._checkpoint)
        if not source.is_dir():
            raise TuneError(
                f"checkpoint reported by {self._signature.name} must be a dict or the path of a "
                f"directory, got {self._checkpoint!r}, which is not a directory"
            )
        # Without the manifest: a function may report a restored checkpoint, and save writes a new one.
        shutil.copytree(
            source,
            tmp_checkpoint_dir,
            dirs_exist_ok=True,
            ignore=lambda folder, _: {MANIFEST} if Path(folder) == source else set(),
        )
        return tmp_checkpoint_dir

    def _restore(self, checkpoint: Any) -> Any:
        if self._stepper is not None:
            self._stepper.stop(self._grace_s)
        self._reset(checkpoint)

    def _reset(self, checkpoint: Any) -> None:
        """Make the next ``train()`` start the function again from this checkpoint."""
        self._stepper = None
        self._end = None
        self._stop_requested = False
        if isinstance(checkpoint, dict):
            checkpoint.pop("tune_checkpoint_path", None)
        self._checkpoint = checkpoint

    async def _run_restore_from_object(self, obj: bytes) -> None:
        # The directory is kept, since the function may read it at any later time.
        parent = Path(self._logdir, f"restored_{uuid.uuid4().hex[:8]}")
        path = await self._hooks.blocking(unpack, obj, parent)
        await self._run_restore(str(path))

    def _stop(self) -> None:
        if self._stepper is None or self._end is not None:
            return
        self._stop_requested = True
        self._end = self._stepper.stop(self._grace_s)
        self._shutdown_note = self._note(self._end)

    def _note(self, end: FunctionEnd | None) -> str | None:
        """Return a note about the exception of a stopped function; None without one or for the stop.

        Raises:
            TrialError: The function did not end.
        """
        name = self._signature.name
        if end is None:
            raise TrialError(f"{name} did not end after the stop was requested")
        if end.error is None or _contains_stop(end.error):
            return None
        text = "".join(traceback.format_exception(end.error))
        return f"{name} was stopped and raised another exception:\n{text}"

    def _call(self, reporter: Session | None) -> Any:
        function = type(self)._function
        match self._signature.reporter:
            case ReporterBy.NOTHING:
                return function(self._config_copy)
            case ReporterBy.POSITION:
                return function(self._config_copy, reporter)
            case ReporterBy.NAME:
                return function(self._config_copy, reporter=reporter)

    @property
    def _grace_s(self) -> float:
        return self._context.grace_s if self._context else 10.0

    def _function_call(self) -> FunctionCall:
        return FunctionCall(
            self._call,
            self._checkpoint,
            self.trial_id,
            self.trial_name,
            self.logdir,
            own_process=self._context is not None and self._context.own_process,
        )


class AsyncFunctionTrainable(FunctionTrainable):
    """An ``async def`` function or async generator as a Trainable, on the loop of its executor."""

    def _setup(self, config: dict[str, Any]) -> None:
        super()._setup(config)
        self._async_stepper: TaskStepper | AsyncGeneratorStepper | None = None

    async def _train(self) -> Any:
        if self._end is not None:
            return self._row_after_end(self._end)
        if self._async_stepper is None:
            is_coroutine = self._signature.form is Form.ASYNC
            self._async_stepper = (TaskStepper if is_coroutine else AsyncGeneratorStepper)(
                self._function_call()
            )
        return self._row_from(await self._async_stepper.next())

    async def _restore(self, checkpoint: Any) -> Any:
        if self._async_stepper is not None:
            await self._async_stepper.stop(self._grace_s)
            self._async_stepper = None
        self._reset(checkpoint)

    async def abandon(self) -> None:
        """Cancel the function if it still runs; for an executor that has no time to stop it."""
        if isinstance(self._async_stepper, TaskStepper):
            await self._async_stepper.cancel()

    async def _stop(self) -> None:  # type: ignore[override]
        if self._async_stepper is None or self._end is not None:
            return
        self._stop_requested = True
        self._end = await self._async_stepper.stop(self._grace_s)
        self._shutdown_note = self._note(self._end)


def _contains_stop(error: BaseException | None, depth: int = 0) -> bool:
    """Return whether an exception is the stop, or contains the stop as its cause or in a group."""
    if error is None or depth > 20:  # the user's code can build a cycle of causes
        return False
    if isinstance(error, TrialStopped | GeneratorExit):
        return True
    if isinstance(error, BaseExceptionGroup) and any(
        _contains_stop(inner, depth + 1) for inner in error.exceptions
    ):
        return True
    return _contains_stop(error.__cause__, depth + 1)
