"""Torn ends are cut off, damage is refused with its place, and repair keeps what is good."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import CONTROL, rows_of, undisturbed

import asynctune as tune
from asynctune.cli import main as cli
from asynctune.errors import ExperimentCorrupt, StorageError
from asynctune.executors import InlineExecutor
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader, record


@pytest.fixture
def whole(tmp_path):
    """An experiment that has ended, and its journal."""
    import asyncio

    asyncio.run(undisturbed(tmp_path, tmp_path / "ledger"))
    return tmp_path / "simulated" / "journal"


def events_of(path):
    return [event for _, event in JournalReader(path).events()]


def test_any_cut_leaves_a_beginning_and_only_a_record_that_is_whole_counts(whole, is_long):
    data, known = whole.read_bytes(), events_of(whole)
    ends = [*[place for place, _ in JournalReader(whole).events()][1:], len(data)]
    for size in range(0, len(data) + 1, 1 if is_long else 3):
        whole.write_bytes(data[:size])
        assert events_of(whole) == known[: sum(end <= size for end in ends)]


@pytest.mark.asyncio
@pytest.mark.slow
async def test_after_any_of_the_last_cuts_it_goes_on_to_the_same_end(whole, tmp_path):
    data = whole.read_bytes()
    for size in range(len(data) - 300, len(data), 3):
        parent = tmp_path / f"cut-{size}"
        shutil.copytree(whole.parent, parent / "simulated")
        (parent / "simulated" / "journal").write_bytes(data[:size])
        assert rows_of(await undisturbed(parent, parent / "ledger")) == CONTROL
        assert rows_of(tune.Analysis(parent / "simulated")) == CONTROL


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_flipped_bit_gives_another_error_or_fewer_events_in_silence(whole, is_long):
    data, known = whole.read_bytes(), events_of(whole)
    last = [place for place, _ in JournalReader(whole).events()][-1]
    for position in range(0, len(data), 1 if is_long else 5):
        for bit in range(8) if is_long else (position % 8,):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            whole.write_bytes(flipped)
            events, offset = [], 0
            try:
                events = events_of(whole)
            except ExperimentCorrupt as exc:
                offset = exc.offset
            if not events:
                assert offset is not None
                assert offset <= position
            else:
                assert events == known[:-1], f"bit {bit} of byte {position}"
                assert position >= last, "only the last record can be taken for a torn one"


@pytest.mark.parametrize("rest", [b"\0" * 4096, b"garbage", b"\n\n", b"00000010 "])
def test_what_is_no_record_behind_the_last_one_is_no_event(rest, whole):
    known = events_of(whole)
    with whole.open("ab") as file:
        file.write(rest)
    assert events_of(whole) == known


def damages(data, places):
    second, third = data[places[1] : places[2]], data[places[2] : places[3]]
    head, tail = data[: places[1]], data[places[3] :]
    return {
        "a record is gone in the middle of a line": head + second[:-9] + third + tail,
        "zeros": head + b"\0" * len(second) + third + tail,
        "a block comes twice": head + second + second + third + tail,
        "a kind without its fields": head + record(b'{"kind":"reported"}') + second + third + tail,
        "deep": head + record(b"[" * 100_000 + b"]" * 100_000) + second + third + tail,
        "another newline": head + second[:-1] + b"x" + third + tail,
    }


@pytest.mark.parametrize("name", list(damages(b"", [0] * 4)))
def test_damage_is_refused_with_its_place_and_repair_keeps_the_good_beginning(name, whole, capsys):
    data = whole.read_bytes()
    places = [place for place, _ in JournalReader(whole).events()]
    damaged = damages(data, places)[name]
    whole.write_bytes(damaged)
    experiment = str(whole.parent)
    with pytest.raises(ExperimentCorrupt, match=r"damaged at byte \d+.*asynctune repair") as caught:
        tune.Analysis(experiment)
    assert places[1] <= caught.value.offset <= places[3]
    assert cli.main(["repair", experiment]) == 0
    assert "good records, cut off" in capsys.readouterr().out
    assert whole.read_bytes() == damaged[: caught.value.offset]
    assert Path(f"{whole}.cut-0").read_bytes() == damaged[caught.value.offset :]
    tune.Analysis(experiment)
    assert cli.main(["repair", experiment]) == 0
    assert "nothing was changed" in capsys.readouterr().out


READ_ALL = """
import sys
from pathlib import Path
import asynctune as tune
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        tune.Analysis(folder)
        print(folder.name)
    except tune.ExperimentCorrupt as exc:
        assert "is damaged at byte" in str(exc), exc
"""


@pytest.mark.parametrize("flags", [[], ["-O"]], ids=["plain", "without assertions"])
def test_a_record_of_a_row_that_is_doubled_or_gone_is_damage(whole, tmp_path, flags):
    data = whole.read_bytes()
    places = [(offset, event) for offset, event in JournalReader(whole).events()]
    ends = [offset for offset, _ in places[1:]] + [len(data)]
    count = 0
    for (start, event), end in zip(places, ends, strict=True):
        if isinstance(event, ev.Reported):
            for name, changed in (
                (f"{start}-doubled", data[:end] + data[start:end] + data[end:]),
                (f"{start}-gone", data[:start] + data[end:]),
            ):
                count += 1
                folder = tmp_path / "damaged" / name
                folder.mkdir(parents=True)
                (folder / "journal").write_bytes(changed)
    assert count > 10
    command = [sys.executable, *flags, "-c", READ_ALL, str(tmp_path / "damaged")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "", "these were read without a word"


@pytest.mark.asyncio
async def test_a_run_whose_journal_is_removed_ends_with_a_storage_error(tmp_path):
    class Removes(tune.Trainable):
        def _train(self):
            if self.iteration == 2:
                (tmp_path / "x" / "journal").unlink()
            return {"n": self.iteration}

    async with InlineExecutor() as pool:
        with pytest.raises(StorageError, match="journal was removed, moved or replaced"):
            await tune.run(
                Removes, executor=pool, name="x", storage_path=tmp_path, verbose=0,
                stop={"training_iteration": 5},
            )  # fmt: skip


def test_repair_refuses_what_has_nothing_good_and_what_somebody_runs(whole, capsys):
    from asynctune.experiment.lock import ExperimentLock
    from asynctune.storage.filesystem import FileSystem

    lock = ExperimentLock(str(whole.parent), FileSystem(), "journal")
    lock.acquire()
    assert cli.main(["repair", str(whole.parent)]) == 1
    assert "is being run by process" in capsys.readouterr().err
    lock.release()
    data = whole.read_bytes()
    whole.write_bytes(b"x" + data[1:])
    assert cli.main(["repair", str(whole.parent)]) == 1
    assert "cannot repair the journal" in capsys.readouterr().err
    assert whole.read_bytes() == b"x" + data[1:]
    assert cli.main(["repair", "/nowhere"]) == 1
    assert "is not an experiment" in capsys.readouterr().err


@pytest.mark.parametrize("later", [False, True], ids=["it began it", "it went on with it"])
def test_a_newer_format_is_refused_by_name_and_never_repaired(later, whole, capsys):
    first, *rest = whole.read_bytes().splitlines(keepends=True)
    newer = (
        first[18:-1].replace(b'"format":1', b'"format":9').replace(b'"version":"', b'"version":"9.')
    )
    whole.write_bytes(b"".join([first, *rest] if later else []) + record(newer) + b"".join(rest))
    with pytest.raises(ExperimentCorrupt, match=r"format 9, written by asynctune 9\..*upgrade"):
        tune.Analysis(whole.parent)
    assert cli.main(["repair", str(whole.parent)]) == 1
    assert "upgrade asynctune" in capsys.readouterr().err


def test_show_lists_the_trials(whole, capsys):
    assert cli.main(["show", str(whole.parent)]) == 0
    assert "4 trials: 4 TERMINATED" in capsys.readouterr().out
