"""A worker process as its driver sees it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from asynctune.executors._worker_handle import WorkerHandle
from asynctune.executors.worker_server import Death
from asynctune.trainable.worker.calls import AnswerKind
from asynctune.trainable.worker.frames import frame

pytestmark = pytest.mark.asyncio


async def test_what_a_worker_said_is_heard_though_the_news_of_its_death_came_first():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        worker = WorkerHandle(0, None, {}, 1)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        first, second = worker.send({"op": "enter"}), worker.send({"op": "build"})
        theirs.sendall(frame({"kind": "value", "checkpoint": False}, b"null"))
        worker.on_death(Death(status=6))  # before the loop has had a turn to read
        assert first.result().kind is AnswerKind.VALUE
        assert second.result().kind is AnswerKind.ERROR
        await asyncio.sleep(0)
