"""Segments: a journal in a storage is that of the disk, and one driver at a time writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest

from asynctune.errors import (
    ExperimentCorrupt,
    ExperimentLocked,
    StorageError,
    TuneError,
    UnsafePath,
)
from asynctune.experiment import events as ev
from asynctune.experiment.reader import FORMAT, JournalReader, record
from asynctune.experiment.remote import journal as segments_module
from asynctune.experiment.remote.journal import RemoteJournal, Segment, read_new
from asynctune.storage import Entry
from scripted_storage import ScriptedStorage

STARTED = ev.RunStarted(FORMAT, "name", "train", None, None, 7, 1, 0.0, 1, "host", "0.1.0")
HEAD = record(ev.encode(STARTED))


def rows(first, count):
    """Whole records of a journal."""
    events = [
        ev.Reported("t", 0, n, {"n": n, "text": "x" * n}) for n in range(first, first + count)
    ]
    return b"".join(record(ev.encode(event)) for event in events)


ROWS = rows(0, 5)
MORE = rows(5, 3)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal"


def driver(storage, *parts, epoch=0):
    """A driver that has written this."""
    segments = RemoteJournal(storage)
    with tempfile.TemporaryDirectory() as elsewhere:
        segments.download(Path(elsewhere, "journal"))
    segments.begin(epoch)
    for part in parts:
        segments.append(part)
    return segments


def numbers(storage):
    return [int(entry.key.removeprefix("journal/")) for entry in storage.list("journal/")]


def pulled(storage, path):
    path.unlink(missing_ok=True)
    assert RemoteJournal(storage).download(path)
    return path.read_bytes()


# -- there and back -----------------------------------------------------------------------------


def test_a_pull_into_an_empty_place_gives_the_same_bytes(storage, journal):
    segments = driver(storage, HEAD, ROWS, MORE)
    whole = HEAD + ROWS + MORE
    assert segments.end == len(whole)
    assert numbers(storage) == [1, 2, 3, 4]
    again = RemoteJournal(storage)
    assert again.download(journal)
    assert journal.read_bytes() == whole
    assert again.end == len(whole)
    assert os.listdir(journal.parent).count("journal.pulled") == 0
    assert [event.kind for _, event in JournalReader(journal).events()] == (
        ["run_started"] + ["reported"] * 8
    )


def test_driver_after_driver_goes_on_where_the_one_before_ended(storage, journal, tmp_path):
    driver(storage, HEAD, ROWS)
    second = RemoteJournal(storage)
    second.download(journal)
    second.begin(1)
    second.append(MORE)
    assert pulled(storage, tmp_path / "third") == HEAD + ROWS + MORE


def test_where_nothing_is_nothing_is_pulled(storage, journal):
    assert not RemoteJournal(storage).exists()
    assert not RemoteJournal(storage).download(journal)
    assert not journal.exists()
    driver(storage)  # which died before it wrote a byte
    assert not RemoteJournal(storage).exists()
    assert RemoteJournal(storage).seed() is None
    again = RemoteJournal(storage)
    assert not again.download(journal)
    again.begin(0)
    again.append(HEAD)
    assert RemoteJournal(storage).exists()
    assert pulled(storage, journal) == HEAD


def test_the_seed_is_that_of_the_first_record(storage):
    assert RemoteJournal(storage).seed() is None
    driver(storage, HEAD, ROWS)
    assert RemoteJournal(storage).seed() == 7


@pytest.mark.parametrize("data", [ROWS, HEAD[:-1], b"x"], ids=["rows", "cut", "nonsense"])
def test_what_begins_like_no_journal_has_no_seed(scripted, data):
    driver(scripted, data)
    assert RemoteJournal(scripted).seed() is None


def test_a_local_journal_that_is_the_same_stays(storage, journal):
    driver(storage, HEAD, ROWS)
    journal.write_bytes(HEAD + ROWS)
    before = journal.stat().st_ino
    assert not RemoteJournal(storage).download(journal)
    assert journal.stat().st_ino == before


@pytest.mark.parametrize(
    "tail", [MORE, MORE + b"0000", b"0000"], ids=["more", "more, torn", "torn"]
)
def test_a_local_journal_that_knows_more_stays_and_the_rest_follows(
    storage, journal, tmp_path, tail
):
    driver(storage, HEAD, ROWS)
    journal.write_bytes(HEAD + ROWS + tail)
    segments = RemoteJournal(storage)
    assert not segments.download(journal)
    assert journal.read_bytes() == HEAD + ROWS + tail
    assert segments.end == len(HEAD + ROWS)
    segments.begin(1)
    segments.append(MORE)
    assert pulled(storage, tmp_path / "x") == HEAD + ROWS + MORE


@pytest.mark.parametrize("have", [b"", HEAD, HEAD + ROWS[: len(ROWS) // 2]])
@pytest.mark.parametrize("torn", [b"", b"0000", b"\0" * 5000])
def test_a_local_journal_that_knows_less_becomes_the_remote_one(storage, journal, have, torn):
    driver(storage, HEAD, ROWS)
    journal.write_bytes(have + torn)
    assert RemoteJournal(storage).download(journal)
    assert journal.read_bytes() == HEAD + ROWS


@pytest.mark.parametrize(
    "local",
    [
        HEAD + rows(3, 1),
        HEAD + rows(9, 20),
        record(ev.encode(dataclasses.replace(STARTED, seed=8))),
    ],
    ids=["shorter", "longer", "another experiment"],
)
def test_two_continuations_of_one_experiment_are_told_of_and_both_stay(storage, journal, local):
    driver(storage, HEAD, ROWS)
    journal.write_bytes(local)
    with pytest.raises(ExperimentCorrupt, match="two continuations"):
        RemoteJournal(storage).download(journal)
    assert journal.read_bytes() == local
    assert sorted(os.listdir(journal.parent)) in (
        ["journal"],
        ["journal", "remote"],
        ["journal", "results"],
    )
    assert pulled(storage, journal) == HEAD + ROWS


def test_a_damaged_local_journal_is_not_taken_for_a_torn_one(storage, journal):
    driver(storage, HEAD, ROWS)
    broken = bytearray(HEAD + ROWS)
    broken[len(HEAD) + 30] ^= 1
    journal.write_bytes(broken)
    with pytest.raises(ExperimentCorrupt, match="damaged at byte"):
        RemoteJournal(storage).download(journal)
    assert journal.read_bytes() == broken


def test_a_long_journal_goes_in_several_segments_that_end_with_a_record(
    scripted, journal, monkeypatch
):
    monkeypatch.setattr(segments_module, "_MAX_DATA_BYTES", 500)
    whole = HEAD + rows(0, 100)
    journal.write_bytes(whole)
    segments = driver(scripted)
    while segments.end < len(whole):
        segments.append(read_new(journal, segments.end, len(whole)))
    bodies = [data.partition(b"\n")[2] for data in scripted.script.objects.values()]
    assert len(bodies) > 10
    assert all(body.endswith(b"\n") for body in bodies[1:])
    assert max(map(len, bodies)) <= 500
    assert pulled(scripted, journal) == whole


def test_a_record_that_is_longer_than_a_segment_goes_whole(journal, monkeypatch):
    monkeypatch.setattr(segments_module, "_MAX_DATA_BYTES", 50)
    journal.write_bytes(HEAD + ROWS)
    assert read_new(journal, 0, len(HEAD + ROWS)) == HEAD
    assert read_new(journal, len(HEAD), len(HEAD + ROWS)) == rows(0, 1)


def test_no_more_of_a_journal_is_read_than_is_wanted(journal):
    journal.write_bytes(HEAD + ROWS + MORE)
    assert read_new(journal, len(HEAD), len(HEAD + ROWS)) == ROWS


# -- one driver ---------------------------------------------------------------------------------


def test_the_driver_that_was_there_before_is_told_who_has_taken_over(storage):
    first = driver(storage, HEAD, ROWS)
    driver(storage, epoch=1)
    with pytest.raises(ExperimentLocked, match="took it over with segment 4") as raised:
        first.append(MORE)
    assert raised.value.pid == os.getpid()
    assert raised.value.host == socket.gethostname()
    with pytest.raises(ExperimentLocked):
        first.append(MORE)


def test_the_pid_and_host_are_those_of_the_other(scripted):
    first = driver(scripted, HEAD)
    other = Segment(
        3, 1, "other", "far", 4711, len(HEAD), len(HEAD), hashlib.sha256(HEAD).hexdigest()
    )
    scripted.script.objects["journal/00000003"] = other.to_bytes(b"")
    with pytest.raises(ExperimentLocked, match="process 4711 on far") as raised:
        first.append(ROWS)
    assert (raised.value.pid, raised.value.host) == (4711, "far")


def test_who_begins_behind_a_row_that_it_has_not_seen_is_refused(storage, journal):
    first = driver(storage, HEAD)
    second = RemoteJournal(storage)
    second.download(journal)
    first.append(ROWS)
    with pytest.raises(ExperimentLocked):
        second.begin(1)
    first.append(MORE)
    assert pulled(storage, journal) == HEAD + ROWS + MORE


def test_of_two_that_begin_at_once_one_begins(storage, tmp_path):
    driver(storage, HEAD, ROWS)
    both = threading.Barrier(2)
    drivers = [RemoteJournal(storage) for _ in range(2)]
    told = []

    def begin(number):
        drivers[number].download(tmp_path / f"journal-{number}")
        both.wait()
        try:
            drivers[number].begin(1)
        except ExperimentLocked as exc:
            told.append(exc)
        else:
            drivers[number].append(MORE)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert pulled(storage, tmp_path / "x") == HEAD + ROWS + MORE


def test_of_two_that_begin_a_new_experiment_at_once_one_begins(storage, journal):
    drivers = [RemoteJournal(storage) for _ in range(2)]
    for segments in drivers:
        assert not segments.download(journal)
    drivers[1].begin(0)
    with pytest.raises(ExperimentLocked):
        drivers[0].begin(0)
    drivers[1].append(HEAD)


# -- an answer is lost --------------------------------------------------------------------------


def test_an_append_that_happened_and_was_reported_as_failed_is_known_again(scripted, journal):
    segments = driver(scripted, HEAD)
    scripted.script.fail("create", effect=True)
    with pytest.raises(StorageError):
        segments.append(ROWS)
    assert segments.end == len(HEAD)
    segments.append(ROWS)
    segments.append(MORE)
    assert numbers(scripted) == [1, 2, 3, 4]
    assert pulled(scripted, journal) == HEAD + ROWS + MORE


def test_it_is_known_again_also_when_the_journal_has_grown_meanwhile(scripted, journal):
    segments = driver(scripted, HEAD)
    scripted.script.fail("create", effect=True)
    with pytest.raises(StorageError):
        segments.append(ROWS)
    segments.append(ROWS + MORE)
    assert segments.end == len(HEAD + ROWS + MORE)
    assert pulled(scripted, journal) == HEAD + ROWS + MORE
    segments.append(rows(8, 2))
    assert pulled(scripted, journal) == HEAD + ROWS + MORE + rows(8, 2)


def test_a_create_that_is_told_of_itself_is_known_again(scripted, journal):
    class Deaf(ScriptedStorage):
        def create(self, key, data):
            return super().create(key, data) and super().create(key, data)

    deaf = Deaf(scripted.script)
    driver(deaf, HEAD, ROWS, MORE)
    assert pulled(deaf, journal) == HEAD + ROWS + MORE
    assert numbers(deaf) == [1, 2, 3, 4]


def test_an_append_that_failed_is_made_again(scripted, journal):
    segments = driver(scripted, HEAD)
    scripted.script.fail("create", times=3)
    for _ in range(3):
        with pytest.raises(StorageError):
            segments.append(ROWS)
    segments.append(ROWS)
    assert pulled(scripted, journal) == HEAD + ROWS


def test_a_beginning_whose_answer_was_lost_can_be_made_again(scripted, journal):
    segments = RemoteJournal(scripted)
    segments.download(journal)
    scripted.script.fail("create", effect=True)
    with pytest.raises(StorageError):
        segments.begin(0)
    segments.begin(0)
    segments.append(HEAD)
    assert pulled(scripted, journal) == HEAD


def test_a_driver_whose_answer_was_lost_and_that_was_overtaken_then_is_told(scripted, journal):
    segments = driver(scripted, HEAD)
    scripted.script.fail("create", effect=True)
    with pytest.raises(StorageError):
        segments.append(ROWS)
    driver(scripted, epoch=1)
    with pytest.raises(ExperimentLocked):
        segments.append(ROWS + MORE)
    assert pulled(scripted, journal) == HEAD + ROWS


# -- damage -------------------------------------------------------------------------------------


def change(**fields):
    def damage(blob):
        segment, data = Segment.from_bytes(blob, 3, "here")
        return dataclasses.replace(segment, **fields).to_bytes(data)

    return damage


DAMAGES = {
    "empty": lambda blob: b"",
    "cut": lambda blob: blob[:-1],
    "flipped": lambda blob: blob[:-5] + b"\0" + blob[-4:],
    "no JSON": lambda blob: b"\xff" + blob,
    "a list": lambda blob: b"[]\n",
    "deep": lambda blob: b"[" * 100_000,
    "another format": lambda blob: blob.replace(b'"format": 1', b'"format": 2'),
    "another field": lambda blob: blob.replace(b'"format": 1', b'"format": 1, "x": 1'),
    "a number": lambda blob: blob.replace(b'"format": 1', b'"format": 1, "number": 1'),
    "no digest": lambda blob: blob.replace(b'"digest"', b'"digist"'),
    "wrong digest": change(digest="0" * 64),
    "digest of another type": change(digest=7),
    "another start": change(start=0),
    "a negative start": change(start=-1),
    "a pid that is none": change(pid=True),
    "a float": change(end=1e300),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_segment_is_told_of_and_nothing_is_written(scripted, journal, damage):
    driver(scripted, HEAD, ROWS, MORE)
    key = "journal/00000003"
    scripted.script.objects[key] = damage(scripted.script.objects[key])
    journal.write_bytes(HEAD)
    with pytest.raises(ExperimentCorrupt, match=key):
        RemoteJournal(scripted).download(journal)
    assert journal.read_bytes() == HEAD
    assert not journal.with_name("journal.pulled").exists()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_last_segment_is_told_of(scripted, journal, damage):
    driver(scripted, HEAD, ROWS)
    key = "journal/00000003"
    scripted.script.objects[key] = damage(scripted.script.objects[key])
    with pytest.raises(ExperimentCorrupt, match=key):
        RemoteJournal(scripted).download(journal)
    assert not journal.exists()


@pytest.mark.parametrize("missing", [2, 3, 4])
def test_a_segment_that_is_missing_in_the_middle_is_told_of(storage, journal, missing):
    driver(storage, HEAD, ROWS, MORE, rows(8, 1))
    storage.delete([f"journal/{missing:08d}"])
    with pytest.raises(ExperimentCorrupt, match="begins at byte"):
        RemoteJournal(storage).download(journal)
    assert not journal.exists()


def test_a_segment_of_another_experiment_is_told_of(scripted, journal):
    driver(scripted, HEAD, ROWS, MORE)
    other = ScriptedStorage()
    driver(other, HEAD, rows(1, 1) + b"x" * (len(ROWS) - len(rows(1, 1))))
    scripted.script.objects["journal/00000003"] = other.script.objects["journal/00000003"]
    with pytest.raises(ExperimentCorrupt, match=r"journal/00000004.*sha256"):
        RemoteJournal(scripted).download(journal)


def test_a_segment_that_vanishes_while_it_is_pulled_is_told_of(scripted, journal):
    driver(scripted, HEAD, ROWS, MORE)

    def before(call):
        if call == "read journal/00000002":
            scripted.script.objects.pop("journal/00000002", None)

    scripted.script.before = before
    with pytest.raises(TuneError):
        RemoteJournal(scripted).download(journal)
    assert not journal.exists()


def test_a_listing_that_forgets_the_end_is_told_of(scripted, journal):
    driver(scripted, HEAD, ROWS, MORE)
    lists = []

    def before(call):
        if call.startswith("list"):
            lists.append(call)
            if len(lists) == 2:
                del scripted.script.objects["journal/00000004"]

    scripted.script.before = before
    with pytest.raises(ExperimentCorrupt):
        RemoteJournal(scripted).download(journal)
    assert not journal.exists()


def test_a_pull_that_fails_leaves_the_local_journal(scripted, journal):
    driver(scripted, HEAD, ROWS)
    journal.write_bytes(HEAD)
    scripted.script.fail("read journal/00000002")
    with pytest.raises(StorageError, match="read journal"):
        RemoteJournal(scripted).download(journal)
    assert journal.read_bytes() == HEAD
    assert not journal.with_name("journal.pulled").exists()


def test_what_an_earlier_pull_left_is_no_hindrance(scripted, journal):
    driver(scripted, HEAD, ROWS)
    aside = journal.with_name("journal.pulled")
    aside.symlink_to(journal.with_name("elsewhere"))
    assert pulled(scripted, journal) == HEAD + ROWS
    assert not journal.is_symlink()
    assert not journal.with_name("elsewhere").exists()


# -- a hostile listing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "../x", "/etc/x", "journal/../x", "journal/abc", "journal/", "journal/1", "journal/00000001/x",
        "journal/000000001", "journal/0000000\u0661", "journal/00000001\n", "journal\\00000001", "",
    ],
)  # fmt: skip
def test_a_listing_with_a_name_that_no_segment_has_is_refused(scripted, journal, key):
    driver(scripted, HEAD)
    scripted.script.listed = lambda: [Entry(key, 10)]
    for call in (
        lambda: RemoteJournal(scripted).download(journal),
        lambda: RemoteJournal(scripted).exists(),
        lambda: RemoteJournal(scripted).seed(),
    ):
        with pytest.raises(UnsafePath, match="Remove the object"):
            call()
    assert not journal.exists()
    assert sorted(journal.parent.iterdir()) == []


class Many(ScriptedStorage):
    """Somebody has put 100,000 segments of zero bytes there."""

    def list(self, prefix, after=""):
        yield from (Entry(f"journal/{number:08d}", 0) for number in range(1, 100_001))

    def read(self, key, limit):
        self.script.calls.append(key)
        return b""


@pytest.mark.parametrize(
    "call",
    [
        lambda segments, journal: segments.download(journal),
        lambda segments, journal: segments.exists(),
        lambda segments, journal: segments.seed(),
    ],
    ids=["pull", "exists", "seed"],
)
def test_100000_segments_without_a_byte_are_refused_when_few_are_read(journal, call):
    storage = Many()
    with pytest.raises(ExperimentCorrupt):
        call(RemoteJournal(storage), journal)
    assert len(storage.script.calls) < 20
    assert not journal.exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", [RemoteJournal.exists, RemoteJournal.seed])
def test_100000_segments_do_not_fill_the_memory(call):
    tracemalloc.start()
    try:
        with pytest.raises(ExperimentCorrupt):
            call(RemoteJournal(Many()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_a_driver_that_died_before_its_journal_came_counts_as_one(storage, tmp_path):
    first = RemoteJournal(storage)
    first.download(tmp_path / "a")
    assert first.begin(0) == 0
    (tmp_path / "a").write_bytes(b"")
    second = RemoteJournal(storage)
    second.download(tmp_path / "b")
    assert second.begin(0) == 1, "its journal knows of none before"
    third = RemoteJournal(storage)
    third.download(tmp_path / "c")
    assert third.begin(7) == 7
