"""The contract between the runner and whatever trains: executors lend actors.

One request is answered before the next is sent. A new kind of executor implements
:meth:`Executor._start` and an :class:`Actor` with ``_begin`` and ``kill``.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import anyio
import anyio.to_thread

from asynctune import errors
from asynctune.errors import ExecutorError, RemoteError, TrialError, TrialTimeout, TuneError
from asynctune.executors._hosted import METHODS, Answer, AnswerKind
from asynctune.executors._shipping import Shipment, remote_dir_of, ship
from asynctune.executors._slots import Slots
from asynctune.hosting import new_standalone_dir
from asynctune.notices import warn
from asynctune.resources import ResourcePool, Resources, Share
from asynctune.result import Row
from asynctune.storage import Storage
from asynctune.storage.commits import RemoteDir


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """What is needed to build one actor.

    Args:
        shipment: The trainable.
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

    shipment: Shipment
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
class Farewell:
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

    async def farewell(self, grace_s: float, scope: anyio.CancelScope | None = None) -> Farewell:
        """Stop, whatever is under way; what does not end within the grace is killed.

        Args:
            grace_s: Seconds.
            scope: Cancel it to end the grace early.

        Returns:
            How it went. This never raises because of the trainable.
        """
        if self._gone:
            return Farewell()
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
        return Farewell(late, saved, note, failure)

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
        return f"trial {self.spec.trial_id}" if self.spec.trial_id else self.spec.shipment.name


class Executor(abc.ABC):
    """Lends actors. An async context manager that serves any number of runs of one event loop.

    Attributes:
        can_kill: Whether code that does not return can be ended.
        owns_cwd: Whether a trial has a working directory and an environment of its own.
        captures_output: Whether what a trial prints goes to its own file.
    """

    can_kill: ClassVar[bool] = True
    owns_cwd: ClassVar[bool] = True
    captures_output: ClassVar[bool] = True

    def __init__(self, pool: ResourcePool) -> None:
        self.slots = Slots(pool)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._open = False
        with anyio.CancelScope(shield=True):
            await self._close()

    @property
    def pool(self) -> ResourcePool:
        """The book of resources."""
        return self.slots.pool

    def prepare(self, trainable: Any) -> Shipment:
        """Look at a trainable and make it ready to travel. May take a while; call it in a thread.

        Raises:
            ConfigError: It is no trainable.
            NotSerializable: It cannot travel to where it would train.
        """
        return ship(trainable, pickled=True)

    def check_config(self, config: dict[str, Any]) -> None:  # noqa: B027 - the default is right
        """Raise if a configuration cannot travel to where trials train."""

    def check_open(self) -> None:
        """Raise unless this executor can be used here and now."""
        name = type(self).__name__
        if not self._open:
            raise ExecutorError(f"this {name} is not open; use `async with {name}(...) as pool:`")
        if self._loop is not asyncio.get_running_loop():
            raise ExecutorError(
                f"this {name} was opened in another event loop; open one in this loop"
            )

    @asynccontextmanager
    async def actor(
        self,
        trainable: Any,
        config: Mapping[str, Any] | None = None,
        *,
        resources: Resources | Mapping[str, Any] | None = None,
        logdir: str | None = None,
        grace_s: float = 10.0,
        remote_checkpoint_dir: str | os.PathLike[str] | Storage | None = None,
    ) -> AsyncIterator[Actor]:
        """Build a trainable and lend its mirror; leaving stops it.

        Args:
            trainable: A Trainable class or a function.
            config: Its configuration.
            resources: What it holds meanwhile; by default what it requests itself, else one CPU.
            logdir: Its directory; by default a new one in the folder of results.
            grace_s: Seconds that it may clean up when the block is left.
            remote_checkpoint_dir: Where a durable trainable keeps its checkpoints.
        """
        self.check_open()
        shipment = await anyio.to_thread.run_sync(self.prepare, trainable)
        remote = remote_dir_of(shipment, remote_checkpoint_dir)
        given = dict(config or {})
        if resources is None:
            resources = shipment.cls.default_resource_request(given) or Resources()
        wanted = Resources.from_mapping(resources, "resources")
        advice = shipment.cls.resource_help(given)
        self.pool.check(wanted, what=shipment.name, advice=advice)
        make = (os.path.abspath, logdir) if logdir else (new_standalone_dir, shipment.name)
        place: str = await anyio.to_thread.run_sync(*make)
        async with self.slots.lend(wanted, owner=self) as share:
            log = os.path.join(place, "output.log")
            spec = ActorSpec(shipment, given, share, place, log=log, grace_s=grace_s, remote=remote)
            async with self.start(spec) as actor:
                yield actor

    @asynccontextmanager
    async def start(self, spec: ActorSpec) -> AsyncIterator[Actor]:
        """Build the actor of a specification, whose share is already held; leaving ends it.

        Raises:
            TrialError: Building failed.
        """
        self.check_open()
        actor = await self._start(spec)
        try:
            yield actor
        finally:
            with anyio.CancelScope(shield=True):
                farewell = await actor.farewell(spec.grace_s)
                if farewell.error is not None:
                    await warn("%s", farewell.error)
                await self._finish(actor)

    @abc.abstractmethod
    async def _start(self, spec: ActorSpec) -> Actor:
        """Build an actor; clean up by itself if that fails."""

    @abc.abstractmethod
    async def _finish(self, actor: Actor) -> None:
        """Take back what an actor that has ended stood on."""

    @abc.abstractmethod
    async def _close(self) -> None:
        """End everything."""
