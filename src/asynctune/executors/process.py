"""Trials in warm worker processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import anyio
import anyio.to_thread

from asynctune.errors import ConfigError, ExecutorError, WorkerDied
from asynctune.executors._frames import HEAD, frame
from asynctune.executors._guardian import VMSTAT, Death, Guardian, import_path
from asynctune.executors._hosted import Answer, AnswerKind
from asynctune.executors._shipping import dump_args, dump_config, dump_parts
from asynctune.executors.base import Actor, ActorSpec, Executor
from asynctune.files import storage_error
from asynctune.resources import ResourcePool

_THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_DEATH_NOTICE_S = 2.0
_RELEASE_S = 5.0


class ProcessExecutor(Executor):
    """Lends actors in worker processes, which are forked by a small server and used again.

    Args:
        max_workers: At most this many trials at once; by default as many as the CPUs allow.
        cpus: CPUs to share out; by default those this process may use, at least ``max_workers``.
        gpus: How many GPUs, or their ids; by default those of ``CUDA_VISIBLE_DEVICES``, else those
            that the NVIDIA driver lists.
        preload: Modules that the server imports once, so that workers have them at once. Their
            import must not start threads; BLAS in them is limited only if threadpoolctl is there.

    Raises:
        ConfigError: An argument is wrong.
        ExecutorError: This is Windows, where processes cannot be forked.
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
                "ProcessExecutor forks its workers and hands them sockets, which Windows cannot do; "
                "use InlineExecutor there"
            )
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers < 1):
            raise ConfigError(f"max_workers is {max_workers!r}; an int of 1 or more is wanted")
        if cpus is not None and not (isinstance(cpus, int | float) and cpus > 0):
            raise ConfigError(f"cpus is {cpus!r}; a number above 0 is wanted")
        if isinstance(preload, str):
            raise ConfigError(
                f"preload is the string {preload!r}; a list of module names is wanted"
            )
        there = cpus if cpus is not None else max(_usable_cpus(), max_workers or 0)
        super().__init__(ResourcePool(there, _gpu_ids(gpus), custom_resources or {}, max_workers))
        self._detects_gpus = gpus is None
        self._preload = tuple(preload)
        self._guardian: Guardian | None = None
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()
        self._workers: dict[int, _Worker] = {}
        self._idle: dict[int, deque[_Worker]] = {}

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are alive, for people and tests."""
        return self._guardian.pids if self._guardian is not None else []

    async def __aenter__(self) -> Self:
        if self._detects_gpus:
            self.pool.set_gpus(await anyio.to_thread.run_sync(_detected_gpus))
        return await super().__aenter__()

    def check_config(self, config: dict[str, Any]) -> None:
        dump_config(config)

    async def _start(self, spec: ActorSpec) -> Actor:
        config, path = await anyio.to_thread.run_sync(
            lambda: (dump_parts(spec.config, spec.remote), import_path())
        )
        environment = _environment(spec)
        worker = self._take_idle(spec, environment)
        if worker is None:
            worker = await self._new_worker(spec, environment)
        actor = _ProcessActor(spec, worker)
        try:
            await actor.build(config, path)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await actor.kill()
            raise
        return actor

    async def _finish(self, actor: Actor) -> None:
        assert isinstance(actor, _ProcessActor)
        worker = actor.worker
        again = actor.is_clean and not actor.spec.share.gpu_ids and self._open
        released = False
        try:
            if again:
                with anyio.move_on_after(min(_RELEASE_S, max(0.5, actor.spec.grace_s))):
                    released = await actor.release()
        finally:
            if released:
                self._idle.setdefault(worker.threads, deque()).append(worker)
            else:
                await actor.kill()

    async def _close(self) -> None:
        async with self._starting:  # a server that is being started is ended, too
            guardian, self._guardian = self._guardian, None
        for worker in list(self._workers.values()):
            worker.quit()
        # They were told to quit, and end by themselves unless they are hung.
        try:
            with anyio.move_on_after(_DEATH_NOTICE_S):
                for worker in list(self._workers.values()):
                    if worker.is_idle:
                        await worker.died.wait()
        finally:
            self._idle.clear()
            if guardian is not None:
                await guardian.close()

    def _take_idle(self, spec: ActorSpec, environment: dict[str, str]) -> _Worker | None:
        if spec.share.gpu_ids:
            return None
        for idle in self._idle.get(spec.share.resources.threads, ()):
            if idle.environment == environment and not idle.died.is_set():
                self._idle[idle.threads].remove(idle)
                idle.is_idle = False
                return idle
        return None

    async def _new_worker(self, spec: ActorSpec, environment: dict[str, str]) -> _Worker:
        try:
            return await self._forked(spec, environment)
        except (
            OSError
        ) as exc:  # no more files or processes; the matter of the run, and not of a trial
            raise ExecutorError(str(storage_error(exc, "no worker can be started"))) from exc

    async def _forked(self, spec: ActorSpec, environment: dict[str, str]) -> _Worker:
        async with self._starting:
            self.check_open()
            if self._guardian is not None and self._guardian.is_gone:
                await self._guardian.close()
                self._guardian = None
            if self._guardian is None:
                self._guardian = await Guardian.start(self._preload, self._on_exit, self._vmstat)
        self._retire_surplus()
        number = next(self._numbers)
        worker = _Worker(number, self._guardian, environment, spec.share.resources.threads)
        self._workers[number] = worker
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: worker, sock=self._guardian.fork(number))
        except BaseException:
            self._guardian.kill(number, "its driver gave it up")
            raise
        worker.send({"op": "environment"}, worker.first_words())
        return worker

    def _retire_surplus(self) -> None:
        """End idle workers of another kind when there are more than trials can be."""
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


class _Worker(asyncio.Protocol):
    """A worker process as the driver sees it: requests out, answers in, and its death."""

    def __init__(
        self, number: int, guardian: Guardian, environment: dict[str, str], threads: int
    ) -> None:
        self.number = number
        self.environment = environment
        self.threads = threads
        self.known: set[str] = set()
        self.died = anyio.Event()
        self.is_idle = False
        self._guardian = guardian
        self.death = Death()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answers: deque[asyncio.Future[Answer]] = deque()

    def first_words(self) -> bytes:
        """What a worker is told before anything else."""
        given = {"environment": self.environment, "threads": self.threads}
        return json.dumps(given).encode()

    def send(self, head: dict[str, Any], body: bytes = b"") -> asyncio.Future[Answer]:
        """Send a request; the future gets the answer, or stays open until the death is known."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.died.is_set():
            future.set_result(self._death())
        else:
            self._answers.append(future)
            assert self._transport is not None
            self._transport.write(frame(head, body))
        return future

    def quit(self) -> None:
        """Ask it to end by itself."""
        if self._transport is not None and not self.died.is_set():
            self._transport.write(frame({"op": "quit"}))

    async def kill(self) -> None:
        """End it and all in its process group, and wait for the news."""
        if not self.died.is_set():
            self._guardian.kill(self.number, "its driver ended it")
            await self.died.wait()

    def on_death(self, death: Death) -> None:
        """Hear from the guardian that the process was reaped."""
        self.death = death
        self.died.set()
        if self._transport is not None:
            self._hear_last_words(self._transport)
            self._transport.abort()
        while self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_result(self._death())

    def _hear_last_words(self, transport: asyncio.Transport) -> None:
        """Read what it had said before: the news of its death comes another way, and may be faster."""
        sock = transport.get_extra_info("socket")
        if sock is None:  # uvloop's is closed, and was read to its end
            return
        with contextlib.suppress(OSError):  # there is no more, or it is closed
            while data := os.read(sock.fileno(), 1 << 16):
                self.data_received(data)

    def _death(self) -> Answer:
        return Answer(AnswerKind.ERROR, error=self.death.error(None, "a call"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        if self.died.is_set():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            head_length, body_length = HEAD.unpack_from(self._buffer)
            end = HEAD.size + head_length + body_length
            if len(self._buffer) < end:
                return
            head = json.loads(self._buffer[HEAD.size : HEAD.size + head_length])
            body = bytes(self._buffer[HEAD.size + head_length : end])
            del self._buffer[:end]
            answer = Answer(AnswerKind(head["kind"]), body, head["checkpoint"])
            future = self._answers.popleft()
            if not future.done():
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        # Not yet a death: only the guardian knows of those. But nothing more can be said to it.
        if not self.died.is_set():
            self._guardian.kill(self.number, "its connection to the driver was closed in it")


class _ProcessActor(Actor):
    """A trainable in a worker process."""

    def __init__(self, spec: ActorSpec, worker: _Worker) -> None:
        super().__init__(spec)
        self.worker = worker
        self.is_clean = True

    async def build(self, config: bytes, path: list[str]) -> None:
        """Send the trainable and its configuration."""
        spec, worker = self.spec, self.worker
        known = spec.shipment.digest in worker.known
        enter = {
            "op": "enter",
            "digest": spec.shipment.digest,
            "logdir": spec.logdir,
            "sources": {} if known else spec.shipment.sources,
            "log": spec.log,
            "path": path,
        }
        build = {
            "op": "build",
            "logdir": spec.logdir,
            "trial_id": spec.trial_id,
            "trial_name": spec.trial_name,
            "tag": spec.tag,
            "grace_s": spec.grace_s,
            "remote": spec.remote is not None,
        }
        entered = worker.send(enter, b"" if known else spec.shipment.code)
        built = worker.send(build, config)
        worker.known.add(spec.shipment.digest)
        # Two answers, so that a failure of the import is not taken for one of the setup.
        for self._pending, self._pending_method in ((entered, "import"), (built, "_setup")):
            await self._awaited()

    async def release(self) -> bool:
        """Let the worker forget the trainable; tell whether it can be used again."""
        answer = await self.worker.send({"op": "release"})
        clean = answer.kind is AnswerKind.VALUE and answer.body == b"true"
        self.worker.is_idle = clean
        return clean

    async def kill(self) -> None:
        self._gone = True
        self.is_clean = False
        await self.worker.kill()

    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        return self.worker.send({"op": "call", "method": method}, dump_args(method, args))

    def _error(self, answer: Answer, method: str) -> Any:
        self.is_clean = False  # after a failure nobody knows what state the process is in
        if isinstance(answer.error, WorkerDied):
            self._gone = True
            return self.worker.death.error(self.spec.trial_id, f"{method}()")
        return super()._error(answer, method)


def _environment(spec: ActorSpec) -> dict[str, str]:
    """Return the environment that a worker has: this process's, and the trial's share of the machine."""
    environment = dict(os.environ)
    threads = str(spec.share.resources.threads)
    for name in _THREAD_COUNTS:
        environment.setdefault(name, threads)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.share.gpu_ids)
    return environment


def _usable_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _gpu_ids(gpus: int | Sequence[int | str] | None) -> list[str]:
    if gpus is None:
        return []
    if isinstance(gpus, str):
        raise ConfigError(f"gpus is the string {gpus!r}; a number or a list of ids is wanted")
    if isinstance(gpus, int):
        if gpus < 0:
            raise ConfigError(f"gpus is {gpus}; 0 or more, or a list of ids, is wanted")
        return [str(index) for index in range(gpus)]
    return [str(gpu) for gpu in gpus]


def _detected_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
    try:
        return [str(index) for index in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
