"""A disk that is full or broken is told from a mistake in ``_save``, also out of a worker."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.errors import StorageError, StorageFull, TrialError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.storage.checkpoints import directory as ckpt
from asynctune.storage.filesystem import FileSystem
from harness.faults import using

EXECUTORS = pytest.mark.parametrize("executor", [InlineExecutor, ProcessExecutor])


def fails(number, *path):
    raise OSError(number, os.strerror(number), *path)


def fills_the_disk(directory):
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def copies_what_is_not_there(directory):
    shutil.copytree(Path(directory, "nothing"), Path(directory, "copy"))


class Saves(tune.Trainable):
    """Saves as its configuration says."""

    def _train(self):
        return {"n": 1}

    def _save(self, directory):
        return self.config["save"](directory)


STORAGE = {
    "a write": (fills_the_disk, StorageFull, errno.ENOSPC),
    "a quota": (lambda directory: fails(errno.EDQUOT), StorageFull, errno.EDQUOT),
    "a file of the checkpoint": (
        lambda directory: fails(errno.EIO, f"{directory}/w"),
        StorageError,
        errno.EIO,
    ),
    "a relative name of one": (
        lambda directory: fails(errno.EROFS, os.path.relpath(f"{directory}/w")),
        StorageError,
        errno.EROFS,
    ),
}
MISTAKES = {
    "a full disk elsewhere": lambda directory: fails(errno.ENOSPC, "/elsewhere/w"),
    "another errno": lambda directory: fails(errno.EACCES, f"{directory}/w"),
    "a missing file": copies_what_is_not_there,
    "another kind of error": lambda directory: int("x"),
}


@EXECUTORS
@pytest.mark.asyncio
async def test_what_the_disk_refuses_to_a_save_is_a_storage_error_that_keeps_its_errno(executor):
    async with executor(1) as pool:
        for save, kind, number in STORAGE.values():
            async with pool.actor(Saves, {"save": save}) as actor:
                with pytest.raises(TrialError, match=r"failed in save\(\)") as caught:
                    await actor.save()
                cause = caught.value.__cause__
                assert (type(cause), cause.errno) == (kind, number)
                assert "the checkpoint checkpoint_0 in " in str(cause)
                assert (await actor.train())["n"] == 1, "the trial itself is sound"
                assert not list(Path(actor.logdir).glob(".tmp-*"))


@EXECUTORS
@pytest.mark.asyncio
async def test_what_is_no_fault_of_the_disk_stays_the_error_of_the_trial(executor):
    async with executor(1) as pool:
        for save in MISTAKES.values():
            async with pool.actor(Saves, {"save": save}) as actor:
                with pytest.raises(TrialError, match=r"failed in save\(\)") as caught:
                    await actor.save()
                assert not isinstance(caught.value.__cause__, StorageError)
                assert not list(Path(actor.logdir).glob(".tmp-*"))


class FullFiles(FileSystem):
    """A disk without room for a byte, or for what is larger than some."""

    __slots__ = ("room",)

    def __init__(self, room=0):
        self.room = room

    def write(self, descriptor, data):
        if len(data) > self.room:
            fails(errno.ENOSPC)
        return super().write(descriptor, data)


def hides_it(directory):
    raise RuntimeError("unexpected pos 64 vs 0")  # what a library says whose file was cut


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_a_library_that_hides_why_it_could_not_write_is_asked_no_further_than_the_disk(room):
    trainable = Saves({"save": hides_it})
    with using(FullFiles(room)), pytest.raises((RuntimeError, StorageFull)) as caught:
        trainable.save()
    if room:
        assert caught.type is RuntimeError
    else:
        assert caught.type is StorageFull
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("room", [0, 100], ids=["its dict", "its manifest"])
def test_our_own_writes_to_a_full_disk_are_storage_full_too(room):
    trainable = Saves({"save": lambda directory: {"x": 1}})
    with using(FullFiles(room)), pytest.raises(StorageFull, match=r"checkpoint_0 in .* make room"):
        trainable.save()
    assert trainable.save(), "and when there is room again it saves"


def test_a_file_that_vanishes_while_it_is_committed_is_the_fault_of_who_saved_it(monkeypatch):
    walk = ckpt._walk

    def walked(root):
        found = list(walk(root))
        Path(root, "w").unlink()
        return found

    def saves(directory):
        Path(directory, "w").touch()
        return directory

    monkeypatch.setattr(ckpt, "_walk", walked)
    with pytest.raises(ValueError, match="is missing or cannot be read"):
        Saves({"save": saves}).save()


class FillsUp(tune.Trainable):
    """Counts; there is room for its third checkpoint only if a file says so."""

    def _setup(self, config):
        self.n = 0

    def _train(self):
        self.n += 1
        return {"n": self.n}

    def _save(self, directory):
        if self.n == 3 and not os.path.exists(self.config["room"]):
            fills_the_disk(directory)
        return {"n": self.n}

    def _restore(self, checkpoint):
        self.n = checkpoint["n"]


@EXECUTORS
@pytest.mark.asyncio
async def test_a_disk_that_is_full_ends_the_run_and_not_the_trial_which_goes_on_when_there_is_room(
    executor, tmp_path
):
    room = tmp_path / "room"
    given = {
        "config": {"room": str(room)},
        "name": "x",
        "checkpoint_freq": 1,
        "max_failures": 2,
        "stop": {"training_iteration": 4},
        "verbose": 0,
    }
    async with executor(1) as pool:
        for resume in (False, True):
            with pytest.raises(StorageFull, match=r"checkpoint_3 in .* make room, then resume"):
                await tune.run(FillsUp, executor=pool, resume=resume, **given)
        room.touch()
        analysis = await tune.run(FillsUp, executor=pool, resume=True, **given)
    (trial,) = analysis.trials
    assert [row["n"] for row in trial.results] == [1, 2, 3, 4]
    assert (trial.status, trial.num_failures) == ("TERMINATED", 0)
