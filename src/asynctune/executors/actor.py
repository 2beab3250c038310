"""A Trainable somewhere else, as the driver awaits it: one request is answered before the next is sent."""

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
    """What is needed to build one actor.

    Args:
        serialized: The trainable.
        config: Its configuration.
        share: The resources that were lent to it.
        logdir: Its directory.
        trial_id: The trial, None outside a run.
        trial_name: Its name.
        tag: What was drawn for it, as a label.
        log: The file for its output, None for nowhere.
        grace_s: Seconds that it may clean up when it is stopped.
        remote: Where a durable trainable keeps its checkpoints.
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
    """What one ``train()`` came back with.

    Args:
        row: The result; after a function has ended, its last one.
        data: The same as the worker encoded it.
        ended: Whether the function has ended, so that this is no new result.
        checkpoint: Whether it came with a checkpoint that wants to be kept.
    """

    row: Row
    data: bytes
    ended: bool
    checkpoint: bool


@dataclass(frozen=True, slots=True)
class ShutdownResult:
    """How an actor ended.

    Args:
        late: A result that was under way when the stop came.
        saved: The path of a checkpoint that was under way then.
        note: What a function left behind that was told to stop.
        error: Why it had to be ended by force, or its clean-up failed.
    """

    late: Step | None = None
    saved: str | None = None
    note: str | None = None
    error: TrialError | None = None


class Actor(abc.ABC):
    """A Trainable somewhere else. Each method mirrors the Trainable's and is awaited.

    Each raises :class:`TrialError`, with the remote traceback as its cause, when the trainable raised,
    and :class:`WorkerDied` when its process ended.
    """

    def __init__(self, spec: ActorSpec) -> None:
        self.spec = spec
        self._pending: asyncio.Future[Answer] | None = None
        self._pending_method = ""
        self._stop_begun = False
        self._gone = False

    @property
    def logdir(self) -> str:
        """The directory of the trainable."""
        return self.spec.logdir

    async def train(self) -> Row:
        """Run one iteration and return its result; after a function's end its last one."""
        return (await self.step()).row

    async def step(self) -> Step:
        """Run one iteration; :meth:`train` with all that a runner wants to know."""
        return self._step(await self.call("train"))

    async def save(self, checkpoint_dir: str | None = None) -> str:
        """Save a checkpoint and return its path."""
        return str(json.loads((await self.call("save", checkpoint_dir)).body))

    async def restore(self, checkpoint_path: str) -> None:
        """Restore a checkpoint."""
        await self.call("restore", checkpoint_path)

    async def save_to_object(self) -> bytes:
        """Save the state as bytes."""
        return (await self.call("save_to_object")).body

    async def restore_from_object(self, obj: bytes) -> None:
        """Restore a state from bytes."""
        await self.call("restore_from_object", obj)

    async def delete_checkpoint(self, checkpoint_path: str) -> None:
        """Delete a checkpoint."""
        await self.call("delete_checkpoint", checkpoint_path)

    async def export_model(
        self, export_formats: str | list[str], export_dir: str | None = None
    ) -> dict[str, str]:
        """Export the model and return format -> path."""
        answer = await self.call("export_model", export_formats, export_dir)
        exported: dict[str, str] = json.loads(answer.body)
        return exported

    async def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Give the live object a new configuration; False if it cannot take one."""
        return bool(json.loads((await self.call("reset_config", new_config)).body))

    async def get_config(self) -> dict[str, Any]:
        """Return the configuration as JSON has it; objects in it are their ``repr``."""
        config: dict[str, Any] = json.loads((await self.call("get_config")).body)
        return config

    async def stop(self) -> str | None:
        """Stop the trainable; the actor can do nothing more. Returns what is to be noted, or None."""
        return self._stopped(await self.call("stop"))

    async def call(self, method: str, *args: Any) -> Answer:
        """Call a method by name; one at a time."""
        if method not in METHODS:
            raise AttributeError(f"a Trainable has no method {method!r}")
        if self._gone or self._stop_begun:
            raise ExecutorError(f"{method}() was called on an actor that has been stopped")
        if self._pending is not None:
            raise ExecutorError(
                f"{method}() was called while {self._pending_method}() is under way; an actor does "
                "one thing at a time"
            )
        self._pending, self._pending_method = self._begin(method, args), method
        self._stop_begun = method == "stop"
        return await self._awaited()

    async def shut_down(
        self, grace_s: float, scope: anyio.CancelScope | None = None
    ) -> ShutdownResult:
        """Stop, whatever is under way; what does not end within the grace is killed.

        Args:
            grace_s: Seconds.
            scope: Cancel it to end the grace early.

        Returns:
            How it went. This never raises because of the trainable.
        """
        if self._gone:
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
                        answer = await self._awaited()
                        if self._stop_begun:
                            note = self._stopped(answer)
                        elif self._pending_method == "train" and answer.kind is AnswerKind.ROW:
                            late = self._step(answer)
                        elif self._pending_method == "save":
                            saved = str(json.loads(answer.body))
                except TrialError as exc:
                    failure = exc
                try:
                    if not (self._gone or self._stop_begun):
                        note = await self.stop()
                except TrialError as exc:
                    failure = failure or exc
            if limit.cancelled_caught:
                failure = TrialTimeout(
                    f"{self._who()} did not end within {grace_s:g} s of its stop, in "
                    f"{self._pending_method}(); it was ended by force",
                    trial_id=self.spec.trial_id,
                )
        finally:
            if not self._gone:
                with anyio.CancelScope(shield=True):
                    await self.kill()
        return ShutdownResult(late, saved, note, failure)

    @abc.abstractmethod
    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        """Send a request; the future gets its answer, or the exception of a death."""

    @abc.abstractmethod
    async def kill(self) -> None:
        """End it at once, as far as that is possible, and return when it has ended."""

    def _stopped(self, answer: Answer) -> str | None:
        note: str | None = json.loads(answer.body)
        self._gone = True
        return note

    async def _awaited(self) -> Answer:
        """Wait for the pending answer. Cancelling this wait leaves it pending."""
        pending = self._pending
        assert pending is not None
        await asyncio.wait([pending])
        self._pending = None
        answer = pending.result()
        if answer.kind is AnswerKind.ERROR:
            raise self._error(answer, self._pending_method)
        return answer

    def _step(self, answer: Answer) -> Step:
        row: Row = json.loads(answer.body)
        return Step(row, answer.body, answer.kind is AnswerKind.ENDED, answer.checkpoint)

    def _error(self, answer: Answer, method: str) -> TrialError:
        body = json.loads(answer.body)
        text = f"{self._who()} failed in {method}(): {body['message']}"
        error = TrialError(text, trial_id=self.spec.trial_id, traceback=body["traceback"])
        if answer.error is not None:
            error.__cause__ = answer.error
            return error
        error.__cause__ = remote = RemoteError(body["traceback"])
        own = getattr(errors, body["type"], None) if body["own"] else None
        if isinstance(own, type) and issubclass(own, TuneError):
            with contextlib.suppress(TypeError):  # one whose constructor wants more
                error.__cause__ = cause = own(body["text"])
                cause.__cause__ = remote
                if isinstance(cause, errors.StorageError):
                    cause.errno = body["errno"]
        return error

    def _who(self) -> str:
        return f"trial {self.spec.trial_id}" if self.spec.trial_id else self.spec.serialized.name
