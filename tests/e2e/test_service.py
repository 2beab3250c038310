"""The web service of the examples: uvicorn on a real socket, real training, real clients."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
import uvicorn

import asynctune.runner.api  # noqa: F401  # what is loaded on the loop blocks it, which is not the subject here

EXAMPLES = Path(__file__).parents[2] / "examples"
LONG = {"samples": 100, "epochs": 1000}  # minutes
HOST = "127.0.0.1"
SMALL = 4096  # bytes of a buffer that is soon full


@pytest.fixture
def service(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("service")


@asynccontextmanager
async def served(service, handlers=None):
    """Serve the example in this event loop, and give a client.

    Args:
        handlers: Here goes the task that handles a request, by its query string.
    """

    async def app(scope, receive, send):
        if handlers is not None and scope["type"] == "http":
            handlers[scope["query_string"].decode()] = asyncio.current_task()
        await service.app(scope, receive, send)

    with socket.create_server((HOST, 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        server = service.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        serving = asyncio.create_task(server.serve([listener]))
        url = "http://{}:{}".format(*listener.getsockname())
        try:
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


def strict(text):
    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


async def events(response):
    """Yield the server-sent events of a response: their names, and what their data says."""
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    event = []
    async for line in response.aiter_lines():
        if line:
            event.append(line)
            continue
        *name, data = event
        assert data.startswith("data: ")
        yield name[0].removeprefix("event: ") if name else "message", strict(data[6:])
        event = []
    assert event == []


async def start(client, **wanted):
    answer = await client.post("/runs", json=wanted)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/runs/{answer.json()['id']}"
    return answer.headers["location"]


async def everything(client, where):
    """Read all results of a run, and how it ended."""
    async with client.stream("GET", f"{where}/results") as response:
        *rows, (name, end) = [event async for event in events(response)]
    assert [kind for kind, _ in rows] == ["message"] * len(rows)
    assert name == "end"
    return [row for _, row in rows], end


def iterations(rows):
    found = {}
    for row in rows:
        found.setdefault(row["trial_id"], []).append(row["training_iteration"])
    return found


@pytest.mark.asyncio
async def test_a_run_is_streamed_from_its_first_result_to_its_end_to_early_and_late_readers(
    service,
):
    async with served(service) as client:
        where = await start(client, samples=3, epochs=4)
        rows, end = await everything(client, where)
        assert sorted(iterations(rows).values()) == [[1, 2, 3, 4]] * 3
        assert len({row["loss"] for row in rows}) == 12
        best = max(rows, key=lambda row: row["accuracy"])
        name = where.removeprefix("/runs/")
        assert end == {
            "id": name,
            "status": "ended",
            "trials": {"TERMINATED": 3},
            "best": best["config"],
            "error": None,
        }
        assert (await client.get(where)).json() == end
        assert (await client.get("/runs")).json() == [end]
        assert await everything(client, where) == (rows, end)


@pytest.mark.asyncio
async def test_two_runs_share_the_pool_and_keep_their_results_apart(service):
    async with served(service) as client:
        first, second = await start(client, samples=2, epochs=3), await start(client, samples=1)
        (rows, _), (others, _) = await asyncio.gather(
            everything(client, first), everything(client, second)
        )
        assert sorted(iterations(rows).values()) == [[1, 2, 3]] * 2
        assert sorted(iterations(others).values()) == [list(range(1, 11))]
        assert {row["pid"] for row in rows + others} <= set(service.app.state.pool.pids)
        assert len(service.app.state.pool.pids) == 2


@pytest.mark.asyncio
async def test_a_client_that_hangs_up_ends_its_stream_and_disturbs_neither_the_run_nor_another(
    service,
):
    handlers = {}
    async with served(service, handlers) as client:
        where = await start(client, **LONG)
        async with client.stream("GET", f"{where}/results?first") as response:
            stays = events(response)
            rows = [await anext(stays)]
            async with client.stream("GET", f"{where}/results?second") as other:
                await anext(events(other))
            await asyncio.wait([handlers["second"]])  # while the run goes on
            rows += [await anext(stays) for _ in range(30)]
            assert not handlers["first"].done()
            assert (await client.get(where)).json()["status"] == "running"
            assert (await client.delete(where)).status_code == 204
            rows += [event async for event in stays]
    *rows, (name, end) = rows
    assert name == "end"
    assert end["status"] == "ended"
    for seen in iterations(row for _, row in rows).values():
        assert seen == list(range(1, len(seen) + 1))


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_does_not_hold_up_the_run(service):
    handlers = {}
    async with served(service, handlers) as client:
        where = await start(client, samples=2, epochs=100)
        with socket.socket() as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            idle.connect((client.base_url.host, client.base_url.port))
            idle.sendall(f"GET {where}/results?idle HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            rows, _ = await everything(client, where)
            assert len(rows) == 200
            assert not handlers["idle"].done()  # it still has most of them to send


@pytest.mark.asyncio
async def test_a_run_that_is_deleted_is_cancelled_and_forgotten_and_its_workers_are_free(service):
    async with served(service) as client:
        where = await start(client, **LONG)
        async with client.stream("GET", f"{where}/results") as response:
            stream = events(response)
            await anext(stream)
            pool = service.app.state.pool
            assert pool.pool.leased > 0
            assert (await client.delete(where)).status_code == 204
            assert pool.pool.leased == 0
            *_, (name, end) = [event async for event in stream]
        assert name == "end"
        assert set(end["trials"]) == {"TERMINATED"}
        assert (await client.get(where)).status_code == 404
        assert (await client.get("/runs")).json() == []
        _, end = await everything(client, await start(client, samples=1, epochs=1))
        assert end["status"] == "ended"


@pytest.mark.asyncio
async def test_a_run_whose_worker_is_killed_says_so_and_the_next_one_runs(service):
    async with served(service) as client:
        where = await start(client, samples=1, epochs=1000)
        async with client.stream("GET", f"{where}/results") as response:
            stream = events(response)
            _, row = await anext(stream)
            os.kill(row["pid"], signal.SIGKILL)
            *_, (_, end) = [event async for event in stream]
        assert end["status"] == "failed"
        assert end["trials"] == {"ERROR": 1}
        assert "killed by signal 9" in end["error"]
        assert row["trial_id"] in end["error"]
        rows, end = await everything(client, await start(client, samples=1, epochs=2))
        assert end["status"] == "ended"
        assert len(rows) == 2


WRONG = {
    b"": "must be a JSON object",
    b'{"samples": 2': "must be a JSON object",
    b"\xff": "must be a JSON object",
    b"[3]": "must be a JSON object",
    b"null": "must be a JSON object",
    b'{"samples": 0}': "got samples=0",
    b'{"samples": 101}': "got samples=101",
    b'{"samples": true}': "got samples=True",
    b'{"samples": 2, "epochs": "5"}': "got epochs='5'",
    b'{"epochs": 1.0}': "got epochs=1.0",
    b'{"epochs": NaN}': "got epochs=nan",
    b'{"trials": 3}': "got trials=3",
}


@pytest.mark.asyncio
async def test_a_body_that_is_wrong_is_refused_with_its_culprit_and_starts_nothing(service):
    async with served(service) as client:
        for body, culprit in WRONG.items():
            answer = await client.post("/runs", content=body)
            assert (body, answer.status_code) == (body, 422)
            assert culprit in answer.text
        assert (await client.get("/runs")).json() == []
        assert service.app.state.pool.pids == []


@pytest.mark.asyncio
async def test_an_id_that_is_unknown_is_not_found(service):
    async with served(service) as client:
        for method, path in (
            ("GET", "/runs/x"),
            ("DELETE", "/runs/x"),
            ("GET", "/runs/x/results"),
            ("GET", "/runs/..%2fx"),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == 404, (method, path)


def test_ctrl_c_ends_the_script_with_its_runs_its_streams_and_its_workers(tmp_path):
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "service.py", "--port", "0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with process:
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                    break
            client = httpx.Client(base_url=found[1], timeout=30)
            with client:
                where = client.post("/runs", json=LONG).headers["location"]
                with client.stream("GET", f"{where}/results") as response:
                    lines = response.iter_lines()
                    row = json.loads(next(lines).removeprefix("data: "))
                    worker = os.pidfd_open(row["pid"])
                    process.send_signal(signal.SIGINT)
                    *_, name, data, _ = lines
            said += process.stderr
            assert process.wait() == 0, "".join(said)
        finally:
            process.kill()
    assert name == "event: end"
    assert json.loads(data.removeprefix("data: "))["status"] == "ended"
    assert "Traceback" not in "".join(said)
    with closing(os.fdopen(worker)):
        dead, _, _ = select.select([worker], [], [], 0)
    assert dead == [worker]
