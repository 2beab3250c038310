"""The files that say who took over from whom, also after crashes at any point."""

from __future__ import annotations

import json

import pytest

from asynctune.callbacks.pbt_policies import PbtPolicyFiles, policy_line
from asynctune.errors import ConfigError, StorageError
from asynctune.experiment.events import Exploited
from asynctune.schedulers.policies import read_policy


def exploit(target, donor, at, x):
    return Exploited(
        trial_id=target, donor=donor, checkpoint=f"{donor}/checkpoint_{at + 1}", iteration=at + 1,
        target_iteration=at, resume_sequence=at, config={"x": x}, given=None, tag="x",
        donor_config={"x": x - 1}, donor_tag=f"{donor}-tag", target_tag=f"{target}-tag", wall_time=0.0,
    )  # fmt: skip


A_FROM_B = exploit("a", "b", 4, 2)
C_FROM_A = exploit("c", "a", 8, 3)
A_FROM_D = exploit("a", "d", 12, 4)
A_FROM_ITSELF = exploit("a", "a", 16, 5)
ALL = [A_FROM_B, C_FROM_A, A_FROM_D, A_FROM_B, A_FROM_ITSELF, A_FROM_ITSELF, C_FROM_A]


def lines(*exploits):
    return [policy_line(each) for each in exploits]


def files_in(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.fixture
def whole(tmp_path):
    """The files of all exploits."""
    (tmp_path / "whole").mkdir()
    files = PbtPolicyFiles(tmp_path / "whole")
    for each in ALL:
        files.append(each)
    return files_in(tmp_path / "whole")


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
    for each in ALL[:3]:
        files.append(each)
    assert read_policy(tmp_path / "pbt_global.txt") == lines(*ALL[:3])
    assert read_policy(tmp_path / "pbt_policy_c.txt") == lines(A_FROM_B, C_FROM_A)
    assert read_policy(tmp_path / "pbt_policy_a.txt") == lines(A_FROM_D)
    assert len(files_in(tmp_path)) == 3


def test_a_trial_may_take_over_from_itself_and_repeat_an_earlier_exploit(tmp_path):
    files = PbtPolicyFiles(tmp_path)
    for each in ALL:
        files.append(each)
    assert read_policy(tmp_path / "pbt_global.txt") == lines(*ALL)
    of_a = [A_FROM_B, A_FROM_ITSELF, A_FROM_ITSELF]
    assert read_policy(tmp_path / "pbt_policy_a.txt") == lines(*of_a)
    assert read_policy(tmp_path / "pbt_policy_c.txt") == lines(*of_a, C_FROM_A)


@pytest.mark.parametrize("done", range(len(ALL) + 1))
@pytest.mark.parametrize("known", range(len(ALL) + 1))
def test_a_resume_writes_what_its_journal_says_and_goes_on(tmp_path, whole, done, known):
    for each in ALL[:done]:
        PbtPolicyFiles(tmp_path).append(each)
    files = PbtPolicyFiles(tmp_path)
    files.rebuild(ALL[: max(done, known)])  # the journal has what the files have, and perhaps more
    for each in ALL[max(done, known) :]:
        files.append(each)
    (tmp_path / "whole").rename(tmp_path.with_name(f"{tmp_path.name}-whole"))
    assert files_in(tmp_path) == whole


@pytest.mark.parametrize("name", ["pbt_global.txt", "pbt_policy_a.txt", "pbt_policy_c.txt"])
def test_a_file_that_a_crash_cut_anywhere_is_whole_after_a_resume(tmp_path, whole, name):
    directory = tmp_path / "whole"
    text = (directory / name).read_bytes()
    for size in range(len(text)):
        (directory / name).write_bytes(text[:size])
        PbtPolicyFiles(directory).rebuild(ALL)
        assert files_in(directory) == whole


def test_files_that_are_right_are_not_written_again(tmp_path, whole):
    directory = tmp_path / "whole"
    before = {path: path.stat().st_ino for path in directory.iterdir()}
    PbtPolicyFiles(directory).rebuild(ALL)
    assert {path: path.stat().st_ino for path in directory.iterdir()} == before


def test_a_directory_that_is_not_there_is_a_storage_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    files = PbtPolicyFiles(tmp_path / "file")
    with pytest.raises(
        StorageError, match=r"cannot write .*pbt_global\.txt or .*pbt_policy_a\.txt"
    ):
        files.append(A_FROM_B)
    with pytest.raises(StorageError, match=r"cannot write .*pbt_global\.txt"):
        files.rebuild(ALL)


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
