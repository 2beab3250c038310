"""Functions as trainables: ``_train()`` lets the function run to its next report."""

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
from asynctune.trainable.base import Trainable
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
"""The metric name that is no metric: ``reporter(loss=1, checkpoint=...)``."""


def wrap_function(function: Function) -> type[FunctionTrainable]:
    """Make a Trainable class of a function, whose ``train()`` lets it run to its next report.

    Raises:
        ConfigError: The function has a signature that cannot be called.
    """
    signature = inspect_function(function)
    asynchronous = signature.form in (Form.ASYNC, Form.ASYNC_GENERATOR)
    base = AsyncFunctionTrainable if asynchronous else FunctionTrainable
    namespace = {"_function": staticmethod(function), "_signature": signature}
    return type(signature.name, (base,), namespace)


class FunctionTrainable(Trainable):
    """A plain function or generator as a Trainable; made by :func:`wrap_function`."""

    _function: ClassVar[Function]
    _signature: ClassVar[Signature]

    def _setup(self, config: dict[str, Any]) -> None:
        self._config_copy = config
        self._checkpoint: Checkpoint | None = None
        self._offered: Checkpoint | None = None
        self._last: Row = {}
        self._ended: FunctionEnd | None = None
        self._told_to_stop = False
        self._feed: ThreadStepper | GeneratorStepper | None = None

    @property
    def offers_checkpoint(self) -> bool:
        """Whether the last report came with a checkpoint."""
        return self._offered is not None

    def _train(self) -> Any:
        if self._ended is not None:
            return self._after_the_end(self._ended)
        if self._feed is None:
            feed = GeneratorStepper if self._signature.form is Form.GENERATOR else ThreadStepper
            self._feed = feed(self._feeding())
        return self._taken(self._feed.next())

    def _taken(self, item: Any) -> Row:
        """Turn what a feed gave into what ``_train`` returns."""
        self._offered = None
        if not isinstance(item, FunctionEnd):
            return self._reported(item)
        self._ended = item
        if item.error is not None:
            error = item.error
            if isinstance(error, Exception) and not isinstance(
                error, StopIteration | StopAsyncIteration
            ):
                raise error
            # These would end something else than the trial on their way up.
            raise RuntimeError(f"{self._signature.name} raised {error!r}") from error
        if isinstance(item.value, Mapping):
            return self._reported(item.value)
        if inspect.iscoroutine(item.value) or inspect.isgenerator(item.value):
            item.value.close()
        if inspect.isawaitable(item.value) or isinstance(item.value, Iterator | AsyncIterator):
            raise TuneError(
                f"{self._signature.name} returned {type(item.value).__name__!r}, so nothing of it has "
                "run; declare it with `async def`, or let the function itself yield"
            )
        return self._duplicate()

    def _after_the_end(self, ended: FunctionEnd) -> Row:
        if ended.error is not None and not self._told_to_stop:
            raise TuneError(
                f"{self._signature.name} has ended with {ended.error!r}"
            ) from ended.error
        return self._duplicate()

    def _reported(self, metrics: Any) -> Row:
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"{self._signature.name} yielded {metrics!r}; a dict of metrics is wanted"
            )
        row = dict(metrics)
        offered = row.pop(CHECKPOINT, None)
        if offered is not None and not isinstance(offered, Mapping | str | Path):
            raise TypeError(
                f"{self._signature.name} reported a checkpoint of type {type(offered).__qualname__}; "
                "a dict or the path of a directory is wanted"
            )
        if isinstance(offered, Path):
            offered = str(offered)
        self._offered = offered if offered is None or isinstance(offered, str) else dict(offered)
        if self._offered is not None:
            self._checkpoint = self._offered
        self._last = row
        return row

    def _duplicate(self) -> Row:
        return {**self._last, _result.DONE: True, _result.RESULT_DUPLICATE: True}

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
                f"{self._signature.name} reported the checkpoint {self._checkpoint!r}, "
                "which is not a directory"
            )
        # A checkpoint that was restored may be reported again: its manifest is not the user's file.
        shutil.copytree(
            source,
            tmp_checkpoint_dir,
            dirs_exist_ok=True,
            ignore=lambda folder, _: {MANIFEST} if Path(folder) == source else set(),
        )
        return tmp_checkpoint_dir

    def _restore(self, checkpoint: Any) -> Any:
        if self._feed is not None:
            self._feed.stop(self._grace_s)
        self._begin_from(checkpoint)

    def _begin_from(self, checkpoint: Any) -> None:
        """Let the next ``train()`` start the function anew, with this checkpoint."""
        self._feed = None
        self._ended = None
        self._told_to_stop = False
        if isinstance(checkpoint, dict):
            checkpoint.pop("tune_checkpoint_path", None)
        self._checkpoint = checkpoint

    async def _run_restore_from_object(self, obj: bytes) -> None:
        from asynctune.storage.checkpoints import archive as _packing

        # The function reads a directory when it likes, so this one stays.
        parent = Path(self._logdir, f"restored_{uuid.uuid4().hex[:8]}")
        path = await self._calls.blocking(_packing.unpack, obj, parent)
        await self._run_restore(str(path))

    def _stop(self) -> Any:
        if self._feed is None or self._ended is not None:
            return None
        self._told_to_stop = True
        self._ended = self._feed.stop(self._grace_s)
        return self._note(self._ended)

    def _note(self, ended: FunctionEnd | None) -> str | None:
        """Say what is worth noting about the end of a function that was told to stop."""
        name = self._signature.name
        if ended is None:
            raise TrialError(f"{name} did not end after it was told to stop")
        if ended.error is None or _contains_stop(ended.error):
            return None
        text = "".join(traceback.format_exception(ended.error))
        return f"{name} was told to stop and ended with another exception:\n{text}"

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
        return self._host.grace_s if self._host else 10.0

    def _feeding(self) -> FunctionCall:
        return FunctionCall(
            self._call,
            self._checkpoint,
            self.trial_id,
            self.trial_name,
            self.logdir,
            own_process=self._host is not None and self._host.own_process,
        )


class AsyncFunctionTrainable(FunctionTrainable):
    """An ``async def`` function or async generator as a Trainable, on the loop of its host."""

    def _setup(self, config: dict[str, Any]) -> None:
        super()._setup(config)
        self._async_feed: TaskStepper | AsyncGeneratorStepper | None = None

    async def _train(self) -> Any:
        if self._ended is not None:
            return self._after_the_end(self._ended)
        if self._async_feed is None:
            plain = self._signature.form is Form.ASYNC
            self._async_feed = (TaskStepper if plain else AsyncGeneratorStepper)(self._feeding())
        return self._taken(await self._async_feed.next())

    async def _restore(self, checkpoint: Any) -> Any:
        if self._async_feed is not None:
            await self._async_feed.stop(self._grace_s)
            self._async_feed = None
        self._begin_from(checkpoint)

    async def abandon(self) -> None:
        """Cancel what is left of the function, when its host has no time to stop it."""
        if isinstance(self._async_feed, TaskStepper):
            await self._async_feed.cancel()

    async def _stop(self) -> Any:
        if self._async_feed is None or self._ended is not None:
            return None
        self._told_to_stop = True
        self._ended = await self._async_feed.stop(self._grace_s)
        return self._note(self._ended)


def _contains_stop(error: BaseException | None, depth: int = 0) -> bool:
    """Tell whether an exception is the stop, or holds it, as its cause or in a group."""
    if error is None or depth > 20:
        return False
    if isinstance(error, TrialStopped | GeneratorExit):
        return True
    if isinstance(error, BaseExceptionGroup) and any(
        _contains_stop(inner, depth + 1) for inner in error.exceptions
    ):
        return True
    return _contains_stop(error.__cause__, depth + 1)
