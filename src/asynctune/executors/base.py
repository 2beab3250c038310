"""The base class of executors: what the runner expects of the place where trials train.

A new kind of executor implements :meth:`Executor._start` and an :class:`Actor` with ``_begin`` and
``_kill``.
"""

from __future__ import annotations

import abc
import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import anyio.to_thread

from asynctune._threads import log_warning
from asynctune.errors import ExecutorError
from asynctune.executors.actor import Actor, ActorSpec
from asynctune.executors.pool import ResourcePool
from asynctune.executors.serialization import SerializedTrainable, remote_dir_of, serialize
from asynctune.executors.slots import Slots
from asynctune.resources import Resources
from asynctune.storage import Storage
from asynctune.trainable.context import new_standalone_dir


class Executor(abc.ABC):
    """Leases actors. An async context manager that serves any number of runs of one event loop.

    A subclass implements one coroutine method, and may override two more and :meth:`prepare`:

    - ``_start(spec)`` returns a new :class:`Actor` for an :class:`ActorSpec`, without a trainable yet.
    - ``_finish(actor)`` releases what a finished actor runs in; by default it kills the actor.
    - ``_close()`` releases what the actors share, once, when the executor is closed.

    Args:
        pool: The resources that trials may hold at once.

    Attributes:
        slots: The queue in which runs wait for resources of the pool.
    """

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
        """The resources of this executor."""
        return self.slots.pool

    def prepare(self, trainable: Any) -> SerializedTrainable:
        """Check a trainable and pickle it. May block for a while; call it in a thread.

        An executor that trains in this process overrides this with ``serialize(trainable, pickled=False)``.

        Args:
            trainable: A Trainable class or a function.

        Raises:
            ConfigError: The object is not a trainable.
            NotSerializable: The trainable cannot be sent to a worker.
        """
        return serialize(trainable, pickled=True)

    def check_config(self, config: dict[str, Any]) -> None:  # noqa: B027 - the default is right
        """Raise :class:`NotSerializable` if a configuration cannot be sent to a worker."""

    def check_open(self) -> None:
        """Raise :class:`ExecutorError` unless this executor is open in the running event loop."""
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
        """Build a trainable and lease its actor; the end of the block stops the trainable.

        Args:
            trainable: A Trainable class or a function.
            config: The configuration of the trainable.
            resources: The resources of the actor; by default those that the trainable requests, otherwise
                one CPU.
            logdir: The directory of the trainable; by default a new one in the results directory.
            grace_s: The seconds that the trainable may take to clean up at the end of the block.
            remote_checkpoint_dir: The URL, path or storage for the checkpoints of a durable trainable.

        Raises:
            ConfigError: An argument is wrong.
            TrialError: Building the trainable failed.
        """
        self.check_open()
        serialized = await anyio.to_thread.run_sync(self.prepare, trainable)
        remote = remote_dir_of(serialized, remote_checkpoint_dir)
        values = dict(config or {})
        if resources is None:
            resources = serialized.cls.default_resource_request(values) or Resources()
        wanted = Resources.from_mapping(resources, "resources")
        advice = serialized.cls.resource_help(values)
        self.pool.check(wanted, what=serialized.name, advice=advice)
        make = (os.path.abspath, logdir) if logdir else (new_standalone_dir, serialized.name)
        directory: str = await anyio.to_thread.run_sync(*make)
        with await self.slots.lease(wanted, owner=self) as lease:
            log = os.path.join(directory, "output.log")
            spec = ActorSpec(
                serialized, values, lease.share, directory, log=log, grace_s=grace_s, remote=remote
            )
            async with self.start(spec) as actor:
                yield actor

    @asynccontextmanager
    async def start(self, spec: ActorSpec) -> AsyncIterator[Actor]:
        """Build an actor; the end of the block stops the trainable.

        Args:
            spec: The arguments; the caller holds the lease of ``spec.share`` during the block.

        Raises:
            TrialError: Building the trainable failed.
        """
        self.check_open()
        actor = await self._start(spec)
        try:
            await actor.build()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await actor.kill()
            raise
        try:
            yield actor
        finally:
            with anyio.CancelScope(shield=True):
                shut_down = await actor.shut_down(spec.grace_s)
                if shut_down.error is not None:
                    await log_warning("%s", shut_down.error)
                await self._finish(actor)

    @abc.abstractmethod
    async def _start(self, spec: ActorSpec) -> Actor:
        """Return a new actor, whose trainable is not built yet. If this raises, it releases everything."""

    async def _finish(self, actor: Actor) -> None:
        """Release what a finished actor runs in; by default kill the actor."""
        await actor.kill()

    async def _close(self) -> None:  # noqa: B027 - the default is right
        """Release what the actors share; called once, when the executor is closed."""
