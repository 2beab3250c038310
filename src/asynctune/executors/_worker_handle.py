"""A worker process as the driver sees it, and the actor that trains in it."""

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
    """A worker process as the driver sees it: requests out, answers in, and its death."""

    def __init__(
        self, number: int, server: WorkerServer, environment: dict[str, str], threads: int
    ) -> None:
        self.number = number
        self.environment = environment
        self.threads = threads
        self.known: set[str] = set()
        self.died = anyio.Event()
        self.is_idle = False
        self._server = server
        self.death = Death()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answers: deque[asyncio.Future[Answer]] = deque()

    def environment_message(self) -> bytes:
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
            self._server.kill(self.number, "its driver ended it")
            await self.died.wait()

    def on_death(self, death: Death) -> None:
        """Hear from the guardian that the process was reaped."""
        self.death = death
        self.died.set()
        if self._transport is not None:
            self._read_last_answers(self._transport)
            self._transport.abort()
        while self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_result(self._death())

    def _read_last_answers(self, transport: asyncio.Transport) -> None:
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
            self._server.kill(self.number, "its connection to the driver was closed in it")


class ProcessActor(Actor):
    """A trainable in a worker process."""

    def __init__(self, spec: ActorSpec, worker: WorkerHandle) -> None:
        super().__init__(spec)
        self.worker = worker
        self.is_clean = True

    async def build(self, config: bytes, path: list[str]) -> None:
        """Send the trainable and its configuration."""
        spec, worker = self.spec, self.worker
        known = spec.serialized.digest in worker.known
        enter = {
            "op": "enter",
            "digest": spec.serialized.digest,
            "logdir": spec.logdir,
            "sources": {} if known else spec.serialized.sources,
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
        entered = worker.send(enter, b"" if known else spec.serialized.code)
        built = worker.send(build, config)
        worker.known.add(spec.serialized.digest)
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
