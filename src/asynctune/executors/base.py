"""The contract between the runner and whatever trains: executors lend actors.

A new kind of executor implements :meth:`Executor._start` and an :class:`Actor` with ``_begin`` and
``kill``.
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
    """Lends actors. An async context manager that serves any number of runs of one event loop."""

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

    def prepare(self, trainable: Any) -> SerializedTrainable:
        """Look at a trainable and make it ready to travel. May take a while; call it in a thread.

        Raises:
            ConfigError: It is no trainable.
            NotSerializable: It cannot travel to where it would train.
        """
        return serialize(trainable, pickled=True)

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
        serialized = await anyio.to_thread.run_sync(self.prepare, trainable)
        remote = remote_dir_of(serialized, remote_checkpoint_dir)
        given = dict(config or {})
        if resources is None:
            resources = serialized.cls.default_resource_request(given) or Resources()
        wanted = Resources.from_mapping(resources, "resources")
        advice = serialized.cls.resource_help(given)
        self.pool.check(wanted, what=serialized.name, advice=advice)
        make = (os.path.abspath, logdir) if logdir else (new_standalone_dir, serialized.name)
        place: str = await anyio.to_thread.run_sync(*make)
        async with self.slots.lend(wanted, owner=self) as share:
            log = os.path.join(place, "output.log")
            spec = ActorSpec(
                serialized, given, share, place, log=log, grace_s=grace_s, remote=remote
            )
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
                shut_down = await actor.shut_down(spec.grace_s)
                if shut_down.error is not None:
                    await log_warning("%s", shut_down.error)
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
