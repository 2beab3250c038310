"""The speed of uploads of checkpoints, and the delay of the event loop while the server does not answer.

python benchmarks/uploads.py

starts a SeaweedFS server on loopback. obstore alone and asynctune upload a checkpoint of 64 MB, in turns.
Then two trials train while the server accepts connections and never answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import obstore
from obstore.store import from_url

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import asynctune as tune
from asynctune.errors import StorageTimeout
from asynctune.executors import ProcessExecutor
from asynctune.storage import open_storage
from asynctune.storage.checkpoints.commits import Commits
from object_server import ObjectServer, object_server
from tcp_proxy import Faults, TcpProxy

SIZE = 64 << 20
RUN = tune.run  # imported now, not during the measurement of the loop


class Large(tune.Trainable):
    def _train(self) -> dict[str, Any]:
        return {}

    def _save(self, directory: str) -> str:
        Path(directory, "weights").write_bytes(os.urandom(SIZE))
        return directory


class Steps(tune.Trainable):
    def _train(self) -> dict[str, Any]:
        time.sleep(0.05)
        return {"n": self.iteration}

    def _save(self, directory: str) -> dict[str, Any]:
        return {"n": self.iteration, "weights": bytes(1 << 20)}


def rates(server: ObjectServer, rounds: int) -> None:
    """Upload the same file both ways in turns, and print the speeds."""
    trainable = Large({})
    root = Path(trainable.save())
    url = f"s3://bucket/{uuid.uuid4().hex}"
    bare = from_url(url, config=server.options(), client_options={"allow_http": True})
    commits = Commits(open_storage(f"{url}/ours", server.options()))
    commits.claim()
    taken: dict[str, list[float]] = {"obstore alone": [], "ours": []}
    for number in range(rounds + 1):
        for name, upload in (
            ("obstore alone", lambda n=number: obstore.put(bare, f"bare-{n}", root / "weights")),
            ("ours", lambda n=number: commits.commit(root, f"checkpoint_{n}")),
        ):
            start = time.perf_counter()
            upload()
            if number:  # the first upload of each is a warm-up
                taken[name].append(time.perf_counter() - start)
    trainable.stop()
    for name, times in taken.items():
        mb = [SIZE / (1 << 20) / t for t in times]
        spread = f"median of {rounds}; {min(mb):.0f} to {max(mb):.0f}"
        print(f"{name:15} {statistics.median(mb):6.1f} MB/s ({spread})")
    ratio = statistics.median(taken["obstore alone"]) / statistics.median(taken["ours"])
    print(f"ours / obstore alone: {ratio:.2f} (mark: 0.80 or more)")


async def lateness(seconds: float, meanwhile: Any = None) -> str:
    """Return the delays of a task that wakes every 5 ms, as text."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.005
            await asyncio.sleep(0.005)
            late.append(1000 * (time.perf_counter() - due))

    ticker = asyncio.create_task(tick())
    if meanwhile is None:
        await asyncio.sleep(seconds)
    else:
        await meanwhile
    ticker.cancel()
    late.sort()
    return f"worst {late[-1]:.1f} ms, p99 {late[int(0.99 * len(late))]:.1f}"


async def train(place: str, **arguments: Any) -> str:
    async with ProcessExecutor(2) as pool:
        try:
            await RUN(
                Steps, executor=pool, num_samples=2, stop={"training_iteration": 150}, verbose=0,
                checkpoint_freq=2, keep_checkpoints_num=2, storage_path=place, **arguments,
            )  # fmt: skip
        except StorageTimeout as exc:
            trained = [trial.last_result["training_iteration"] for trial in exc.analysis.trials]
            return f"StorageTimeout, and the trials were trained to {trained}"
    return "no error"


async def frozen(server: ObjectServer, place: str) -> None:
    """Train beside a server that accepts and never answers, and print the delays of the loop."""
    print(f"idle loop                    {await lateness(5)}")
    print(f"training, no uploads         {await lateness(0, train(place))}")
    proxy = await asyncio.to_thread(TcpProxy, server.port, Faults())
    options = server.options(proxy.port, read_timeout_s=3, operation_timeout_s=6)

    async def freeze_soon() -> str:
        freezing = asyncio.get_running_loop().call_later(2.0, setattr, proxy.faults, "frozen", True)
        try:
            return await train(
                place, upload_dir=f"s3://bucket/{uuid.uuid4().hex}", storage_options=options,
                upload_interval_s=0.5,
            )  # fmt: skip
        finally:
            freezing.cancel()

    ended: list[str] = []

    async def note() -> None:
        start = time.perf_counter()
        ended.append(await freeze_soon())
        ended.append(f"{time.perf_counter() - start:.1f} s in all")

    print(f"training, server frozen      {await lateness(0, note())} (mark: 50)")
    print("; ".join(ended))
    await asyncio.to_thread(proxy.close)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, object_server(Path(place, "server")) as server:
        os.environ["ASYNCTUNE_RESULTS_DIR"] = place
        rates(server, given.rounds)
        asyncio.run(frozen(server, place))


if __name__ == "__main__":
    main()
