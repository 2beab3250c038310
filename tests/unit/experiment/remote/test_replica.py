"""The mirror of an experiment: what a driver brings to a storage and back."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asynctune.errors import CheckpointCorrupt, Fenced, StorageError, TuneError
from asynctune.experiment.remote.replica import LINKS, Replica, UploadOutcome
from asynctune.storage.checkpoints import directory as ckpt
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.manifest import MANIFEST

STATE = {
    "experiment_id": "e", "iteration": 1, "time_total": 1.0, "timesteps_total": None,
    "episodes_total": None,
}  # fmt: skip
FILES = {"model": b"weights" * 1000, "sub/log": b"a"}


def saved(parent, name, files=FILES):
    aside = ckpt.make_staging_dir(parent, name)
    for file, data in files.items():
        (aside / file).parent.mkdir(parents=True, exist_ok=True)
        (aside / file).write_bytes(data)
    root = ckpt.commit(aside, "model", saved_as_dict=False, state=STATE, parent=parent)
    ckpt.remove_staging_dir(aside)
    return str(root / "model")


def files_of(root):
    root = Path(root)
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    found.pop(MANIFEST, None)
    return found


@pytest.fixture
def here(tmp_path):
    """The local directory of the experiment."""
    (tmp_path / "here" / "t").mkdir(parents=True)
    return tmp_path / "here"


@pytest.fixture
def elsewhere(tmp_path):
    """Its directory on another machine, empty."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def mirror_of(storage, directory, epoch=0):
    replica = Replica(storage, str(directory))
    replica.journal.download(Path(directory, "journal"))
    replica.begin(epoch)
    return replica


def keys(storage, prefix="t/"):
    return [entry.key for entry in storage.list(prefix) if not entry.key.startswith("journal/")]


# -- checkpoints --------------------------------------------------------------------------------


def test_what_was_stored_can_be_brought_elsewhere(storage, here, elsewhere):
    path = saved(here / "t", "checkpoint_1")
    assert mirror_of(storage, here).upload(path) is UploadOutcome.COMMITTED
    there = mirror_of(storage, elsewhere, 1)
    wanted = str(elsewhere / "t" / "checkpoint_1" / "model")
    assert not there.has_local(wanted)
    assert there.has(wanted)
    there.download(wanted)
    assert there.has_local(wanted)
    assert files_of(elsewhere / "t" / "checkpoint_1") == FILES
    assert os.listdir(elsewhere / "t") == ["checkpoint_1"]


def test_storing_leaves_the_local_checkpoint_and_no_links(storage, here):
    path = saved(here / "t", "checkpoint_1")
    mirror_of(storage, here).upload(path)
    assert files_of(here / "t" / "checkpoint_1") == FILES
    assert files_of(here / LINKS) == {}
    assert os.listdir(here / LINKS) == []


def test_what_is_there_is_not_stored_again_when_it_is_looked_for_first(scripted, here, elsewhere):
    path = saved(here / "t", "checkpoint_1")
    mirror_of(scripted, here).upload(path)
    before = dict(scripted.script.objects)
    assert (
        mirror_of(scripted, here, 1).upload(path, check_first=True)
        is UploadOutcome.ALREADY_COMMITTED
    )
    changed = set(scripted.script.objects) - set(before)
    assert changed == {"journal/00000002"}


def test_what_is_not_there_is_stored_also_when_it_is_looked_for_first(storage, here):
    replica = mirror_of(storage, here)
    assert (
        replica.upload(saved(here / "t", "checkpoint_1"), check_first=True)
        is UploadOutcome.COMMITTED
    )
    assert (
        replica.upload(saved(here / "t", "checkpoint_2"), check_first=True)
        is UploadOutcome.COMMITTED
    )


def test_what_was_deleted_before_it_was_stored_is_gone(storage, here):
    replica = mirror_of(storage, here)
    path = saved(here / "t", "checkpoint_1")
    ckpt.delete(path)
    assert replica.upload(path) is UploadOutcome.DELETED
    assert replica.upload(str(here / "never" / "checkpoint_1")) is UploadOutcome.DELETED
    assert keys(storage) == []


def test_what_is_half_deleted_is_gone(storage, here):
    replica = mirror_of(storage, here)
    path = saved(here / "t", "checkpoint_1")
    (here / "t" / "checkpoint_1" / MANIFEST).unlink()
    assert replica.upload(path) is UploadOutcome.DELETED
    assert [key for key in keys(storage) if "checkpoint_1" in key] == []


def test_what_was_stored_and_then_deleted_here_is_there(storage, here):
    replica = mirror_of(storage, here)
    path = saved(here / "t", "checkpoint_1")
    replica.upload(path)
    ckpt.delete(path)
    assert replica.upload(path) is UploadOutcome.ALREADY_COMMITTED


def test_a_checkpoint_that_is_deleted_while_it_is_uploaded_arrives_whole(scripted, here, elsewhere):
    replica = mirror_of(scripted, here)
    path = saved(here / "t", "checkpoint_1")

    def before(call):
        if call.startswith("upload") or call == "list commits/":
            ckpt.delete(path)

    scripted.script.before = before
    assert replica.upload(path) is UploadOutcome.COMMITTED
    scripted.script.behave()
    assert not (here / "t" / "checkpoint_1").exists()
    mirror_of(scripted, elsewhere, 1).download(str(elsewhere / "t" / "checkpoint_1"))
    assert files_of(elsewhere / "t" / "checkpoint_1") == FILES


def test_an_upload_that_fails_leaves_no_links_and_can_be_made_again(scripted, here):
    replica = mirror_of(scripted, here)
    path = saved(here / "t", "checkpoint_1")
    for call in ("create commits/00000001", "upload", "create commits/00000002"):
        scripted.script.fail(call)
        with pytest.raises(StorageError):
            replica.upload(path)
        assert files_of(here / LINKS) == {}
    assert replica.upload(path) is UploadOutcome.COMMITTED


def test_files_are_copied_where_they_cannot_be_linked(scripted, here, elsewhere, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    replica = mirror_of(scripted, here)
    replica.upload(saved(here / "t", "checkpoint_1"))
    mirror_of(scripted, elsewhere, 1).download(str(elsewhere / "t" / "checkpoint_1"))
    assert files_of(elsewhere / "t" / "checkpoint_1") == FILES


def test_links_that_a_dead_driver_left_are_removed_when_the_next_begins(storage, here):
    (here / LINKS / "t" / "checkpoint_1").mkdir(parents=True)
    (here / LINKS / "t" / "checkpoint_1" / "model").write_bytes(b"x")
    mirror_of(storage, here)
    assert not (here / LINKS).exists()


def test_deleting_removes_it_there_and_here_and_nothing_else(storage, here):
    replica = mirror_of(storage, here)
    first, second = (saved(here / "t", f"checkpoint_{number}") for number in (1, 2))
    replica.upload(first)
    replica.upload(second)
    replica.delete(first)
    replica.delete(first)
    assert os.listdir(here / "t") == ["checkpoint_2"]
    assert [c.name for c in Commits(storage.below("t")).newest_first()] == ["checkpoint_2"]
    assert not [key for key in keys(storage) if "checkpoint_1/" in key]


def test_what_no_journal_knows_is_removed_there(storage, here):
    replica = mirror_of(storage, here)
    paths = [saved(here / "t", f"checkpoint_{number}") for number in (1, 2, 3)]
    for path in paths:
        replica.upload(path)
    after = mirror_of(storage, here, 1)
    after.retain("t", paths[:2])
    after.retain("never", [])
    names = [commit.name for commit in Commits(storage.below("t")).newest_first()]
    assert names == ["checkpoint_2", "checkpoint_1"]
    with pytest.raises(Fenced):
        replica.upload(saved(here / "t", "checkpoint_4"))
    assert after.upload(saved(here / "t", "checkpoint_5")) is UploadOutcome.COMMITTED


def test_what_is_neither_here_nor_there_cannot_be_brought(storage, here):
    replica = mirror_of(storage, here)
    path = str(here / "t" / "checkpoint_1")
    assert not replica.has(path)
    with pytest.raises(FileNotFoundError, match="checkpoint_1"):
        replica.download(path)


def test_what_is_here_is_not_fetched(scripted, here):
    replica = mirror_of(scripted, here)
    path = saved(here / "t", "checkpoint_1")
    calls = len(scripted.script.calls)
    assert replica.has(path)
    replica.download(path)
    assert len(scripted.script.calls) == calls


def test_what_comes_damaged_is_told_of(scripted, here, elsewhere):
    mirror_of(scripted, here).upload(saved(here / "t", "checkpoint_1"))
    replica = mirror_of(scripted, elsewhere, 1)
    scripted.script.serve = lambda key, data: data if "commits/" in key else data[::-1]
    with pytest.raises(CheckpointCorrupt):
        replica.download(str(elsewhere / "t" / "checkpoint_1"))
    assert os.listdir(elsewhere / "t") == []


def test_one_whose_record_is_damaged_is_not_there(scripted, here, elsewhere):
    mirror_of(scripted, here).upload(saved(here / "t", "checkpoint_1"))
    scripted.script.objects["t/commits/00000002"] = b""
    assert not mirror_of(scripted, elsewhere, 1).has(str(elsewhere / "t" / "checkpoint_1"))


def test_the_newest_of_those_that_are_known_is_found(storage, here, elsewhere):
    replica = mirror_of(storage, here)
    for number in (1, 2, 3):
        replica.upload(saved(here / "t", f"checkpoint_{number}"))
    there = mirror_of(storage, elsewhere, 1)
    paths = [str(elsewhere / "t" / f"checkpoint_{number}" / "model") for number in (1, 2, 9)]
    assert there.newest_remote("t", paths) == paths[1]
    assert there.newest_remote("t", paths[2:]) is None
    assert there.newest_remote("t", []) is None
    assert there.newest_remote("never", [str(elsewhere / "never" / "checkpoint_1")]) is None


def test_the_newest_is_the_one_before_when_the_record_of_the_last_is_damaged(
    scripted, here, elsewhere
):
    replica = mirror_of(scripted, here)
    for number in (1, 2):
        replica.upload(saved(here / "t", f"checkpoint_{number}"))
    scripted.script.objects["t/commits/00000003"] = b""
    there = mirror_of(scripted, elsewhere, 1)
    paths = [str(elsewhere / "t" / f"checkpoint_{number}" / "model") for number in (1, 2)]
    assert there.newest_remote("t", paths) == paths[0]


def test_a_driver_that_was_overtaken_cannot_store_any_more(storage, here, elsewhere):
    first = mirror_of(storage, here)
    first.upload(saved(here / "t", "checkpoint_1"))
    second = mirror_of(storage, elsewhere, 1)
    second.upload(saved(elsewhere / "t", "checkpoint_2"))
    with pytest.raises(Fenced):
        first.upload(saved(here / "t", "checkpoint_3"))


def test_what_is_forgotten_of_a_trial_is_looked_up_again(storage, here):
    replica = mirror_of(storage, here)
    replica.upload(saved(here / "t", "checkpoint_1"))
    replica.release("t")
    replica.release("never")
    assert replica.upload(saved(here / "t", "checkpoint_2")) is UploadOutcome.COMMITTED
    names = [commit.name for commit in Commits(storage.below("t")).newest_first()]
    assert names == ["checkpoint_2", "checkpoint_1"]


@pytest.mark.parametrize(
    "where", ["../t/checkpoint_1", "checkpoint_1", "t", "t/model", "t/../../x"]
)
def test_a_path_that_is_no_checkpoint_of_the_experiment_is_refused(scripted, here, where):
    replica = mirror_of(scripted, here)
    before = dict(scripted.script.objects)
    path = str(here / where)
    for call in (
        lambda: replica.upload(path),
        lambda: replica.delete(path),
        lambda: replica.has(path),
        lambda: replica.download(path),
        lambda: replica.newest_remote("t", [path]),
    ):
        with pytest.raises(StorageError, match="no checkpoint of a trial"):
            call()
    assert scripted.script.objects == before


# -- results ------------------------------------------------------------------------------------


def sent(replica, exported=(), *, final=False):
    """What is uploaded now."""
    script = replica.storage.script
    before = len(script.calls)
    replica.upload_files("t", exported, final)
    return sorted(
        call.removeprefix("upload ") for call in script.calls[before:] if call.startswith("upload")
    )


@pytest.fixture
def replica(scripted, here):
    return mirror_of(scripted, here)


def test_only_what_has_changed_is_sent(replica, here):
    for name in ("result.json", "progress.csv"):
        (here / "t" / name).write_text(name)
    assert sent(replica) == ["progress.csv", "result.json"]
    assert sent(replica) == []
    with (here / "t" / "result.json").open("a") as file:
        file.write("more")
    assert sent(replica) == ["result.json"]
    assert replica.storage.script.objects["t/result.json"] == b"result.jsonmore"
    (here / "t" / "new").write_text("x")
    assert sent(replica) == ["new"]


def test_what_failed_is_sent_again(replica, here):
    (here / "t" / "a").write_text("x")
    replica.storage.script.fail("upload a")
    with pytest.raises(StorageError):
        replica.upload_files("t", [], False)
    assert sent(replica) == ["a"]


def test_checkpoints_hidden_files_and_links_are_not_sent(replica, here, tmp_path):
    logdir = here / "t"
    saved(logdir, "checkpoint_1")
    (logdir / "dir").mkdir()
    (logdir / "dir" / "inner").write_text("x")
    (logdir / ".hidden").write_text("x")
    (logdir / "a").write_text("x")
    (tmp_path / "secret").write_text("s")
    (logdir / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(logdir / "fifo")
    assert sent(replica, final=True) == ["a"]


def test_large_files_wait_for_the_end(replica, here):
    with (here / "t" / "large").open("wb") as file:
        file.truncate((8 << 20) + 1)
    assert sent(replica) == []
    assert sent(replica, final=True) == ["large"]
    assert sent(replica, final=True) == []


def test_what_was_exported_is_sent_with_all_that_is_in_it(replica, here):
    logdir = here / "t"
    (logdir / "model" / "inner").mkdir(parents=True)
    (logdir / "model" / "a").write_text("x")
    (logdir / "model" / "inner" / "b").write_text("x")
    (logdir / "other" / "dir").mkdir(parents=True)
    (logdir / "other" / "dir" / "c").write_text("x")
    (logdir / "other" / "not").write_text("x")
    (logdir / "top").write_text("x")
    exported = [str(logdir / "model"), "other/dir/c", str(logdir / "top"), str(logdir / "never")]
    assert sent(replica, exported) == ["model/a", "model/inner/b", "other/dir/c", "top"]
    assert sent(replica, exported) == []


def test_what_was_exported_elsewhere_stays_there(replica, here, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("x")
    exported = [str(tmp_path / "outside"), "../../outside/a", str(here / "t"), ".", str(here), "/"]
    assert sent(replica, exported) == []


def test_what_was_exported_by_way_of_a_link_is_not_sent(replica, here, tmp_path):
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "secret").write_text("s")
    (outside / "inner" / "secret").write_text("s")
    (here / "t" / "link").symlink_to(outside)
    (here / "t" / "model").mkdir()
    (here / "t" / "model" / "link").symlink_to(outside)
    (here / "t" / "model" / "a").write_text("x")
    exported = ["link", "link/", "link/secret", "link/inner", "model"]
    assert sent(replica, exported) == ["model/a"]


def test_a_checkpoint_is_not_sent_as_something_exported(replica, here):
    path = saved(here / "t", "checkpoint_1")
    assert sent(replica, [str(here / "t" / "checkpoint_1"), path]) == []


def test_a_trial_without_a_directory_has_nothing_to_send(replica):
    replica.upload_files("never", [], True)


def test_a_file_that_vanishes_is_passed_over(replica, here, monkeypatch):
    for name in ("a", "b", "c"):
        (here / "t" / name).write_text("x")
    real = os.stat

    def stat(path, *args, **kwargs):
        if os.fspath(path) == str(here / "t" / "b"):
            (here / "t" / "b").unlink(missing_ok=True)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert sent(replica) == ["a", "c"]


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\u00a0b", os.fsdecode(b"\xff")])
def test_a_name_that_no_object_can_have_holds_up_nothing_else(replica, here, name):
    for each in ("a", name, "\U0001f600"):
        (here / "t" / each).write_text("x")
    with pytest.raises(StorageError, match="cannot be uploaded: no object can have this name"):
        replica.upload_files("t", [], True)
    assert keys(replica.storage) == ["t/a", "t/\U0001f600"]


def test_a_checkpoint_with_a_name_that_no_object_can_have_fails_like_storage(scripted, here):
    replica = mirror_of(scripted, here)
    path = saved(here / "t", "checkpoint_1", {"model": b"x", "a\\b": b"y"})
    with pytest.raises(TuneError) as raised:
        replica.upload(path)
    # What uploads catch, so that the run goes on and tells of it.
    assert isinstance(raised.value, StorageError)
    assert keys(scripted) == ["t/commits/00000001"] or keys(scripted) == []


def test_where_a_durable_trial_keeps_its_checkpoints_is_its_own_and_ranks_by_attempt(storage, here):
    replica = mirror_of(storage, here, 3)
    place = replica.remote_dir("t", 2)
    assert place.storage.url == f"{storage.url}/t"
    assert place.writer.rank == (3, 2)
    assert place.writer.token == replica.journal.driver
    assert replica.url == storage.url


def test_several_trials_that_begin_from_one_checkpoint_bring_it_once(storage, here, elsewhere):
    path = saved(here / "t", "checkpoint_1")
    mirror_of(storage, here).upload(path)
    (elsewhere / "t").mkdir()
    replica = mirror_of(storage, elsewhere, 1)
    there = str(elsewhere / "t" / "checkpoint_1" / "model")
    with ThreadPoolExecutor(8) as pool:
        inodes = list(pool.map(lambda _: (replica.download(there), inode(there)), range(16)))
    assert len(set(inodes)) == 1, "nobody took away what another one reads"


def test_a_copy_that_another_process_has_brought_meanwhile_stays(storage, here, elsewhere):
    path = saved(here / "t", "checkpoint_1")
    mirror_of(storage, here).upload(path)
    (elsewhere / "t").mkdir()
    there = str(elsewhere / "t" / "checkpoint_1" / "model")
    commits = Commits(storage.below("t"))
    commit = commits.find("checkpoint_1")
    commits.fetch(commit, elsewhere / "t")
    before = inode(there)
    commits.fetch(commit, elsewhere / "t")
    assert inode(there) == before
    Path(there).write_bytes(b"damaged")
    commits.fetch(commit, elsewhere / "t")
    assert Path(there).read_bytes() == FILES["model"], "but one that is no good is replaced"


def inode(path):
    return os.stat(path).st_ino
