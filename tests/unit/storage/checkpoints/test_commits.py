"""Commits: a checkpoint in a storage is whole or is nothing, and belongs to its newest writer."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import tracemalloc

import pytest

from asynctune.errors import CheckpointCorrupt, Fenced, StorageError, UnsafePath
from asynctune.storage import Entry, LocalStorage, Storage
from asynctune.storage.checkpoints import directory as ckpt
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.manifest import MANIFEST, Manifest
from asynctune.storage.checkpoints.records import Commit, Writer
from scripted_storage import Died, ScriptedStorage

STATE = {
    "experiment_id": "e", "iteration": 1, "time_total": 1.0, "timesteps_total": None,
    "episodes_total": None,
}  # fmt: skip
OLD = {"a": b"old a", "sub/b": b"old b" * 100, "c": b""}
NEW = {"a": b"new a", "sub/b": b"new", "d": b"new d"}


def saved(parent, name, contents):
    """Make a local checkpoint."""
    aside = ckpt.make_staging_dir(parent, name)
    for file, data in contents.items():
        (aside / file).parent.mkdir(parents=True, exist_ok=True)
        (aside / file).write_bytes(data)
    root = ckpt.commit(aside, "", saved_as_dict=False, state=STATE, parent=parent)
    ckpt.remove_staging_dir(aside)
    return root


def contents_of(root):
    found = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    del found[MANIFEST]
    return found


def read(storage, name, parent):
    """Read a checkpoint as somebody does who knows nothing of those who wrote it; None if there is none."""
    reader = Commits(storage)
    commit = reader.find(name)
    if commit is None:
        return None
    return contents_of(reader.fetch(commit, parent / f"read-{os.urandom(4).hex()}"))


def names(storage):
    return [commit.name for commit in Commits(storage).newest_first()]


def written(parent):
    """All files below a directory."""
    return [path for path in parent.rglob("*") if not path.is_dir()]


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local"
    path.mkdir()
    return path


def test_the_scripted_storage_is_one(scripted):
    assert isinstance(scripted, Storage)


# -- committed or invisible ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoint_1", "checkpoint_10", "checkpoint_3.2"])
def test_what_was_committed_comes_back_elsewhere(storage, local, tmp_path, name):
    commit = Commits(storage).commit(saved(local, name, OLD))
    assert commit.name == name
    assert read(storage, name, tmp_path) == OLD
    root = Commits(storage).fetch(commit, tmp_path / "x")
    assert root == tmp_path / "x" / name
    assert ckpt.verify(root).state == STATE
    assert os.listdir(tmp_path / "x") == [name]


def test_empty_directories_and_an_empty_checkpoint_come_back(storage, local, tmp_path):
    aside = ckpt.make_staging_dir(local, "checkpoint_1")
    (aside / "empty" / "inner").mkdir(parents=True)
    root = ckpt.commit(aside, "", saved_as_dict=False, state=STATE, parent=local)
    commit = Commits(storage).commit(root)
    assert (Commits(storage).fetch(commit, tmp_path / "x") / "empty" / "inner").is_dir()


def test_a_checkpoint_can_have_another_name_there(storage, local, tmp_path):
    Commits(storage).commit(saved(local, "checkpoint_1", OLD), "checkpoint_7")
    assert names(storage) == ["checkpoint_7"]
    assert read(storage, "checkpoint_7", tmp_path) == OLD


def test_the_newest_comes_first(storage, local):
    commits = Commits(storage)
    for number in (2, 10, 1):
        commits.commit(saved(local, f"checkpoint_{number}", OLD))
    assert names(storage) == ["checkpoint_1", "checkpoint_10", "checkpoint_2"]


def test_a_name_is_taken_by_whatever_was_stored_under_it(scripted, local):
    commits = Commits(scripted)
    assert not commits.is_taken("checkpoint_1")
    scripted.script.fail("create commits/00000002")
    with pytest.raises(StorageError):
        commits.commit(saved(local, "checkpoint_1", OLD))
    assert names(scripted) == []
    assert commits.is_taken("checkpoint_1")
    assert not commits.is_taken("checkpoint_11")


@pytest.mark.parametrize("effect", [False, True], ids=["before", "behind"])
def test_whoever_dies_at_any_call_of_a_commit_leaves_the_old_or_the_new_checkpoint(
    local, tmp_path, effect
):
    saved(local / "old", "checkpoint_1", OLD)
    new = saved(local / "new", "checkpoint_1", NEW)
    seen = []
    for number in itertools.count(1):
        storage = ScriptedStorage()
        Commits(storage, Writer(0, 0)).commit(local / "old" / "checkpoint_1")
        storage.script.die_at(number, effect=effect)
        try:
            Commits(storage, Writer(0, 1)).commit(new)
            ended = True
        except Died:
            ended = False
        storage.script.behave()
        found = read(storage, "checkpoint_1", tmp_path)
        assert found in (OLD, NEW)
        seen.append(found == NEW)
        # And whoever comes next can write.
        Commits(storage, Writer(0, 2)).commit(new)
        assert read(storage, "checkpoint_1", tmp_path) == NEW
        if ended:
            break
    assert len(seen) >= 7  # list, read, begin, three files, record
    assert seen == sorted(seen)
    assert not seen[0]
    assert seen[-1]


@pytest.mark.parametrize("effect", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", ["checkpoint_1", "checkpoint_2"])
def test_whoever_dies_at_any_call_of_a_delete_leaves_a_whole_checkpoint_or_none(
    local, tmp_path, name, effect
):
    roots = [saved(local, f"checkpoint_{number}", OLD) for number in (1, 2)]
    for number in itertools.count(1):
        storage = ScriptedStorage()
        for root in roots:
            Commits(storage, Writer(0, 0, "t")).commit(root)
        storage.script.die_at(number, effect=effect)
        try:
            Commits(storage, Writer(0, 1)).delete(name)
            ended = True
        except Died:
            ended = False
        storage.script.behave()
        assert read(storage, name, tmp_path) in (OLD, None)
        other = {"checkpoint_1", "checkpoint_2"} - {name}
        assert read(storage, other.pop(), tmp_path) == OLD
        Commits(storage, Writer(0, 1)).delete(name)
        assert read(storage, name, tmp_path) is None
        assert not any(key.startswith(f"{name}/") for key in storage.script.objects)
        if ended:
            break
    assert number > 5


def test_a_save_that_failed_shows_nothing_and_the_next_one_counts(scripted, local, tmp_path):
    commits = Commits(scripted)
    for call in ("upload checkpoint_1/", "create commits/00000002"):
        scripted.script.fail(call)
        with pytest.raises(StorageError, match=call):
            commits.commit(saved(local, "checkpoint_1", OLD))
        assert names(scripted) == []
        scripted.script.behave()
    commits.commit(saved(local, "checkpoint_2", NEW))
    assert names(scripted) == ["checkpoint_2"]
    assert read(scripted, "checkpoint_2", tmp_path) == NEW


def test_a_file_that_is_gone_is_told_of_and_nothing_is_committed(storage, local):
    root = saved(local, "checkpoint_1", OLD)
    (root / "a").unlink()
    with pytest.raises(FileNotFoundError):
        Commits(storage).commit(root)
    assert names(storage) == []


def test_a_directory_that_is_no_checkpoint_is_not_stored(scripted, local):
    with pytest.raises(FileNotFoundError):
        Commits(scripted).commit(local)
    assert scripted.script.calls == []


def test_a_name_that_no_reader_would_take_is_not_written(scripted, local):
    Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    with pytest.raises(UnsafePath, match="best"):
        Commits(scripted).commit(saved(local, "checkpoint_best", OLD))
    assert names(scripted) == ["checkpoint_1"]


# -- an answer is lost --------------------------------------------------------------------------


class Deaf(ScriptedStorage):
    """Its answers to creates are lost, and an own second attempt is told that something is there."""

    def create(self, key, data):
        created = super().create(key, data)
        return created and super().create(key, data)


def test_a_create_whose_answer_was_lost_has_happened_once(local, tmp_path):
    storage = Deaf()
    commits = Commits(storage)
    for number in (1, 2):
        commits.commit(saved(local, f"checkpoint_{number}", OLD))
    assert sorted(k for k in storage.script.objects if k.startswith("commits/")) == [
        "commits/00000001", "commits/00000002", "commits/00000003",
    ]  # fmt: skip
    assert names(storage) == ["checkpoint_2", "checkpoint_1"]
    assert commits.delete("checkpoint_2")
    assert names(storage) == ["checkpoint_1"]
    assert read(storage, "checkpoint_1", tmp_path) == OLD


@pytest.mark.parametrize("call", ["create commits/00000001", "create commits/00000002"])
def test_a_create_that_happened_and_was_reported_as_failed_does_not_stop_the_writer(
    scripted, local, tmp_path, call
):
    commits = Commits(scripted)
    scripted.script.fail(call, effect=True)
    with pytest.raises(StorageError):
        commits.commit(saved(local, "checkpoint_1", OLD))
    commits.commit(saved(local, "checkpoint_2", NEW))
    assert names(scripted)[0] == "checkpoint_2"
    assert read(scripted, "checkpoint_2", tmp_path) == NEW


# -- what a save that failed has stored ---------------------------------------------------------


def files_below(storage, name):
    return [entry.key for entry in storage.list(f"{name}/")]


def test_a_save_that_fails_takes_with_it_what_it_has_stored(scripted, local):
    commits, root = Commits(scripted), saved(local, "checkpoint_1", OLD)
    for _ in range(3):
        scripted.script.fail("upload checkpoint_1/")
        with pytest.raises(StorageError):
            commits.commit(root)
        assert files_below(scripted, "checkpoint_1") == []
    made = commits.commit(root)
    assert files_below(scripted, "checkpoint_1") == [f"{made.prefix}{file}" for file in sorted(OLD)]


def test_a_save_of_which_a_file_is_gone_takes_with_it_what_it_has_stored(storage, local):
    root = saved(local, "checkpoint_1", OLD)
    (root / "sub" / "b").unlink()
    with pytest.raises(FileNotFoundError):
        Commits(storage).commit(root)
    assert files_below(storage, "checkpoint_1") == []


def test_what_could_not_be_removed_then_is_removed_after_a_later_commit(scripted, local):
    commits = Commits(scripted)

    uploads = itertools.count()

    def is_down(call):  # from the second upload on
        is_later = call.startswith("upload") and next(uploads)
        if is_later or call.startswith(("list checkpoint", "delete")):
            raise StorageError(f"{call} failed")

    scripted.script.before = is_down
    with pytest.raises(StorageError, match="upload"):
        commits.commit(saved(local, "checkpoint_1", OLD))
    assert files_below_now(scripted, "checkpoint_1")
    scripted.script.behave()
    commits.commit(saved(local, "checkpoint_2", NEW))
    assert files_below(scripted, "checkpoint_1") == []
    assert names(scripted) == ["checkpoint_2"]


def files_below_now(scripted, name):
    return [key for key in scripted.script.objects if key.startswith(f"{name}/")]


def test_a_commit_is_none_the_worse_for_what_still_cannot_be_removed(scripted, local, tmp_path):
    commits = Commits(scripted)
    scripted.script.fail("upload checkpoint_1/", "list checkpoint_1/", times=3)
    with pytest.raises(StorageError, match="upload"):
        commits.commit(saved(local, "checkpoint_1", {"a": b"a"}))
    commits.commit(saved(local, "checkpoint_2", NEW))
    assert read(scripted, "checkpoint_2", tmp_path) == NEW


@pytest.mark.parametrize("happened", [False, True])
def test_what_a_lost_answer_leaves_in_doubt_stays_until_a_later_commit_shows_what_became_of_it(
    scripted, local, tmp_path, happened
):
    commits = Commits(scripted)
    scripted.script.fail("create commits/00000002", effect=happened)
    with pytest.raises(StorageError):
        commits.commit(saved(local, "checkpoint_1", OLD))
    assert len(files_below(scripted, "checkpoint_1")) == 3
    scripted.script.behave()
    scripted.script.fail("upload")
    with pytest.raises(StorageError):  # which shows nothing
        commits.commit(saved(local, "checkpoint_2", NEW))
    assert len(files_below(scripted, "checkpoint_1")) == 3
    commits.commit(saved(local, "checkpoint_3", NEW))
    assert len(files_below(scripted, "checkpoint_1")) == (3 if happened else 0)
    assert read(scripted, "checkpoint_1", tmp_path) == (OLD if happened else None)
    assert names(scripted) == ["checkpoint_3", "checkpoint_1"][: 1 + happened]


def test_a_deletion_in_between_does_not_show_what_became_of_a_save_in_doubt(
    scripted, local, tmp_path
):
    commits = Commits(scripted)
    commits.commit(saved(local, "checkpoint_1", OLD))
    scripted.script.fail("create commits/00000003", effect=True)
    with pytest.raises(StorageError):
        commits.commit(saved(local, "checkpoint_2", NEW))
    assert commits.delete("checkpoint_1")
    commits.commit(saved(local, "checkpoint_3", NEW))
    assert read(scripted, "checkpoint_2", tmp_path) == NEW


def test_what_may_be_a_damaged_record_of_ours_keeps_its_files(scripted, local):
    commits = Commits(scripted)
    scripted.script.fail("create commits/00000002", effect=True)
    with pytest.raises(StorageError):
        commits.commit(saved(local, "checkpoint_1", OLD))
    scripted.script.objects["commits/00000002"] = b""
    commits.commit(saved(local, "checkpoint_2", NEW))
    assert len(files_below(scripted, "checkpoint_1")) == 3


def test_who_is_fenced_takes_with_him_what_is_his_and_nothing_of_the_newer_writer(
    scripted, local, tmp_path
):
    older, newer = Commits(scripted, Writer(0)), Commits(scripted, Writer(1))
    older.commit(saved(local / "old", "checkpoint_1", OLD))
    newer.commit(saved(local / "new", "checkpoint_1", NEW))
    scripted.script.objects[f"checkpoint_1/{'0' * 24}/a"] = b"on its way"  # the newer one's next
    before = files_below(scripted, "checkpoint_1")
    with pytest.raises(Fenced):
        older.commit(saved(local / "old", "checkpoint_1", OLD))
    assert files_below(scripted, "checkpoint_1") == before
    assert read(scripted, "checkpoint_1", tmp_path) == NEW


def test_who_never_failed_lists_the_records_once_and_nothing_else(scripted, local):
    commits = Commits(scripted)
    for number in (1, 2, 3):
        commits.commit(saved(local, f"checkpoint_{number}", OLD))
    assert [c for c in scripted.script.calls if c.startswith(("list", "delete", "read"))] == [
        "list commits/"
    ]


# -- one writer after the other -----------------------------------------------------------------

PAIRS = {
    "epoch": (Writer(0, 9), Writer(1, 0)),
    "attempt": (Writer(1, 0), Writer(1, 1)),
    "token": (Writer(0, 0, "a"), Writer(0, 0, "b")),
}


@pytest.mark.parametrize("writers", PAIRS.values(), ids=PAIRS)
def test_who_wrote_before_is_fenced_when_somebody_else_has_begun(storage, local, writers):
    first, second = (Commits(storage, writer) for writer in writers)
    first.commit(saved(local, "checkpoint_1", OLD))
    second.claim()
    for number in (2, 3):
        with pytest.raises(Fenced, match=r"this writer stops writing$"):
            first.commit(saved(local, f"checkpoint_{number}", OLD))
    second.commit(saved(local, "checkpoint_4", NEW))
    assert names(storage) == ["checkpoint_4", "checkpoint_1"]


@pytest.mark.parametrize("kind", ["epoch", "attempt"])
def test_who_comes_late_with_a_lower_rank_is_fenced_at_once(storage, local, kind):
    older, newer = PAIRS[kind]
    Commits(storage, newer).commit(saved(local, "checkpoint_1", OLD))
    with pytest.raises(Fenced, match=f"driver {newer.epoch}, attempt {newer.attempt}"):
        Commits(storage, older).commit(saved(local, "checkpoint_2", OLD))
    assert names(storage) == ["checkpoint_1"]


def test_of_equals_the_last_to_begin_owns_the_place(storage, local):
    first, second = Commits(storage), Commits(storage)
    first.claim()
    second.claim()
    second.commit(saved(local, "checkpoint_1", OLD))
    with pytest.raises(Fenced):
        first.commit(saved(local, "checkpoint_2", OLD))
    third = Commits(storage)
    third.commit(saved(local, "checkpoint_3", OLD))
    with pytest.raises(Fenced):
        second.commit(saved(local, "checkpoint_4", OLD))
    third.commit(saved(local, "checkpoint_5", OLD))


def test_claiming_twice_is_claiming_once(scripted):
    commits = Commits(scripted)
    commits.claim()
    commits.claim()
    assert list(scripted.script.objects) == ["commits/00000001"]


@pytest.mark.parametrize("newest", ["checkpoint_2", "checkpoint_3"])
@pytest.mark.parametrize("writers", PAIRS.values(), ids=PAIRS)
def test_who_wrote_before_is_fenced_whatever_the_newer_writer_deletes(
    storage, local, writers, newest
):
    first, second = (Commits(storage, writer) for writer in writers)
    first.commit(saved(local, "checkpoint_1", OLD))
    for number in (2, 3):
        second.commit(saved(local, f"checkpoint_{number}", OLD))
    for name in ("checkpoint_1", newest):
        assert second.delete(name)
    with pytest.raises(Fenced):
        first.commit(saved(local, "checkpoint_4", NEW))
    second.commit(saved(local, "checkpoint_5", NEW))
    assert names(storage)[0] == "checkpoint_5"


@pytest.mark.parametrize("kind", ["epoch", "attempt"])
def test_a_late_writer_is_fenced_also_when_nothing_is_left_of_the_newer_one(storage, local, kind):
    older, newer = PAIRS[kind]
    commits = Commits(storage, newer)
    commits.commit(saved(local, "checkpoint_1", OLD))
    assert commits.delete("checkpoint_1")
    assert names(storage) == []
    with pytest.raises(Fenced):
        Commits(storage, older).claim()


@pytest.mark.parametrize("writers", PAIRS.values(), ids=PAIRS)
def test_deleting_does_not_let_a_stale_writer_write_again(storage, local, writers):
    first, second = (Commits(storage, writer) for writer in writers)
    first.commit(saved(local, "checkpoint_1", OLD))
    second.commit(saved(local, "checkpoint_2", OLD))
    try:
        first.delete("checkpoint_2")
    except Fenced:
        assert names(storage) == ["checkpoint_2", "checkpoint_1"]
    with pytest.raises(Fenced):
        first.commit(saved(local, "checkpoint_3", NEW))
    assert "checkpoint_3" not in names(storage)


def test_a_deletion_by_a_stale_writer_lets_none_of_its_rank_begin(storage, local):
    Commits(storage, Writer(1)).commit(saved(local, "checkpoint_1", OLD))
    try:
        Commits(storage, Writer(0)).delete("checkpoint_1")
    except Fenced:
        assert names(storage) == ["checkpoint_1"]
    with pytest.raises(Fenced):
        Commits(storage, Writer(0)).claim()


@pytest.mark.parametrize("writers", PAIRS.values(), ids=PAIRS)
def test_a_beginning_that_failed_is_made_again_so_a_stale_writer_stumbles_over_it(
    scripted, local, writers
):
    first, second = (Commits(scripted, writer) for writer in writers)
    first.commit(saved(local, "checkpoint_1", OLD))
    scripted.script.fail("create commits/00000003")
    with pytest.raises(StorageError):
        second.commit(saved(local, "checkpoint_2", NEW))
    for number in (3, 4, 5):
        second.commit(saved(local, f"checkpoint_{number}", NEW))
    for number in (3, 4):
        second.delete(f"checkpoint_{number}")
    with pytest.raises(Fenced):
        first.commit(saved(local, "checkpoint_6", OLD))


def test_who_only_deleted_has_yet_to_begin(storage, local):
    first, second = Commits(storage, Writer(0, 0)), Commits(storage, Writer(0, 1))
    first.commit(saved(local, "checkpoint_1", OLD))
    second.delete("checkpoint_1")
    for number in (2, 3):
        second.commit(saved(local, f"checkpoint_{number}", NEW))
    second.delete("checkpoint_2")
    with pytest.raises(Fenced):
        first.commit(saved(local, "checkpoint_4", OLD))
    assert names(storage) == ["checkpoint_3"]


# -- deleting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_deleted_checkpoint_is_gone_with_all_its_files(scripted, local, tmp_path, gone):
    commits = Commits(scripted)
    for number in (1, 2, 3):
        commits.commit(saved(local, f"checkpoint_{number}", OLD))
    assert commits.delete(f"checkpoint_{gone}")
    assert commits.find(f"checkpoint_{gone}") is None
    assert not commits.delete(f"checkpoint_{gone}")
    left = [f"checkpoint_{number}" for number in (3, 2, 1) if number != gone]
    assert names(scripted) == left
    assert [read(scripted, name, tmp_path) for name in left] == [OLD, OLD]
    assert not any(f"checkpoint_{gone}/" in key for key in scripted.script.objects)
    assert not commits.is_taken(f"checkpoint_{gone}")
    commits.commit(saved(local, "checkpoint_9", NEW))
    assert names(scripted) == ["checkpoint_9", *left]


def test_what_an_unfinished_save_left_is_deleted_too(scripted, local):
    scripted.script.fail("create commits/00000002")
    with pytest.raises(StorageError):
        Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    assert not Commits(scripted).delete("checkpoint_1")
    assert [key for key in scripted.script.objects if key.startswith("checkpoint_")] == []


def test_only_what_bears_the_whole_name_is_deleted(storage, local, tmp_path):
    for name in ("checkpoint_1", "checkpoint_10", "checkpoint_1.1"):
        Commits(storage).commit(saved(local, name, OLD))
    assert Commits(storage).delete("checkpoint_1")
    assert names(storage) == ["checkpoint_1.1", "checkpoint_10"]
    assert read(storage, "checkpoint_10", tmp_path) == read(storage, "checkpoint_1.1", tmp_path)


def test_all_that_was_committed_under_a_name_is_gone_when_it_is_deleted(storage, local):
    Commits(storage, Writer(0)).commit(saved(local / "a", "checkpoint_1", OLD))
    commits = Commits(storage, Writer(1))
    commits.commit(saved(local / "b", "checkpoint_1", NEW))
    assert commits.delete("checkpoint_1")
    assert commits.find("checkpoint_1") is None
    assert names(storage) == []


def test_one_who_has_found_a_checkpoint_sees_that_another_has_deleted_it(storage, local):
    first = Commits(storage)
    first.commit(saved(local, "checkpoint_1", OLD))
    first.commit(saved(local, "checkpoint_2", OLD))
    for name in ("checkpoint_1", "checkpoint_2"):
        assert first.find(name) is not None
        assert Commits(storage).delete(name)
        assert first.find(name) is None


def test_one_who_has_found_a_checkpoint_finds_it_again_where_another_has_put_it(storage, local):
    reader, writer = Commits(storage), Commits(storage)
    writer.commit(saved(local / "a", "checkpoint_1", OLD))
    first = reader.find("checkpoint_1")
    writer.commit(saved(local / "a", "checkpoint_2", OLD))
    writer.delete("checkpoint_1")
    again = writer.commit(saved(local / "b", "checkpoint_1", NEW))
    assert reader.find("checkpoint_1") == again != first


def test_of_two_of_one_name_the_newer_is_found(storage, local, tmp_path):
    Commits(storage, Writer(0)).commit(saved(local / "a", "checkpoint_1", OLD))
    Commits(storage, Writer(1)).commit(saved(local / "b", "checkpoint_1", NEW))
    assert read(storage, "checkpoint_1", tmp_path) == NEW


# -- damage -------------------------------------------------------------------------------------

DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "no JSON": lambda data: b"\x80" + data,
    "a list": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
    "flipped": lambda data: data.replace(b"checkpoint_2", b"checkpoint_3"),
    "no checksum": lambda data: data.replace(b'"checksum"', b'"checksam"'),
    "another format": lambda data: data.replace(b'"format": 1', b'"format": 2'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_told_of_and_hides_no_other(scripted, local, tmp_path, damage):
    commits = Commits(scripted)
    for number in (1, 2):
        commits.commit(saved(local, f"checkpoint_{number}", OLD))
    key = "commits/00000003"
    scripted.script.objects[key] = damage(scripted.script.objects[key])
    with pytest.raises(CheckpointCorrupt, match=key):
        Commits(scripted).find("checkpoint_2")
    with pytest.raises(CheckpointCorrupt, match=key):
        next(Commits(scripted).newest_first())
    assert read(scripted, "checkpoint_1", tmp_path) == OLD


GARBLED = {name: damage for name, damage in DAMAGES.items() if name != "another format"}


def damaged_at(scripted, number, damage):
    key = f"commits/{number:08d}"
    scripted.script.objects[key] = damage(scripted.script.objects[key])


@pytest.mark.parametrize("damage", GARBLED.values(), ids=GARBLED)
def test_a_damaged_last_record_keeps_nobody_from_writing_or_deleting(
    scripted, local, tmp_path, damage
):
    before = Commits(scripted, Writer(0))
    for number in (1, 2):
        before.commit(saved(local, f"checkpoint_{number}", OLD))
    damaged_at(scripted, 3, damage)
    commits = Commits(scripted, Writer(1))
    assert commits.delete("checkpoint_1")
    commits.commit(saved(local, "checkpoint_3", NEW))
    commits.commit(saved(local / "again", "checkpoint_2", NEW))
    assert read(scripted, "checkpoint_2", tmp_path) == NEW
    commits.retain({"checkpoint_3"})
    assert [c.name for c in Commits(scripted).newest_first(damaged=[])] == ["checkpoint_3"]
    with pytest.raises(Fenced):
        before.commit(saved(local, "checkpoint_4", OLD))


def test_a_record_that_is_damaged_where_one_is_to_be_written_is_passed(scripted, local, tmp_path):
    commits = Commits(scripted)
    commits.commit(saved(local, "checkpoint_1", OLD))
    for number in (3, 4):
        scripted.script.objects[f"commits/{number:08d}"] = b""
    assert commits.commit(saved(local, "checkpoint_2", NEW)).number == 5
    assert read(scripted, "checkpoint_2", tmp_path) == NEW


def test_damage_behind_its_beginning_hides_no_newer_writer(scripted, local):
    older, newer = Commits(scripted, Writer(0)), Commits(scripted, Writer(1))
    older.commit(saved(local, "checkpoint_1", OLD))
    for number in (2, 3):
        newer.commit(saved(local, f"checkpoint_{number}", NEW))
    for number in (4, 5):
        damaged_at(scripted, number, lambda data: b"")
    before = dict(scripted.script.objects)
    for call in (
        lambda: Commits(scripted, Writer(0)).claim(),
        lambda: older.commit(saved(local, "checkpoint_4", OLD)),
        lambda: older.delete("checkpoint_1"),
    ):
        with pytest.raises(Fenced, match="record 3"):
            call()
    assert scripted.script.objects == before


def test_who_wrote_before_is_fenced_by_the_next_record_if_the_beginning_is_damaged(scripted, local):
    older, newer = Commits(scripted, Writer(0)), Commits(scripted, Writer(1))
    older.commit(saved(local, "checkpoint_1", OLD))
    newer.claim()
    damaged_at(scripted, 3, lambda data: b"")
    older.commit(saved(local, "checkpoint_2", OLD))  # nothing says that he may not
    newer.commit(saved(local, "checkpoint_3", NEW))
    with pytest.raises(Fenced):
        older.commit(saved(local, "checkpoint_4", OLD))
    newer.commit(saved(local, "checkpoint_5", NEW))
    found = [commit.name for commit in Commits(scripted).newest_first(damaged=[])]
    assert found == ["checkpoint_5", "checkpoint_3", "checkpoint_2", "checkpoint_1"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_record_that_came_garbled_once_fences_all_the_same(scripted, local, begun):
    older = Commits(scripted, Writer(0))
    if begun:
        older.claim()
    Commits(scripted, Writer(1)).claim()
    served = []

    def serve(key, data):
        served.append(key)
        return data[:-1] if len(served) == 1 else data

    scripted.script.serve = serve
    with pytest.raises(Fenced):
        older.commit(saved(local, "checkpoint_1", OLD))
    assert len(served) == 2


@pytest.mark.parametrize("begun", [False, True])
def test_nobody_passes_a_record_of_a_later_version(scripted, local, begun):
    commits = Commits(scripted)
    if begun:
        commits.claim()
    number = 1 + begun
    scripted.script.objects[f"commits/{number:08d}"] = checked({"format": 2, "else": "unknown"})
    with pytest.raises(StorageError, match="has format 2; this version of asynctune reads 1"):
        commits.commit(saved(local, "checkpoint_1", OLD))
    assert f"commits/{number + 1:08d}" not in scripted.script.objects


def checked(body):
    """A record that has the right checksum, whatever else it says."""
    text = json.dumps(body, sort_keys=True)
    return json.dumps(body | {"checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def hostile(**fields):
    body = {"format": 1, "writer": {"epoch": 0, "attempt": 0, "token": "t"}, "begins": False}
    return checked(body | {"name": "checkpoint_1", "save_id": "0" * 24, "manifest": ""} | fields)


@pytest.mark.parametrize(
    "record",
    [
        hostile(name="../checkpoint_1"),
        hostile(name="checkpoint_1/../../x"),
        hostile(name="/etc/passwd"),
        hostile(name="checkpoint_1\n"),
        hostile(name=""),
        hostile(name="checkpoint_x"),
        hostile(name=7),
        hostile(save_id="../" * 8),
        hostile(save_id=None),
        hostile(manifest={}),
        hostile(writer={"epoch": -1, "attempt": 0, "token": "t"}),
        hostile(writer={"epoch": True, "attempt": 0, "token": "t"}),
        hostile(writer={"epoch": 0, "attempt": 1e300, "token": "t"}),
        hostile(writer={"epoch": 0, "attempt": 0}),
        hostile(writer=[]),
    ],
)
def test_a_record_that_says_what_no_writer_says_is_refused(scripted, record):
    scripted.script.objects["commits/00000001"] = record
    for call in (
        lambda: Commits(scripted).find("checkpoint_1"),
        lambda: next(Commits(scripted).newest_first()),
    ):
        with pytest.raises((CheckpointCorrupt, UnsafePath)) as raised:
            call()
    if raised.type is UnsafePath:  # else it is one that is damaged
        with pytest.raises(UnsafePath):
            Commits(scripted).claim()


def with_manifest(scripted, text, files=()):
    """Commit what says this of itself."""
    for file in files:
        scripted.script.objects[f"checkpoint_1/{'0' * 24}/{file}"] = b"x"
    scripted.script.objects["commits/00000001"] = hostile(manifest=text)
    return Commits(scripted).find("checkpoint_1")


def manifest_of(*names, directories=()):
    """A manifest with the right checksum that names files of one byte."""
    entry = (1, hashlib.sha256(b"x").hexdigest())
    return Manifest("", False, STATE, dict.fromkeys(names, entry), directories).to_json().decode()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a/..", "", ".", "a//b", MANIFEST])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_manifest_that_names_something_outside_is_refused(scripted, tmp_path, name, kind):
    text = manifest_of(name) if kind == "file" else manifest_of(directories=(name,))
    commit = with_manifest(scripted, text)
    target = tmp_path / "x" / "y"
    with pytest.raises(UnsafePath):
        Commits(scripted).fetch(commit, target)
    assert written(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", "\ud800", manifest_of("a")[:-1]])
def test_a_manifest_that_is_none_is_damage(scripted, tmp_path, text):
    with pytest.raises(CheckpointCorrupt):
        Commits(scripted).fetch(with_manifest(scripted, text), tmp_path / "x")
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "directories"), [(("a", "a/b"), ()), (("a",), ("a",)), (("a",), ("a/b",))]
)
def test_a_manifest_whose_names_clash_is_damage(scripted, tmp_path, files, directories):
    commit = with_manifest(scripted, manifest_of(*files, directories=directories), files)
    with pytest.raises((CheckpointCorrupt, UnsafePath)):
        Commits(scripted).fetch(commit, tmp_path / "x")
    assert written(tmp_path) == []


WRONG = {
    "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"x",
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_comes_damaged_once_is_read_once_more(scripted, local, tmp_path, wrong):
    commit = Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    served = []

    def serve(key, data):
        if key.endswith("/a"):
            served.append(key)
            return wrong(data) if len(served) == 1 else data
        return data

    scripted.script.serve = serve
    root = Commits(scripted).fetch(commit, tmp_path / "x")
    assert contents_of(root) == OLD
    assert len(served) == 2
    assert os.listdir(tmp_path / "x") == ["checkpoint_1"]


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_comes_damaged_twice_is_refused_and_leaves_nothing(scripted, local, tmp_path, wrong):
    commit = Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    served = []

    def serve(key, data):
        if key.endswith("/sub/b"):
            served.append(key)
            return wrong(data)
        return data

    scripted.script.serve = serve
    target = tmp_path / "x"
    with pytest.raises(CheckpointCorrupt, match="checkpoint_1 in memory://bucket is damaged"):
        Commits(scripted).fetch(commit, target)
    assert len(served) == 2
    assert os.listdir(target) == []


def test_an_object_that_is_missing_is_damage(storage, local, tmp_path):
    commit = Commits(storage).commit(saved(local, "checkpoint_1", OLD))
    storage.delete([f"{commit.prefix}a"])
    with pytest.raises(CheckpointCorrupt, match="is damaged"):
        Commits(storage).fetch(commit, tmp_path / "x")
    assert os.listdir(tmp_path / "x") == []


def test_a_storage_that_fails_is_no_damage_and_leaves_nothing(scripted, local, tmp_path):
    commit = Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    scripted.script.fail("download")
    with pytest.raises(StorageError):
        Commits(scripted).fetch(commit, tmp_path / "x")
    assert os.listdir(tmp_path / "x") == []


def test_a_fetch_that_fails_leaves_the_damaged_copy_and_one_that_works_replaces_it(
    scripted, local, tmp_path
):
    commit = Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    root = Commits(scripted).fetch(commit, tmp_path / "x")
    (root / "a").write_bytes(b"damaged")
    scripted.script.serve = lambda key, data: b"wrong"
    with pytest.raises(CheckpointCorrupt):
        Commits(scripted).fetch(commit, tmp_path / "x")
    assert (root / "a").read_bytes() == b"damaged"
    scripted.script.behave()
    assert contents_of(Commits(scripted).fetch(commit, tmp_path / "x")) == OLD


def test_whoever_dies_while_fetching_leaves_no_checkpoint_or_a_whole_one(scripted, local, tmp_path):
    commit = Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    for number in itertools.count(1):
        target = tmp_path / f"{number}"
        scripted.script.die_at(number)
        try:
            Commits(scripted).fetch(commit, target)
        except Died:
            assert not (target / "checkpoint_1").exists()
        else:
            assert contents_of(target / "checkpoint_1") == OLD
            break
    assert number == 4


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_is_carried_and_never_opened(storage, local, tmp_path):
    sprung = tmp_path / "sprung"
    data = pickle.dumps(Trap(sprung))
    aside = ckpt.make_staging_dir(local, "checkpoint_1")
    (aside / "checkpoint").write_bytes(data)
    root = ckpt.commit(aside, "checkpoint", saved_as_dict=True, state=STATE, parent=local)
    Commits(storage).commit(root)
    assert read(storage, "checkpoint_1", tmp_path) == {"checkpoint": data}
    Commits(storage).delete("checkpoint_1")
    assert not sprung.exists()
    pickle.loads(data)
    assert sprung.exists()  # it would have been


# -- a hostile listing --------------------------------------------------------------------------

HOSTILE_KEYS = [
    "../x", "/etc/x", "commits/../x", "commits/abc", "commits/", "commits/1", "commits/0000000a",
    "commits/00000001/x", "commits/000000001", "commits//00000001", "commits/\u0661" * 8,
    "commits/0000000\u0661", "commits/00000001\n", "commits/0000\x001", "commits\\00000001", "",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_a_listing_with_a_name_that_no_record_has_is_refused(scripted, local, tmp_path, key):
    root = saved(local, "checkpoint_1", OLD)
    before = sorted(written(tmp_path))
    scripted.script.listed = lambda: [Entry(key, 10)]
    for call in (
        lambda: Commits(scripted).find("checkpoint_1"),
        lambda: list(Commits(scripted).newest_first()),
        lambda: Commits(scripted).claim(),
        lambda: Commits(scripted).commit(root),
        lambda: Commits(scripted).delete("checkpoint_1"),
    ):
        with pytest.raises(UnsafePath, match="Remove the object"):
            call()
    assert scripted.script.objects == {}
    assert sorted(written(tmp_path)) == before


@pytest.mark.parametrize("key", ["checkpoint_1/../../x", "/etc/x", "checkpoint_1//x"])
def test_a_listing_of_files_with_names_that_no_save_has_deletes_nothing_else(scripted, local, key):
    Commits(scripted).commit(saved(local, "checkpoint_1", OLD))
    scripted.script.objects["x"] = b"somebody else's"
    real = scripted.list

    def listed(prefix, after=""):
        if prefix != "commits/":
            yield Entry(key, 1)
        yield from real(prefix, after)

    scripted.list = listed
    with pytest.raises(UnsafePath):
        Commits(scripted).delete("checkpoint_1")
    assert "x" in scripted.script.objects


class Many(ScriptedStorage):
    """Somebody has put 100,000 objects there: records of zero bytes, or files with long names."""

    def list(self, prefix, after=""):
        if prefix == "commits/":
            yield from (Entry(f"commits/{number:08d}", 0) for number in range(1, self.records + 1))
        else:
            tail = "/".join(["x" * 200] * 4)
            yield from (Entry(f"{prefix}{number:06d}/{tail}", 0) for number in range(100_000))

    records = 100_000

    def read(self, key, limit):
        self.script.calls.append(key)
        return b""

    def delete(self, keys):
        self.script.calls.extend("delete" for _ in keys)


CALLS = {
    "claim": lambda commits: commits.claim(),
    "newest": lambda commits: next(commits.newest_first()),
    "find": lambda commits: commits.find("checkpoint_1"),
    "delete": lambda commits: commits.delete("checkpoint_1"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_100000_records_without_a_byte_are_refused_when_few_are_read(call):
    storage = Many()
    with pytest.raises(CheckpointCorrupt):
        call(Commits(storage))
    assert len(storage.script.calls) <= 150  # 64 records, each of them twice


def peak_of(function):
    """Return how many bytes a call held at its highest."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_who_has_committed_much_does_not_hold_what_it_was(tmp_path, local):
    commits = Commits(LocalStorage(tmp_path / "remote"))
    root = saved(
        local, "checkpoint_1", {f"shard-{number:05d}-of-00100": b"" for number in range(100)}
    )
    commits.commit(root)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2, 12):
            commits.commit(root, f"checkpoint_{number}")
            assert commits.find(f"checkpoint_{number}").manifest
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 10 * (root / MANIFEST).stat().st_size / 2


def test_what_was_found_is_read_again_and_found_elsewhere_if_it_is_damaged_now(scripted, local):
    commits = Commits(scripted)
    first = commits.commit(saved(local / "a", "checkpoint_1", OLD))
    again = commits.commit(saved(local / "b", "checkpoint_1", NEW))
    damaged_at(scripted, again.number, lambda data: b"")
    assert commits.find("checkpoint_1") == first


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_100000_records_do_not_fill_the_memory(call):
    def refused():
        with pytest.raises(CheckpointCorrupt):
            call(Commits(Many()))

    assert peak_of(refused) < 20 << 20


@pytest.mark.slow
def test_100000_files_below_a_name_are_deleted_without_filling_the_memory():
    storage = Many()
    storage.records = 0
    assert peak_of(lambda: Commits(storage).delete("checkpoint_1")) < 20 << 20
    assert storage.script.calls.count("delete") == 100_000


def test_a_record_that_is_far_too_long_is_not_read(tmp_path):
    storage = LocalStorage(tmp_path / "remote")
    storage.create("commits/00000001", b"x")
    with (tmp_path / "remote" / "commits" / "00000001").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match="more than the limit of"):
        Commits(storage).find("checkpoint_1")


def test_a_record_comes_back_as_it_was():
    writer = Writer(3, 4, "token")
    for commit in (
        Commit(7, writer, begins=True),
        Commit(8, writer),
        Commit(9, writer, False, "checkpoint_5.1", "0" * 24, "the manifest"),
    ):
        assert Commit.from_json(commit.to_json(), commit.number, "here") == commit
