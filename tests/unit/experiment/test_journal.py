"""The journal: checked records, torn tails, damage, readers that come whenever they like."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import threading
import time
import zlib
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asynctune.errors import ExperimentCorrupt, StorageError, StorageFull
from asynctune.experiment import events as ev
from asynctune.experiment import reader as stored_module
from asynctune.experiment.journal import Journal
from asynctune.experiment.reader import FORMAT, JournalReader, record
from asynctune.storage.filesystem import FileSystem
from harness.faults import Crash, FaultyFileSystem

STARTED = ev.RunStarted(FORMAT, "name", "train", None, None, 7, 1, 0.0, 1, "host", "0.1.0")


def reported(sequence, **row):
    return ev.Reported("t_00000", 0, sequence, row)


def journal_of(path, *events):
    journal = Journal(path)
    journal.open()
    places = [journal.append(event) for event in events]
    journal.close()
    return places


ALL_KINDS = [
    STARTED,
    ev.TrialAdded("t", 0, "n", "x=1", {"x": 1}, {"x": {"grid": 0}}, {"cpu": 1}, 1.0),
    ev.TrialAdded("t", 0, "n", "by hand", {"x": 1}, None, {"cpu": 1}, 1.0),
    ev.TrialStarted("t", 0, None, 2.0),
    reported(0, loss=1.5, nested={"a": [1, None]}, text="\u2028\ud800"),
    ev.Checkpointed("t", 0, 0, "/p/checkpoint_1", 1),
    ev.CheckpointDropped("t", "/p/checkpoint_1"),
    ev.TrialFailed("t", 0, "boom", "ValueError", "trace\nback", -1, 3.0),
    ev.TrialEnded("t", "ERROR", "failed", {"model": "/p"}, "note", 4.0),
    ev.RunEnded("failed", "ValueError: boom", 5.0),
]


@pytest.mark.parametrize("event", ALL_KINDS, ids=lambda event: event.kind)
def test_every_event_comes_back_as_it_was(event):
    assert ev.decode(ev.encode(event)) == event


def test_a_row_that_is_already_encoded_is_written_as_it_is():
    event = reported(3, loss=math.inf)
    row = b'{"loss":Infinity}'
    assert ev.decode(ev.encode(event, row)) == event
    assert row in ev.encode(event, row)


@pytest.mark.parametrize(
    "mark", ["", ',"skippable":false', ',"skippable":1', ',"skippable":"true"']
)
@pytest.mark.parametrize("kind", ['"of_the_future"', '""', "1", "null", "[]", "{}"])
def test_an_unknown_kind_is_refused_unless_its_record_may_be_skipped(kind, mark):
    assert ev.decode(b'{"kind":%b,"skippable":true}' % kind.encode()) is None
    with pytest.raises(ev.UnknownKindError, match="unknown, and the record is not marked"):
        ev.decode(f'{{"kind":{kind},"x":1{mark}}}'.encode())


def test_a_record_that_lacks_a_field_is_refused():
    for wrong in (b"[]", b'{"kind":"reported"}', b"nonsense"):
        with pytest.raises(ValueError, match=r"record|Expecting"):
            ev.decode(wrong)


def test_a_journal_is_lines_of_length_checksum_and_json(tmp_path):
    path = tmp_path / "journal"
    journal_of(path, STARTED, reported(0, loss=1))
    for line in path.read_bytes().splitlines(keepends=True):
        payload = line[18:-1]
        assert line[:18] == b"%08x %08x " % (len(payload), zlib.crc32(payload))
        assert json.loads(payload)["kind"]


def test_it_is_read_back_with_places_at_which_rows_are_found(tmp_path):
    path = tmp_path / "journal"
    rows = [{"n": 1}, {"text": "x" * 10_000}, {"n": 3}]
    places = journal_of(path, STARTED, *(reported(i, **row) for i, row in enumerate(rows)))
    stored = JournalReader(path)
    assert [place for place, _ in stored.events()] == places
    assert stored.read_rows(places[1:]) == rows
    assert stored.read_rows([places[3], places[1]]) == [rows[2], rows[0]]
    assert stored.read_rows([]) == []


def test_a_tail_torn_at_any_byte_costs_the_last_record_only(tmp_path):
    path = tmp_path / "journal"
    *_, last = journal_of(path, STARTED, reported(0, loss=1), reported(1, loss=2))
    data = path.read_bytes()
    for size in range(last, len(data)):
        path.write_bytes(data[:size])
        assert [type(event) for _, event in JournalReader(path).events()] == [
            ev.RunStarted,
            ev.Reported,
        ]
    path.write_bytes(data)
    assert len(list(JournalReader(path).events())) == 3


def test_damage_before_the_last_record_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "journal"
    places = journal_of(path, STARTED, reported(0, loss=1), reported(1, loss=2))
    data = bytearray(path.read_bytes())
    for offset in range(places[1], places[2] - 1):
        damaged = data.copy()
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ExperimentCorrupt, match=f"at byte {places[1]}"):
            list(JournalReader(path).events())


NEWER = [
    ev.encode(ev.RunStarted(FORMAT + 1, "n", "t", None, None, 1, 1, 0.0, 1, "h", "9.9")),
    b'{"kind":"run_started","format":%d,"version":"9.9","renamed":1}' % (FORMAT + 1),
]


@pytest.mark.parametrize("newer", NEWER, ids=["with our fields", "with other fields"])
@pytest.mark.parametrize("before", [[], [STARTED, reported(0, loss=1)]], ids=["first", "later"])
def test_a_newer_version_that_began_it_or_went_on_with_it_is_refused_by_name(
    before, newer, tmp_path
):
    path = tmp_path / "journal"
    journal_of(path, *before)
    with path.open("ab") as file:
        file.write(record(newer) + record(b'{"kind":"of_the_future"}'))
    with pytest.raises(ExperimentCorrupt, match=rf"format {FORMAT + 1}.*9\.9.*upgrade") as caught:
        list(JournalReader(path).events())
    assert caught.value.offset is None, "so that repair does not cut it off"


def test_a_record_of_a_newer_version_is_refused_by_name_where_it_may_not_be_skipped(tmp_path):
    path = tmp_path / "journal"
    end = journal_of(path, STARTED, reported(0, loss=1))[-1]
    with path.open("ab") as file:
        file.write(record(b'{"kind":"looked_at","skippable":true}'))
    assert len(list(JournalReader(path).events())) == 2
    with path.open("ab") as file:
        file.write(record(b'{"kind":"of_the_future"}'))
    message = "kind 'of_the_future' at byte .* newer version .* upgrade asynctune"
    with pytest.raises(ExperimentCorrupt, match=message) as caught:
        list(JournalReader(path).events())
    assert caught.value.offset is None, "so that repair does not cut it off"
    assert end < path.stat().st_size


def test_what_is_no_journal_is_refused(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(record(ev.encode(reported(0))))
    with pytest.raises(ExperimentCorrupt, match="does not begin like"):
        list(JournalReader(path).events())


@pytest.mark.parametrize("goes_on", [True, False], ids=["it goes on", "it is damaged"])
def test_a_record_that_was_half_written_when_it_was_read_is_read_again_before_it_is_called_damaged(
    goes_on, tmp_path, monkeypatch
):
    path = tmp_path / "journal"
    places = journal_of(path, STARTED, *(reported(n, loss=n) for n in range(4)))
    data = path.read_bytes()
    cut = places[2] + 30
    path.write_bytes(data[:cut])
    payload = stored_module._payload

    def while_the_writer_goes_on(line):
        found = payload(line)
        if found is None and path.stat().st_size == cut:
            with path.open("ab") as file:
                file.write(data[cut:] if goes_on else b"x" + data[cut + 1 :])
        return found

    monkeypatch.setattr(stored_module, "_payload", while_the_writer_goes_on)
    stored = JournalReader(path)
    if goes_on:
        assert [place for place, _ in stored.events()] == places
        assert (stored.end, stored.count) == (len(data), len(places))
    else:
        with pytest.raises(ExperimentCorrupt, match=f"damaged at byte {places[2]}"):
            list(stored.events())


def moved(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


def replaced(path):
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


@pytest.mark.asyncio
@pytest.mark.parametrize("goes", [Path.unlink, moved, replaced])
async def test_a_journal_that_is_not_where_it_was_is_a_storage_error_at_the_next_sync(
    goes, tmp_path
):
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment" / "journal"
    journal = Journal(path)
    await anyio.to_thread.run_sync(journal.open)
    with pytest.RaisesGroup(pytest.RaisesExc(StorageError, match="removed, moved or replaced")):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.sync_in_groups)
            journal.append(STARTED)
            await journal.synced()
            goes(path)
            journal.append(reported(0))
            with anyio.CancelScope(shield=True), pytest.raises(StorageError, match=str(path)):
                await journal.synced()
            with pytest.raises(StorageError, match=str(path)):
                journal.append(reported(1))
    journal.close()


@pytest.mark.asyncio
async def test_it_waits_for_no_thread_of_the_users(tmp_path):
    journal = Journal(tmp_path / "journal")
    await anyio.to_thread.run_sync(journal.open)
    shared = anyio.to_thread.current_default_thread_limiter()
    busy = [object() for _ in range(int(shared.total_tokens))]
    for user in busy:
        await shared.acquire_on_behalf_of(user)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.sync_in_groups)
            for sequence in range(2000):  # more than is kept in memory
                journal.append(reported(sequence))
            await journal.synced()
            journal.end()
        assert len([event async for event in journal.follow()]) == 2000
    for user in busy:
        shared.release_on_behalf_of(user)
    journal.close()


def test_a_write_that_takes_only_a_part_is_gone_on_with_and_a_crash_in_it_costs_that_record(
    tmp_path,
):
    events = [STARTED, *(reported(n, loss=n) for n in range(3))]
    for call in itertools.count(1):
        path, written = tmp_path / f"at-{call}" / "journal", []
        path.parent.mkdir()
        files = FaultyFileSystem(longest_write=50, crash_at=call)
        journal = Journal(path, files=files)
        with contextlib.suppress(Crash):
            journal.open()
            for event in events:
                journal.append(event)
                written.append(event)
        journal.close()
        found = [event for _, event in JournalReader(path).events()] if path.exists() else []
        assert found == written
        if not files.fired:
            break
    assert written == events
    assert call > 3 * len(events)


def test_a_disk_that_fills_up_in_the_middle_of_a_record_leaves_a_torn_one(tmp_path):
    path = tmp_path / "journal"
    journal_of(path, STARTED)
    size = path.stat().st_size
    stored = JournalReader(path)
    list(stored.events())
    journal = Journal(path, files=FaultyFileSystem(fail_at=5, error=errno.ENOSPC, longest_write=20))
    assert journal.reopen(stored) == 0
    with pytest.raises(StorageFull, match=r"cannot be written.*make room"):
        journal.append(reported(0, loss=1))
    journal.close()
    assert path.stat().st_size == size + 20
    assert [event for _, event in stored.events()] == [STARTED]


@pytest.mark.asyncio
async def test_followers_see_everything_whenever_they_come_and_wait_for_more(tmp_path):
    journal = Journal(tmp_path / "journal")
    await anyio.to_thread.run_sync(journal.open)
    count = 3000  # more than is kept in memory
    seen: list[list[int]] = [[], []]

    async def follow(into):
        async for event in journal.follow():
            into.append(event.sequence)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, seen[0])
        for sequence in range(count):
            journal.append(reported(sequence, x="y" * (300_000 if sequence == 5 else 1)))
            if sequence == count // 2:
                await anyio.lowlevel.checkpoint()
        tasks.start_soon(follow, seen[1])
        journal.end()
    journal.close()
    assert seen[0] == seen[1] == list(range(count))
    assert [event.sequence async for event in journal.follow()] == list(range(count))


@pytest.mark.asyncio
async def test_synced_returns_only_after_fdatasync_and_what_it_raised_ends_everything(tmp_path):
    calls = []

    class Syncs(FileSystem):
        def datasync(self, descriptor):
            if len(calls) == 3:
                raise OSError(5, "planted")
            calls.append(descriptor)

    journal = Journal(tmp_path / "journal", files=Syncs())
    await anyio.to_thread.run_sync(journal.open)
    calls.clear()
    with pytest.RaisesGroup(pytest.RaisesExc(StorageError, match="planted")):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.sync_in_groups)
            for sequence in range(3):
                journal.append(reported(sequence))
                await journal.synced()
                assert len(calls) == sequence + 1

            journal.append(reported(4))
            with anyio.CancelScope(shield=True), pytest.raises(StorageError, match="planted"):
                await journal.synced()
            with pytest.raises(StorageError, match="planted"):
                journal.append(reported(5))
            assert len(calls) == 3, "what failed once is not asked again: the kernel may lie then"
    journal.close()


@pytest.mark.asyncio
@pytest.mark.timing
async def test_what_is_written_is_synced_a_tenth_of_a_second_later_at_most(tmp_path):
    moments = []

    class Noted(FileSystem):
        def datasync(self, descriptor):
            moments.append(time.monotonic())
            super().datasync(descriptor)

    journal = Journal(tmp_path / "journal", files=Noted())
    await anyio.to_thread.run_sync(journal.open)
    late, control = [], []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.sync_in_groups)
        for sequence in range(5):
            moments.clear()
            written = time.monotonic()
            journal.append(reported(sequence))
            await anyio.sleep(0.1)
            control.append(time.monotonic() - written)
            await journal.synced()
            late.append(moments[0] - written)
        journal.end()
    journal.close()
    assert max(late) <= max(control) + 0.05, (late, control)


@pytest.mark.asyncio
async def test_with_durable_readers_nobody_sees_an_event_before_it_is_synced(tmp_path):
    gate, seen = threading.Event(), []

    class Gated(FileSystem):
        def datasync(self, descriptor):
            assert gate.wait(30)

    journal = Journal(tmp_path / "journal", durable=True, files=Gated())
    await anyio.to_thread.run_sync(journal.open)
    reader = journal.follow()

    async def read():
        async for event in reader:
            seen.append(event.sequence)
            read_one.set()

    read_one = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.sync_in_groups)
        tasks.start_soon(read)
        journal.append(reported(0))
        for _ in range(50):  # turns of the loop, in which a reader would have had it
            await anyio.lowlevel.checkpoint()
        assert seen == []
        gate.set()
        await read_one.wait()
        assert seen == [0]
        journal.end()
    journal.close()
