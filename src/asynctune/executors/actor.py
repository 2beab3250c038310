"""Actors: awaitable handles of remote trainables. An actor sends one request at a time."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

import anyio

from asynctune import errors
from asynctune.errors import ExecutorError, RemoteError, TrialError, TrialTimeout, TuneError
from asynctune.executors.pool import Share
from asynctune.executors.serialization import SerializedTrainable
from asynctune.result import Row
from asynctune.storage.checkpoints.commits import RemoteDir
from asynctune.trainable.worker.calls import METHODS, Answer, AnswerKind


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """The arguments from which an executor builds one actor.

    Args:
        serialized: The trainable.
        config: The configuration of the trainable.
        share: The resources that are leased to the actor.
        logdir: The absolute path of the directory of the trainable. The executor creates a missing one.
        trial_id: The id of the trial; None outside a run.
        trial_name: The name of the trial; None outside a run.
        tag: The drawn values of the configuration as a label; None outside a run.
        log: The path of the file for printed output; None to discard output.
        grace_s: The seconds that a stopped trainable may take to clean up.
        remote: The remote directory of a durable trainable's checkpoints; None for other trainables.
    """

    serialized: SerializedTrainable
    config: dict[str, Any]
    share: Share
    logdir: str
    trial_id: str | None = None
    trial_name: str | None = None
    tag: str | None = None
    log: str | None = None
    grace_s: float = 10.0
    remote: RemoteDir | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The answer to one ``train()``.

    Args:
        row: The result; after the end of a function, its last result once more.
        data: The result as the JSON bytes that the worker sent.
        ended: Whether the function has ended, so that ``row`` is no new result.
        checkpoint: Whether the trainable asks for a checkpoint after this result.
    """

    row: Row
    data: bytes
    ended: bool
    checkpoint: bool


@dataclass(frozen=True, slots=True)
class ShutdownResult:
    """The outcome of stopping an actor.

    Args:
        late: The result of a ``train()`` that was in progress when the stop was requested.
        saved: The path of the checkpoint of a ``save()`` that was in progress then.
        note: The traceback of an exception that a stopped function raised in place of ending.
        error: The reason why the actor was killed, or the error of its clean-up.
    """

    late: Step | None = None
    saved: str | None = None
    note: str | None = None
    error: TrialError | None = None


class Actor(abc.ABC):
    """A handle of a trainable that lives in a thread, a process or on another machine.

    Each method mirrors a method of the Trainable and is awaited. Each raises :class:`TrialError`, with the
    remote traceback as its cause, when the trainable raises, and :class:`WorkerDied` when its process ends.

    A subclass implements two methods, usually with a :class:`TrainableHost` where the trainable lives:

    - ``_begin(method, args)`` sends a request to the trainable, and returns an :class:`asyncio.Future` of
      its :class:`Answer`. The first request is ``"_setup"``, which builds the trainable; each later one is
      the name of a method of the Trainable. The actor sends the next request only after this future is
      done. If the worker dies, the exception of the future is a :class:`WorkerDied`.
    - ``async _kill()`` ends the process of the trainable, or abandons its thread. The actor may call it
      several times, also during a request and after the trainable has stopped. If a thread that cannot be
      killed is still busy, log a warning with the words "cannot be killed" to the ``asynctune`` logger.

    Args:
        spec: The arguments to build the trainable from.

    Attributes:
        spec: These arguments.
    """

    def __init__(self, spec: ActorSpec) -> None:
        self.spec = spec
        self._pending: asyncio.Future[Answer] | None = None
        self._pending_method = ""
        self._stop_requested = False
        self._is_ended = False

    @property
    def logdir(self) -> str:
        """The directory of the trainable."""
        return self.spec.logdir

    async def build(self) -> None:
        """Build the trainable from its specification and set it up; the executor calls this once.

        Raises:
            TrialError: The constructor or ``_setup`` raised.
        """
        await self._request("_setup", ())

    async def train(self) -> Row:
        """Run one iteration and return the result; after the end of a function, its last result again."""
        return (await self.step()).row

    async def step(self) -> Step:
        """Run one iteration and return the result with the flags that a runner needs."""
        return self._parse_step(await self.call("train"))

    async def save(self, checkpoint_dir: str | None = None) -> str:
        """Save a checkpoint and return its path."""
        return str(json.loads((await self.call("save", checkpoint_dir)).body))

    async def restore(self, checkpoint_path: str) -> None:
        """Restore the state from a checkpoint."""
        await self.call("restore", checkpoint_path)

    async def save_to_object(self) -> bytes:
        """Return the state as bytes."""
        return (await self.call("save_to_object")).body

    async def restore_from_object(self, obj: bytes) -> None:
        """Restore the state from bytes."""
        await self.call("restore_from_object", obj)

    async def delete_checkpoint(self, checkpoint_path: str) -> None:
        """Delete a checkpoint."""
        await self.call("delete_checkpoint", checkpoint_path)

    async def export_model(
        self, export_formats: str | list[str], export_dir: str | None = None
    ) -> dict[str, str]:
        """Export the model and return a dict from format to path."""
        answer = await self.call("export_model", export_formats, export_dir)
        exported: dict[str, str] = json.loads(answer.body)
        return exported

    async def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Give the live object a new configuration. Return False if the trainable does not support that."""
        return bool(json.loads((await self.call("reset_config", new_config)).body))

    async def get_config(self) -> dict[str, Any]:
        """Return the configuration as JSON values; other objects are replaced by their ``repr``."""
        config: dict[str, Any] = json.loads((await self.call("get_config")).body)
        return config

    async def stop(self) -> str | None:
        """Stop the trainable. No other call is possible afterwards.

        Returns:
            The traceback of an exception that a stopped function raised in place of ending, or None.
        """
        return self._parse_stop(await self.call("stop"))

    async def call(self, method: str, *args: Any) -> Answer:
        """Call a method of the trainable by name and return its answer.

        Args:
            method: The name of a method of the Trainable, as ``"train"``.
            *args: The arguments of the method.

        Raises:
            ExecutorError: Another call is in progress, or the actor has been stopped.
            TrialError: The method raised.
        """
        if method not in METHODS:
            raise AttributeError(f"a Trainable has no method {method!r}")
        if self._is_ended or self._stop_requested:
            raise ExecutorError(f"{method}() was called on an actor that has been stopped")
        if self._pending is not None:
            raise ExecutorError(
                f"{method}() was called while {self._pending_method}() is in progress; an actor "
                "performs one call at a time"
            )
        return await self._request(method, args)

    async def shut_down(
        self, grace_s: float, scope: anyio.CancelScope | None = None
    ) -> ShutdownResult:
        """Wait for the call in progress, stop the trainable, and kill it if the grace period ends first.

        Args:
            grace_s: The grace period in seconds, for the call in progress and the stop together.
            scope: A cancel scope that this call enters; cancel the scope to end the grace period early.

        Returns:
            The outcome. Errors of the trainable are part of it and are not raised.
        """
        if self._is_ended:
            return ShutdownResult()
        late: Step | None = None
        saved: str | None = None
        note: str | None = None
        failure: TrialError | None = None
        limit = scope or anyio.CancelScope()
        limit.shield = True
        limit.deadline = anyio.current_time() + grace_s
        try:
            with limit:
                try:
                    if self._pending is not None:
                        answer = await self._wait_for_answer()
                        if self._stop_requested:
                            note = self._parse_stop(answer)
                        elif self._pending_method == "train" and answer.kind is AnswerKind.ROW:
                            late = self._parse_step(answer)
                        elif self._pending_method == "save":
                            saved = str(json.loads(answer.body))
                except TrialError as exc:
                    failure = exc
                try:
                    if not (self._is_ended or self._stop_requested):
                        note = await self.stop()
                except TrialError as exc:
                    failure = failure or exc
            if limit.cancelled_caught:
                failure = TrialTimeout(
                    f"{self._label()} did not end within {grace_s:g} s of its stop, in "
                    f"{self._pending_method}(); it was ended by force",
                    trial_id=self.spec.trial_id,
                )
        finally:
            if not self._is_ended:
                with anyio.CancelScope(shield=True):
                    await self.kill()
        return ShutdownResult(late, saved, note, failure)

    async def kill(self) -> None:
        """End the trainable at once, as far as that is possible, and return when it has ended."""
        self._is_ended = True
        if self._pending is not None:
            # No call waits for this answer any more; asyncio would log its exception.
            self._pending.add_done_callback(_retrieve_exception)
        await self._kill()

    @abc.abstractmethod
    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        """Send a request and return the future of its answer.

        The actor sends the next request only after this future is done, and never cancels it. If the worker
        dies, set :class:`WorkerDied` as the exception of the future.

        Args:
            method: ``"_setup"`` in the first request, to build the trainable and set it up; afterwards the
                name of a method of the Trainable.
            args: The arguments of the method.
        """

    @abc.abstractmethod
    async def _kill(self) -> None:
        """Release what the trainable runs in: end its process, or at least abandon its thread.

        May be called several times, also after the trainable has stopped by itself, and while a request is
        in progress. A cancellation of the caller may interrupt the first ``await`` in it, so whatever must
        happen has to be done or scheduled before.
        """

    async def _request(self, method: str, args: tuple[Any, ...]) -> Answer:
        self._pending, self._pending_method = self._begin(method, args), method
        self._stop_requested = method == "stop"
        return await self._wait_for_answer()

    def _parse_stop(self, answer: Answer) -> str | None:
        note: str | None = json.loads(answer.body)
        self._is_ended = True
        return note

    async def _wait_for_answer(self) -> Answer:
        """Wait for the pending answer. A cancellation of this wait leaves the request pending."""
        pending = self._pending
        assert pending is not None
        await asyncio.wait([pending])
        self._pending = None
        answer = pending.result()
        if answer.kind is AnswerKind.ERROR:
            raise self._error(answer, self._pending_method)
        return answer

    def _parse_step(self, answer: Answer) -> Step:
        row: Row = json.loads(answer.body)
        return Step(row, answer.body, answer.kind is AnswerKind.ENDED, answer.checkpoint)

    def _error(self, answer: Answer, method: str) -> TrialError:
        body = json.loads(answer.body)
        text = f"{self._label()} failed in {method}(): {body['message']}"
        error = TrialError(text, trial_id=self.spec.trial_id, traceback=body["traceback"])
        if answer.error is not None:
            error.__cause__ = answer.error
            return error
        error.__cause__ = remote = RemoteError(body["traceback"])
        own = getattr(errors, body["type"], None) if body["own"] else None
        if isinstance(own, type) and issubclass(own, TuneError):
            with contextlib.suppress(TypeError):  # a class whose constructor takes other arguments
                error.__cause__ = cause = own(body["text"])
                cause.__cause__ = remote
                if isinstance(cause, errors.StorageError):
                    cause.errno = body["errno"]
        return error

    def _label(self) -> str:
        """Return the name of the trial or trainable for messages."""
        return f"trial {self.spec.trial_id}" if self.spec.trial_id else self.spec.serialized.name


def _retrieve_exception(future: asyncio.Future[Answer]) -> None:
    if not future.cancelled():
        future.exception()
