"""What is done for one trial at a storage, where something happens meanwhile."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from asynctune.errors import StorageError
from asynctune.experiment.remote.replica import UploadOutcome
from asynctune.experiment.remote.uploader import Uploader

pytestmark = pytest.mark.asyncio


class FailsOnce:
    """A mirror whose first removal fails, when it is told to."""

    url = "x"
    journal = SimpleNamespace(end=10**9)

    def __init__(self):
        self.calls, self.has_begun, self.may_fail = [], threading.Event(), threading.Event()

    def delete(self, path, attempt, delete_local):
        self.calls.append(("delete", path))
        if len(self.calls) == 1:
            self.has_begun.set()
            self.may_fail.wait(20)
            raise StorageError("503 for too long")

    def upload(self, path, attempt=0, check_first=False):
        self.calls.append(("upload", path))
        return UploadOutcome.COMMITTED


def uploads_to(replica):
    trial = SimpleNamespace(
        trial_id="t", attempt=0, exported={}, checkpoints=(), status=SimpleNamespace(is_final=False)
    )
    journal = SimpleNamespace(visible_end=0)
    state = SimpleNamespace(trials={"t": trial})
    return Uploader(
        replica,
        journal,
        state,
        directory="/d",
        interval_s=1,
        keeps_few=True,
        self_uploading=False,
        say=None,
    )


@pytest.mark.parametrize("is_saved_again", [True, False])
async def test_a_removal_that_failed_is_not_tried_again_if_its_name_was_saved_meanwhile(
    is_saved_again,
):
    replica = FailsOnce()
    uploads = uploads_to(replica)
    queue, path = uploads._queue_of("t"), "/d/t/checkpoint_6"
    queue.dropped.append(path)
    working = asyncio.ensure_future(uploads._empty("t", queue))
    await asyncio.to_thread(replica.has_begun.wait, 20)
    if is_saved_again:
        queue.keep(path)
        queue.newest = path
    replica.may_fail.set()
    with pytest.raises(StorageError):
        await working
    await uploads._empty("t", queue)
    uploads._send.close()
    uploads._receive.close()
    assert replica.calls == [("delete", path), ("upload" if is_saved_again else "delete", path)]
