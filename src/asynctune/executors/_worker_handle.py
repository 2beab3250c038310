"""The driver's handle of a worker process, and the actor that trains in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from typing import Any, cast

import anyio

from asynctune.errors import WorkerDied
from asynctune.executors.actor import Actor, ActorSpec
from asynctune.executors.serialization import dump_args
from asynctune.executors.worker_server import Death, WorkerServer
from asynctune.trainable.worker.calls import Answer, AnswerKind
from asynctune.trainable.worker.frames import HEAD, frame


class WorkerHandle(asyncio.Protocol):
    """The driver's handle of a worker process: sends requests, receives answers, and notices its death.

    Args:
        number: The number of the worker, unique in its executor.
        server: The server that forks and kills the worker.
        environment: The environment variables of the worker.
        threads: The thread count of BLAS and OpenMP in the worker.

    Attributes:
        loaded: The digests of the trainables that the worker has loaded.
        died: The event of the worker's death.
        is_idle: Whether the worker waits for its next trial.
        death: The cause of the death; empty until ``died`` is set.
    """

    def __init__(
        self, number: int, server: WorkerServer, environment: dict[str, str], threads: int
    ) -> None:
        self.number = number
        self.environment = environment
        self.threads = threads
        self.loaded: set[str] = set()
        self.died = anyio.Event()
        self.is_idle = False
        self._server = server
        self.death = Death()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answers: deque[asyncio.Future[Answer]] = deque()

    def environment_message(self) -> bytes:
        """Return the body of the first message to the worker."""
        values = {"environment": self.environment, "threads": self.threads}
        return json.dumps(values).encode()

    def send(self, head: dict[str, Any], body: bytes = b"") -> asyncio.Future[Answer]:
        """Send a request and return the future of its answer.

        If the worker dies, the future gets an error as its answer once the server reports the death.

        Args:
            head: The operation and its arguments, as JSON values.
            body: The pickled part of the request.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.died.is_set():
            future.set_result(self._death_answer())
        else:
            self._answers.append(future)
            assert self._transport is not None
            self._transport.write(frame(head, body))
        return future

    def quit(self) -> None:
        """Ask the worker to exit by itself."""
        if self._transport is not None and not self.died.is_set():
            self._transport.write(frame({"op": "quit"}))

    async def kill(self) -> None:
        """Kill the worker's process group and wait for the worker's death."""
        if not self.died.is_set():
            self._server.kill(self.number, "its driver killed it")
            await self.died.wait()

    def on_death(self, death: Death) -> None:
        """Handle the server's report that the process was reaped: answer all requests with the death."""
        self.death = death
        self.died.set()
        if self._transport is not None:
            self._read_last_answers(self._transport)
            self._transport.abort()
        while self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_result(self._death_answer())

    def _read_last_answers(self, transport: asyncio.Transport) -> None:
        """Read the answers that the worker sent before its death.

        The report of the death comes through another socket, and may arrive before them.
        """
        sock = transport.get_extra_info("socket")
        if sock is None:  # uvloop has read its socket to the end and closed it
            return
        with contextlib.suppress(OSError):  # the socket is empty or closed
            while data := os.read(sock.fileno(), 1 << 16):
                self.data_received(data)

    def _death_answer(self) -> Answer:
        return Answer(AnswerKind.ERROR, error=self.death.error(None, "a call"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
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
        # The process may be alive: only the server reports deaths. But it can answer nothing any more.
        if not self.died.is_set():
            self._server.kill(self.number, "it closed its connection to the driver")


class ProcessActor(Actor):
    """A trainable in a worker process.

    Args:
        spec: The arguments to build the trainable from.
        worker: The worker, which no other actor uses.
        config: The pickled configuration, followed by the pickled remote directory if there is one.
        path: The import path of the driver.

    Attributes:
        is_clean: Whether no call has failed, so that the worker may be reused.
    """

    def __init__(
        self, spec: ActorSpec, worker: WorkerHandle, config: bytes, path: list[str]
    ) -> None:
        super().__init__(spec)
        self.worker = worker
        self.is_clean = True
        self._config = config
        self._path = path

    async def build(self) -> None:
        spec, worker = self.spec, self.worker
        is_loaded = spec.serialized.digest in worker.loaded
        enter = {
            "op": "enter",
            "digest": spec.serialized.digest,
            "logdir": spec.logdir,
            "sources": {} if is_loaded else spec.serialized.sources,
            "log": spec.log,
            "path": self._path,
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
        entered = worker.send(enter, b"" if is_loaded else spec.serialized.code)
        built = worker.send(build, self._config)
        self._config = b""  # a large configuration must not stay in memory as long as the actor
        worker.loaded.add(spec.serialized.digest)
        # Two requests, so that the error of a failed import does not blame the setup.
        for self._pending, self._pending_method in ((entered, "import"), (built, "_setup")):
            await self._wait_for_answer()

    async def release(self) -> bool:
        """Drop the trainable in the worker. Return whether another trial can reuse the worker."""
        answer = await self.worker.send({"op": "release"})
        clean = answer.kind is AnswerKind.VALUE and answer.body == b"true"
        self.worker.is_idle = clean
        return clean

    async def _kill(self) -> None:
        self.is_clean = False
        await self.worker.kill()

    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        return self.worker.send({"op": "call", "method": method}, dump_args(method, args))

    def _error(self, answer: Answer, method: str) -> Any:
        self.is_clean = False  # a failure may leave the process in any state
        if isinstance(answer.error, WorkerDied):
            self._is_ended = True
            return self.worker.death.error(self.spec.trial_id, f"{method}()")
        return super()._error(answer, method)
