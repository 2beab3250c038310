"""Fetching an experiment: what is brought is whole, and is what is there now."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import pytest_asyncio
from remote_helpers import run

import asynctune as tune
from asynctune.errors import StorageDenied, StorageTimeout
from asynctune.experiment.remote.fetch import fetch_experiment
from asynctune.storage import LocalStorage

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def remote(tmp_path):
    """An experiment of one trial with three rows, and a checkpoint of each."""
    # A newer checkpoint may pass over one that waits, but for those that are kept.
    await run(tmp_path / "ran", tmp_path / "remote", 3, keep_checkpoints_num=3)
    return tmp_path / "remote"


@pytest.fixture
def fetch(tmp_path, remote):
    """Fetch from a kind of storage to a directory; return what it returned and what it said."""

    async def fetch(kind=LocalStorage, to="here"):
        said = []
        target = str(tmp_path / to)
        lost = await asyncio.to_thread(fetch_experiment, kind(remote / "x"), target, said.append)
        return lost, said

    return fetch


def log_in(root, name="result.json"):
    return next(path for path in Path(root).rglob(name))


def rows_in(root):
    return [json.loads(line)["n"] for line in log_in(root).read_text().splitlines()]


def temporary(root):
    return list(Path(root).rglob(".tmp-*"))


class Killed(BaseException):
    pass


class Cut(LocalStorage):
    """Whoever brings a log from here is killed in its midst."""

    def download(self, key, target, size):
        if key == "result.json":
            target.write_bytes((self._root / key).read_bytes()[:50])
            raise Killed
        super().download(key, target, size)


async def test_a_fetch_that_was_killed_in_a_log_leaves_no_part_of_it(
    tmp_path, fetch, remote, monkeypatch
):
    with monkeypatch.context() as patch:
        # As kill -9 would have it: nothing is cleaned up.
        patch.setattr(
            "asynctune.storage.checkpoints.directory.remove_staging_dir", lambda target: None
        )
        with pytest.raises(Killed):
            await fetch(Cut)
    assert not list((tmp_path / "here").rglob("result.json"))
    assert temporary(tmp_path / "here")
    lost, _ = await fetch()
    assert lost == 0
    assert log_in(tmp_path / "here").read_bytes() == log_in(remote).read_bytes()
    assert not temporary(tmp_path / "here")


async def test_a_log_that_is_cut_here_is_brought_anew(tmp_path, fetch, remote):
    await fetch()
    cut = log_in(tmp_path / "here")
    cut.write_bytes(cut.read_bytes()[:50])
    assert await fetch() == (
        0,
        [f"{cut.parent.name}  TERMINATED  3 results, 0 checkpoints downloaded"],
    )
    assert cut.read_bytes() == log_in(remote).read_bytes()


async def test_logs_follow_an_experiment_that_has_gone_on(tmp_path, fetch, remote):
    await fetch()
    assert rows_in(tmp_path / "here") == [1, 2, 3]
    await run(tmp_path / "ran", remote, 6, resume=True)
    await fetch()
    assert rows_in(tmp_path / "here") == [1, 2, 3, 4, 5, 6]


async def test_logs_of_an_experiment_that_has_gone_on_here_stay(tmp_path, fetch, remote):
    shutil.copytree(remote, tmp_path / "before")
    await run(tmp_path / "ran", remote, 6, resume=True)
    shutil.rmtree(remote)
    shutil.move(tmp_path / "before", remote)  # as if the uploads had failed
    log_in(tmp_path / "ran", "progress.csv").unlink()
    assert (await fetch(to="ran/x"))[0] == 0
    assert rows_in(tmp_path / "ran") == [1, 2, 3, 4, 5, 6]
    assert log_in(tmp_path / "ran", "progress.csv").read_bytes()


async def test_a_log_that_grows_while_it_is_brought_is_brought_as_it_then_is(
    tmp_path, fetch, remote
):
    asked = []

    class Grows(LocalStorage):
        """Its driver uploads a newer one between the listing and the download, twice."""

        def download(self, key, target, size):
            if key == "result.json":
                asked.append(size)
                if len(asked) <= 2:
                    with (self._root / key).open("a") as file:
                        file.write('{"n": 7}\n')
            super().download(key, target, size)

    lost, said = await fetch(Grows)
    assert lost == 0
    assert len(said) == 1
    assert rows_in(tmp_path / "here") == [1, 2, 3, 7, 7]
    assert len(asked) == len(set(asked)) == 3


async def test_a_log_that_never_stops_growing_is_told_of_and_all_else_comes(
    tmp_path, fetch, remote
):
    class Grows(LocalStorage):
        def download(self, key, target, size):
            if key == "progress.csv":
                with (self._root / key).open("a") as file:
                    file.write("\n")
            super().download(key, target, size)

    lost, said = await fetch(Grows)
    assert lost == 1
    assert "progress.csv was not downloaded" in said[0]
    assert rows_in(tmp_path / "here") == [1, 2, 3]
    assert "3 checkpoints downloaded" in said[1]
    assert not list((tmp_path / "here").rglob("progress.csv"))
    assert not temporary(tmp_path / "here")


async def test_a_log_that_is_removed_while_it_is_brought_is_none(tmp_path, fetch, remote):
    class Forgets(LocalStorage):
        def download(self, key, target, size):
            if key == "progress.csv":
                (self._root / key).unlink()
            super().download(key, target, size)

    lost, said = await fetch(Forgets)
    assert (lost, len(said)) == (0, 1)
    assert rows_in(tmp_path / "here") == [1, 2, 3]


@pytest.mark.parametrize("error", [StorageDenied, StorageTimeout])
async def test_a_log_that_is_refused_is_told_of_and_a_place_that_is_down_ends_the_fetch(
    tmp_path, fetch, remote, error
):
    class Refuses(LocalStorage):
        def download(self, key, target, size):
            if key == "progress.csv":
                raise error(f"GET {key} went wrong")
            super().download(key, target, size)

    if error is StorageTimeout:
        with pytest.raises(StorageTimeout):
            await fetch(Refuses)
        return
    lost, said = await fetch(Refuses)
    assert lost == 1
    assert said[0].endswith("progress.csv was not downloaded: GET progress.csv went wrong")
    assert rows_in(tmp_path / "here") == [1, 2, 3]


async def test_a_directory_or_link_in_the_place_of_a_log_stays(tmp_path, fetch, remote):
    await fetch()
    log, other = log_in(tmp_path / "here"), log_in(tmp_path / "here", "progress.csv")
    for path in (log, other):
        path.unlink()
    log.mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    other.symlink_to(tmp_path / "elsewhere")
    assert (await fetch())[0] == 0
    assert log.is_dir()
    assert (tmp_path / "elsewhere").read_text() == "mine"


async def test_half_a_journal_of_a_fetch_that_was_killed_does_not_disturb(tmp_path, fetch, remote):
    here = tmp_path / "here"
    here.mkdir()
    (here / "journal.pulled").write_text("half of ")
    assert (await fetch())[0] == 0
    assert not (here / "journal.pulled").exists()
    # And behind one that came to its end, where nothing is to be pulled.
    (here / "journal.pulled").write_text("half of ")
    assert (await fetch())[0] == 0
    assert not (here / "journal.pulled").exists()
    assert [row["n"] for row in tune.Analysis(here).trials[0].results] == [1, 2, 3]
