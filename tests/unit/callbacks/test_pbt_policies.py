"""The files that say who took over from whom, also after crashes at any point."""

from __future__ import annotations

import json

import pytest

from asynctune.callbacks.pbt_policies import PbtPolicyFiles, policy_line
from asynctune.errors import ConfigError, StorageError
from asynctune.experiment.events import Exploited
from asynctune.schedulers.policies import PolicyLine, read_policy


def line(target, donor, at, x):
    return PolicyLine(f"{target}-tag", f"{donor}-tag", at, at + 1, {"x": x - 1}, {"x": x})


A_FROM_B = line("a", "b", 4, 2), "a", "b"
C_FROM_A = line("c", "a", 8, 3), "c", "a"
A_FROM_D = line("a", "d", 12, 4), "a", "d"
ALL = [A_FROM_B, C_FROM_A, A_FROM_D]


def files_in(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_an_event_becomes_a_line_of_six_items():
    event = Exploited(
        trial_id="a", donor="b", checkpoint="b/checkpoint_9", iteration=9, target_iteration=8,
        resume_sequence=7, config={"x": 2, "y": float("nan")}, given=None, tag="x=1@perturbed[x=2]",
        donor_config={"x": 3}, donor_tag="x=3", target_tag="x=1", wall_time=0.0,
    )  # fmt: skip
    assert json.loads(policy_line(event).text()) == [
        "x=1", "x=3", 8, 9, {"x": 3}, {"x": 2, "y": None},
    ]  # fmt: skip


def test_the_file_of_a_trial_begins_with_what_its_donor_went_through(tmp_path):
    files = PbtPolicyFiles(tmp_path)
    for each in ALL:
        files.write(*each)
    assert read_policy(tmp_path / "pbt_global.txt") == [each[0] for each in ALL]
    assert read_policy(tmp_path / "pbt_policy_c.txt") == [A_FROM_B[0], C_FROM_A[0]]
    assert read_policy(tmp_path / "pbt_policy_a.txt") == [A_FROM_D[0]]
    assert len(files_in(tmp_path)) == 3


def test_a_trial_may_take_over_from_itself(tmp_path):
    files = PbtPolicyFiles(tmp_path)
    files.write(*A_FROM_B)
    itself = line("a", "a", 20, 9)
    files.write(itself, "a", "a")
    assert read_policy(tmp_path / "pbt_policy_a.txt") == [A_FROM_B[0], itself]


@pytest.mark.parametrize("done", range(4))
@pytest.mark.parametrize("again_from", range(4))
def test_what_was_written_before_a_crash_is_not_written_again(tmp_path, done, again_from):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    for each in ALL:
        PbtPolicyFiles(whole).write(*each)
    files = PbtPolicyFiles(cut)
    for each in ALL[:done]:
        files.write(*each)
    files = PbtPolicyFiles(cut)
    for each in ALL[min(done, again_from) :]:
        files.write(*each)
    assert files_in(cut) == files_in(whole)


def test_a_line_that_a_crash_cut_is_written_whole_the_next_time(tmp_path):
    files = PbtPolicyFiles(tmp_path)
    for each in ALL:
        files.write(*each)
    wanted = files_in(tmp_path)
    path = tmp_path / "pbt_global.txt"
    text = path.read_bytes()
    for size in range(len(text)):
        path.write_bytes(text[:size])
        files = PbtPolicyFiles(tmp_path)
        for each in ALL[text[:size].count(b"\n") :]:
            files.write(*each)
        assert files_in(tmp_path) == wanted


def test_a_crash_between_the_two_files_is_mended(tmp_path):
    files = PbtPolicyFiles(tmp_path)
    for each in ALL:
        files.write(*each)
    wanted = files_in(tmp_path)
    path = tmp_path / "pbt_global.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    PbtPolicyFiles(tmp_path).write(*A_FROM_D)
    assert files_in(tmp_path) == wanted


def test_a_directory_that_is_not_there_is_a_storage_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*pbt_global\.txt or pbt_policy_a\.txt"):
        PbtPolicyFiles(tmp_path / "file").write(*A_FROM_B)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1", "line 2 .* is no JSON"),
        ("{}", "line 2 .* must be a list of .*, got '{}'"),
        ("[]", "line 2"),
        ('["a", "b", 1, 2, {}]', "line 2"),
        ('["a", "b", 1, 2, {}, {}, {}]', "line 2"),
        ('["a", "b", 1.5, 2, {}, {}]', "line 2 .* got '1.5' as item 2"),
        ('["a", "b", 1, true, {}, {}]', "line 2 .* got 'True' as item 3"),
        ('["a", "b", 1, 2, [], {}]', "line 2 .* as item 4"),
        ('["a", 5, 1, 2, {}, {}]', "line 2 .* as item 1"),
        ("[" * 100_000, "line 2 .* is no JSON"),
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path, text, said):
    path = tmp_path / "p.txt"
    path.write_text('["a", "b", 1, null, {}, {"x": 1}]\n' + text)
    with pytest.raises(ConfigError, match=said):
        read_policy(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.txt cannot be read: No such file"):
        read_policy(tmp_path / "gone.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary is not UTF-8 text"):
        read_policy(tmp_path / "binary")
