"""Trials in reused worker processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import anyio
import anyio.to_thread

from asynctune._checks import check_int, check_list, check_number
from asynctune.errors import ExecutorError
from asynctune.executors._machine import detected_gpus, environment_of, gpu_ids, usable_cpus
from asynctune.executors._worker_handle import ProcessActor, WorkerHandle
from asynctune.executors.actor import Actor, ActorSpec
from asynctune.executors.base import Executor
from asynctune.executors.pool import ResourcePool
from asynctune.executors.serialization import dump_build_arguments, dump_config
from asynctune.executors.worker_server import VMSTAT, Death, WorkerServer, import_path
from asynctune.storage.filesystem import storage_error

_DEATH_NOTICE_S = 2.0
_RELEASE_S = 5.0


class ProcessExecutor(Executor):
    """Trains in worker processes, which a small server forks and later trials reuse.

    Args:
        max_workers: The maximum number of trials at once; by default as many as the CPUs allow.
        cpus: The number of CPUs for all trials; by default those that this process may use, at least
            ``max_workers``.
        gpus: The number of GPUs, or their ids; by default those of ``CUDA_VISIBLE_DEVICES``, otherwise
            those that the NVIDIA driver lists.
        preload: The names of modules that the server imports once, so that workers start with them. Their
            import must not start threads; BLAS in them is limited only if threadpoolctl is installed.
        custom_resources: The amounts of other resources for all trials, by name.

    Raises:
        ConfigError: An argument is wrong.
        ExecutorError: The system is Windows, where processes cannot be forked.
    """

    _vmstat: ClassVar[str] = VMSTAT

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        cpus: float | None = None,
        gpus: int | Sequence[int | str] | None = None,
        preload: Sequence[str] = (),
        custom_resources: Mapping[str, float] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ExecutorError(
                "ProcessExecutor forks its workers and passes sockets to them, which Windows does not "
                "support; use InlineExecutor on Windows"
            )
        name = "ProcessExecutor"
        if max_workers is not None:
            max_workers = check_int(name, "max_workers", max_workers, 1)
        if cpus is not None:
            cpus = check_number(name, "cpus", cpus, above=0)
        self._preload = check_list(name, "preload", preload)
        total = cpus if cpus is not None else max(usable_cpus(), max_workers or 0)
        super().__init__(ResourcePool(total, gpu_ids(gpus), custom_resources or {}, max_workers))
        self._detects_gpus = gpus is None
        self._server: WorkerServer | None = None
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()
        self._workers: dict[int, WorkerHandle] = {}
        self._idle: dict[int, deque[WorkerHandle]] = {}

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are alive."""
        return self._server.pids if self._server is not None else []

    async def __aenter__(self) -> Self:
        if self._detects_gpus:
            self.pool.set_gpus(await anyio.to_thread.run_sync(detected_gpus))
        return await super().__aenter__()

    def check_config(self, config: dict[str, Any]) -> None:
        dump_config(config)

    async def _start(self, spec: ActorSpec) -> Actor:
        config, path = await anyio.to_thread.run_sync(
            lambda: (dump_build_arguments(spec.config, spec.remote), import_path())
        )
        environment = environment_of(spec)
        worker = self._take_idle(spec, environment)
        if worker is None:
            worker = await self._new_worker(spec, environment)
        return ProcessActor(spec, worker, config, path)

    async def _finish(self, actor: Actor) -> None:
        assert isinstance(actor, ProcessActor)
        worker = actor.worker
        # A process that has opened a GPU keeps memory of it, so such workers are not reused.
        is_reusable = actor.is_clean and not actor.spec.share.gpu_ids and self._open
        released = False
        try:
            if is_reusable:
                with anyio.move_on_after(min(_RELEASE_S, max(0.5, actor.spec.grace_s))):
                    released = await actor.release()
        finally:
            if released:
                self._idle.setdefault(worker.threads, deque()).append(worker)
            else:
                await actor.kill()

    async def _close(self) -> None:
        async with self._starting:  # wait for a server that is being started, and end it, too
            server, self._server = self._server, None
        for worker in list(self._workers.values()):
            worker.quit()
        # Idle workers end by themselves; closing the server kills those that hang.
        try:
            with anyio.move_on_after(_DEATH_NOTICE_S):
                for worker in list(self._workers.values()):
                    if worker.is_idle:
                        await worker.died.wait()
        finally:
            self._idle.clear()
            if server is not None:
                await server.close()

    def _take_idle(self, spec: ActorSpec, environment: dict[str, str]) -> WorkerHandle | None:
        if spec.share.gpu_ids:
            return None
        for idle in self._idle.get(spec.share.resources.threads, ()):
            if idle.environment == environment and not idle.died.is_set():
                self._idle[idle.threads].remove(idle)
                idle.is_idle = False
                return idle
        return None

    async def _new_worker(self, spec: ActorSpec, environment: dict[str, str]) -> WorkerHandle:
        try:
            return await self._forked(spec, environment)
        except OSError as exc:
            # A limit of open files or processes concerns the run: no other trial could start either.
            raise ExecutorError(str(storage_error(exc, "no worker can be started"))) from exc

    async def _forked(self, spec: ActorSpec, environment: dict[str, str]) -> WorkerHandle:
        async with self._starting:
            self.check_open()
            if self._server is not None and self._server.is_gone:
                await self._server.close()
                self._server = None
            if self._server is None:
                self._server = await WorkerServer.start(self._preload, self._on_exit, self._vmstat)
        self._retire_surplus()
        number = next(self._numbers)
        worker = WorkerHandle(number, self._server, environment, spec.share.resources.threads)
        self._workers[number] = worker
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: worker, sock=self._server.fork(number))
        except BaseException:
            self._server.kill(number, "its driver no longer needed it")
            raise
        worker.send({"op": "environment"}, worker.environment_message())
        return worker

    def _retire_surplus(self) -> None:
        """End idle workers while there are as many workers as trials may run at once.

        Idle workers differ in their threads and environment, so none of them may suit the next trial.
        """
        limit = self.pool.slots or max(1, int(self.pool.cpus))
        for queue in self._idle.values():
            while queue and len(self._workers) >= limit:
                worker = queue.popleft()
                worker.quit()
                self._workers.pop(worker.number, None)

    def _on_exit(self, number: int, death: Death) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None:
            for queue in self._idle.values():
                with contextlib.suppress(ValueError):
                    queue.remove(worker)
            worker.on_death(death)
