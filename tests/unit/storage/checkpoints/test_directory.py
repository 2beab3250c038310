"""Checkpoints: what a Trainable saves comes back, and what was not saved is never given to it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctune.errors import CheckpointCorrupt, TuneError, UnsafePath
from asynctune.storage.checkpoints import archive as packing
from asynctune.storage.checkpoints import directory as ckpt
from asynctune.trainable.base import Trainable

# layout -> the files that are written, and what _save returns, relative to the directory it was given
LAYOUTS = {
    "dict": ((), None),
    "file": (("f.bin",), "f.bin"),
    "directory": (("a", "sub/b"), ""),
    "subdirectory": (("model/w", "log"), "model/"),
    "nested": (("my/check/point",), "my/check/point"),
    "prefix": (("pre.index", "pre.data"), "pre"),
    "nested prefix": (("my/pre.index", "my/pre.data"), "my/pre"),
}
REFUSED = (CheckpointCorrupt, UnsafePath)


class Layout(Trainable):
    """Counts; saves its count in the layout that its config names."""

    def _setup(self, config):
        self.files, self.returned = LAYOUTS[config.get("layout", "directory")]
        self.x, self.seen = 0, None

    def _train(self):
        self.x += 1
        steps = {"timesteps_this_iter": 10, "episodes_this_iter": 2, "time_this_iter_s": 5}
        return {"x": self.x, **steps}

    def _save(self, tmp_checkpoint_dir):
        if self.returned is None:
            return {"x": self.x}
        for name in self.files:
            write(Path(tmp_checkpoint_dir, name), f"{self.x}")
        return os.path.join(tmp_checkpoint_dir, self.returned)

    def _restore(self, checkpoint):
        self.seen = checkpoint
        if self.returned is None:
            self.x = checkpoint["x"]
        else:
            self.x = int(Path(checkpoint + self.files[0].removeprefix(self.returned)).read_text())


class Saves(Trainable):
    """Saves what its config says, and looks at what it is given only when asked."""

    def _save(self, tmp_checkpoint_dir):
        return self.config.get("save", lambda directory: {})(tmp_checkpoint_dir)

    def _restore(self, checkpoint):
        self.seen = self.config.get("look", lambda checkpoint: checkpoint)(checkpoint)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(tmp_path / "results"))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def in_logdir(trainable):
    """The names in the logdir that loggers did not write."""
    return sorted(
        set(os.listdir(trainable.logdir)) - {"params.json", "result.json", "progress.csv"}
    )


def counters(trainable):
    """What a checkpoint would say of it now."""
    with tempfile.TemporaryDirectory() as aside:
        return dict(ckpt.read_manifest(ckpt.find_root(trainable.save(aside))).state)


# -- what was saved comes back ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["path", "root", "moved", "object"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_back_under_another_prefix(tmp_path, layout, way):
    a, b = Layout({"layout": layout}), Layout({"layout": layout})
    for t in (a, a, b):
        t.train()
    relative = "checkpoint" if layout == "dict" else LAYOUTS[layout][1]
    root = Path(a.logdir, "checkpoint_2")
    if way == "object":
        b.restore_from_object(a.save_to_object())
    else:
        path = a.save()
        assert path == f"{root}/{relative}"
        if way == "moved":
            root = root.rename(tmp_path / "elsewhere")
        b.restore(
            root if way == "root" else f"{root}/{relative}".rstrip("/" if way == "path" else "")
        )
    seen = b.seen if layout != "dict" else b.seen["tune_checkpoint_path"]
    assert seen.endswith(f"/{root.name}/{relative}")
    row = b.train()
    assert row["x"] == row["training_iteration"] == 3
    assert in_logdir(a) == (["checkpoint_2"] if way in ("path", "root") else [])
    assert in_logdir(b) == []


def test_counters_continue_and_those_since_restore_begin_anew():
    a, b = Layout(), Layout()
    last = [a.train(), a.train()][-1]
    b.restore(a.save())
    assert b.iteration == 2
    row = b.train()
    totals = ("training_iteration", "time_total_s", "timesteps_total", "episodes_total")
    since = ("iterations_since_restore", "time_since_restore", "timesteps_since_restore")
    assert [row[k] for k in totals] == [3, 15, 30, 6]
    assert [row[k] for k in since] == [1, 5, 10]
    assert row["experiment_id"] == last["experiment_id"]


@pytest.mark.parametrize("way", ["path", "object"])
def test_empty_directories_belong_to_the_structure_that_is_preserved(way):
    def save(directory):
        Path(directory, "my/empty").mkdir(parents=True)
        return f"{directory}/my"

    t = Saves({"save": save, "look": os.listdir})
    t.restore(t.save()) if way == "path" else t.restore_from_object(t.save_to_object())
    assert t.seen == ["empty"]


def test_a_dict_may_hold_what_cloudpickle_can_pickle():
    class Local:
        x = 1

    state = {"f": lambda v: v + Local.x, "array": np.arange(3), "nested": {"cls": Local}}
    t = Saves({"save": lambda directory: state})
    for restore in (lambda: t.restore_from_object(t.save_to_object()), lambda: t.restore(t.save())):
        restore()
        assert (t.seen["f"](1), t.seen["array"].tolist()) == (2, [0, 1, 2])
        assert set(t.seen) == {*state, "tune_checkpoint_path"}
    assert "tune_checkpoint_path" not in state


def test_a_second_save_of_the_same_iteration_leaves_the_first_alone():
    t = Layout({"layout": "file"})
    assert Path(t.save()).parent.name == "checkpoint_0"
    t.train()
    paths = []
    for x in (10, 20, 30):
        t.x = x
        paths.append(t.save())
    assert [Path(p).parent.name for p in paths] == [
        "checkpoint_1",
        "checkpoint_1.1",
        "checkpoint_1.2",
    ]
    for path, x in zip(paths, (10, 20, 30), strict=True):
        t.restore(path)
        assert (t.x, t.iteration) == (x, 1)


@pytest.mark.parametrize("where", ["{}/not/yet", "relative", "./a/../b"])
@pytest.mark.parametrize("layout", ["dict", "file", "directory"])
def test_a_checkpoint_can_go_anywhere_also_to_a_relative_path(tmp_path, monkeypatch, layout, where):
    monkeypatch.chdir(tmp_path)
    t, where = Layout({"layout": layout}), where.format(tmp_path)
    path = t.save(where)
    assert os.listdir(os.path.abspath(where)) == ["checkpoint_0"]
    t.restore(path)
    assert t.seen


@pytest.mark.parametrize("layout", ["dict", "directory", "subdirectory", "nested"])
@pytest.mark.parametrize("returns", ["directory", "path"])
def test_a_trainable_that_saves_another_inside_gets_its_own_checkpoint_back(returns, layout):
    class Outer(Trainable):
        def _setup(self, config):
            self.inner = Layout({"layout": layout})

        def _train(self):
            return {"x": (self.inner.train(), self.inner.train())[1]["x"]}

        def _save(self, tmp_checkpoint_dir):
            path = self.inner.save(tmp_checkpoint_dir)
            return path if returns == "path" else tmp_checkpoint_dir

        def _restore(self, checkpoint):
            inside = returns == "directory"
            self.inner.restore(
                next(Path(checkpoint).glob("checkpoint_*")) if inside else checkpoint
            )

    a, b = Outer(), Outer()
    a.train()
    try:
        path, packed = a.save(), a.save_to_object()
    except ValueError:
        assert returns == "path"  # refusing what is ambiguous is an answer too
        return
    for restore, saved in ((b.restore, path), (b.restore_from_object, packed)):
        restore(saved)
        assert (b.iteration, b.inner.iteration, b.inner.x) == (1, 2, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_deleting_takes_the_whole_checkpoint_and_no_other(layout):
    t = Layout({"layout": layout})
    first, second = t.save(), t.save()
    t.delete_checkpoint(first)
    assert in_logdir(t) == ["checkpoint_0.1"]
    for missing in (first, "/nowhere", t.logdir, os.path.join(t.logdir, "checkpoint_7")):
        t.delete_checkpoint(missing)
    t.restore(second)
    t.delete_checkpoint(os.path.join(t.logdir, "checkpoint_0.1"))
    assert in_logdir(t) == []


# -- complete or invisible ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [None, 5, ["a"], b"{}/f", "f", "/", "{}0/x", "{}/../x", "{}/a/../../x", "/etc/passwd"],
)
def test_save_refuses_what_is_neither_a_dict_nor_a_path_inside(answer):
    def save(directory):
        write(Path(directory, "f"), "data")
        return answer.format(directory) if isinstance(answer, str) else answer

    t = Saves({"save": save})
    for attempt in (t.save, t.save_to_object):
        with pytest.raises(ValueError, match=r"Saves\._save"):
            attempt()
    assert in_logdir(t) == []


@pytest.mark.parametrize("plant", [lambda p: p.symlink_to("/etc"), os.mkfifo], ids=["link", "fifo"])
def test_links_and_special_files_are_no_checkpoint(plant):
    t = Saves({"save": lambda directory: plant(Path(directory, "odd")) or directory})
    with pytest.raises(UnsafePath, match="odd"):
        t.save()
    assert in_logdir(t) == []


def test_a_file_of_the_users_with_the_name_of_the_manifest_is_refused_or_survives():
    t = Saves({"save": lambda d: write(Path(d, ckpt.MANIFEST), "mine") or d})
    with contextlib.suppress(TuneError, ValueError):
        path = t.save()
        t.config["look"] = lambda directory: Path(directory, ckpt.MANIFEST).read_text()
        try:
            t.restore(path)
        except CheckpointCorrupt as exc:
            pytest.fail(f"what save() accepted cannot be restored: {exc}")
        assert t.seen == "mine"


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(1), KeyboardInterrupt()])
def test_a_crash_in_save_leaves_nothing_visible(error):
    crash = [error]

    def save(directory):
        write(Path(directory, "f"), "half")
        if crash:
            raise crash.pop()
        return directory

    t = Saves({"save": save})
    with pytest.raises(type(error)):
        t.save()
    assert in_logdir(t) == []
    t.save()
    assert in_logdir(t) == ["checkpoint_0"]


@pytest.mark.parametrize("layout", ["dict", "directory"])
def test_whenever_the_machine_stops_a_visible_checkpoint_is_complete(monkeypatch, layout):
    class Stops(BaseException):
        pass

    calls, limit = [], 0

    def counting(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == limit:
                raise Stops
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # nor is anything tidied up
    visible = []
    while len(calls) >= limit:
        limit += 1
        t = Layout({"layout": layout})
        with monkeypatch.context() as patch, contextlib.suppress(Stops):
            calls.clear()
            for name in ("fsync", "rename"):
                patch.setattr(os, name, counting(name, getattr(os, name)))
            t.save()
        visible.append([name for name in in_logdir(t) if name.startswith("checkpoint")])
        for name in visible[-1]:
            ckpt.verify(Path(t.logdir, name))
    assert len(visible) > 4
    assert visible[0] == []
    assert visible[-1] == ["checkpoint_0"]


def test_everything_is_synced_before_the_rename_and_the_manifest_last(monkeypatch):
    log, rename = [], os.rename

    def noted(sync):
        def call(descriptor):
            log.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)

        return call

    monkeypatch.setattr(os, "fsync", noted(os.fsync))
    monkeypatch.setattr(os, "fdatasync", noted(os.fdatasync))
    monkeypatch.setattr(os, "rename", lambda a, b: log.append(("rename", str(b))) or rename(a, b))
    t = Layout()
    root = Path(t.save())
    at = log.index(("rename", str(root)))
    aside = [path.partition("/checkpoint_0")[2] for path in log[:at]]
    assert set(aside) >= {"/a", "/sub/b", f"/{ckpt.MANIFEST}", "/sub", ""}
    assert [name for name in aside if name not in ("", "/sub")][-1] == f"/{ckpt.MANIFEST}"
    logdir = t.logdir.rstrip("/")
    assert log[at + 1 :] == [logdir, os.path.dirname(logdir)]


def test_without_a_manifest_there_is_no_checkpoint():
    t = Layout()
    path = t.save()
    Path(path, ckpt.MANIFEST).unlink()
    for gone in (path, "/nowhere/at/all", Path(t.logdir, "checkpoint_9"), "a\0b"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            t.restore(gone)
    t.delete_checkpoint(path)
    assert Path(path).exists()


# -- what is damaged or hostile is refused, and never seen by the hook ----------------------------


def flip(root):
    path = root / "sub/b"
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


DAMAGES = {
    "a bit": flip,
    "cut": lambda root: os.truncate(root / "a", 0),
    "longer": lambda root: (root / "a").write_text("1 and more"),
    "gone": lambda root: (root / "a").unlink(),
    "link": lambda root: ((root / "a").rename(root / "c"), (root / "a").symlink_to("c")),
    "directory": lambda root: ((root / "a").unlink(), (root / "a").mkdir()),
    "linked directory": lambda root: (
        shutil.move(root / "sub", root.parent / "out"), (root / "sub").symlink_to(root.parent / "out")
    ),
    "empty manifest": lambda root: os.truncate(root / ckpt.MANIFEST, 0),
    "torn manifest": lambda root: os.truncate(root / ckpt.MANIFEST, 40),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_never_given_to_the_hook(damage):
    t = Layout()
    t.train()
    path = t.save()
    t.train()
    before = counters(t)
    DAMAGES[damage](Path(path))
    with pytest.raises(REFUSED, match="checkpoint_1"):
        t.restore(path)
    assert (t.seen, t.x, counters(t)) == (None, 2, before)


def test_a_restore_that_raises_leaves_the_counters_as_they_were():
    a, b = Layout({"layout": "dict"}), Saves({"look": lambda checkpoint: 1 / 0})
    a.train()
    before = counters(b)
    for restore, saved in ((b.restore, a.save()), (b.restore_from_object, a.save_to_object())):
        with pytest.raises(ZeroDivisionError):
            restore(saved)
    assert counters(b) == before
    assert in_logdir(b) == []


def put(*path, value):
    def change(body):
        inner = body
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value

    return change


def without(*path):
    def change(body):
        inner = body
        for part in path[:-1]:
            inner = inner[part]
        del inner[path[-1]]

    return change


ODD_NAMES = ("../x", "/etc/passwd", "", ".", "a/../../x", "a\0b", "\ud800", "n" * 300)
HOSTILE = {
    **{f"no {key}": without(key) for key in ("format", "path", "saved_as_dict", "state", "files")},
    **{f"no {key}": without("state", key) for key in ("experiment_id", "iteration", "time_total")},
    **{f"iteration {v!r}": put("state", "iteration", value=v) for v in ("3", None, [], 1.5)},
    "time_total": put("state", "time_total", value="long"),
    **{f"{key} is {v!r}": put(key, value=v)
       for key in ("format", "state", "files") for v in (None, [], "x", 5)},
    **{f"path {name!r}"[:20]: put("path", value=name) for name in (*ODD_NAMES, [], "evil")},
    **{f"file {name!r}"[:20]: put("files", name, value=[1, "0" * 64]) for name in ODD_NAMES},
    **{f"entry {entry!r}": put("files", "checkpoint", value=entry)
       for entry in (None, [], [1], [1, 2, 3], "ab", [-1, ""], [1e999, ""], [float("nan"), ""],
                     ["x", ""], [None, ""], [2**80, ""], [1, None])},
    **{f"directory {v!r}"[:20]: put("directories", value=[v]) for v in (*ODD_NAMES, "checkpoint", 5)},
    **{f"directories is {v!r}": put("directories", value=v) for v in (None, 5)},
    "a directory listed": put("files", "folder", value=[1, "0" * 64]),
    "a file below a file": put("files", "checkpoint/x", value=[1, "0" * 64]),
    "the manifest listed": put("files", ckpt.MANIFEST, value=[1, "0" * 64]),
    "nothing listed": lambda body: body["files"].clear(),
}  # fmt: skip
BODIES = {"list": b"[]", "null": b"null", "text": b"x", "bytes": b"\xff\xfe", "deep": b"[" * 10**5,
          "number": b"1" * 5000, "deep dict": b'{"a":' * 10**5}  # fmt: skip


def saved_dict():
    t = Saves(
        {"save": lambda directory: {"x": 1}, "look": lambda checkpoint: pytest.fail("was seen")}
    )
    root = Path(t.save()).parent
    (root / "folder").mkdir()
    (root / "evil").write_bytes(pickle.dumps({"evil": 1}))
    return t, root


def changed(text, change):
    if isinstance(change, bytes):
        return change
    body = json.loads(text)
    change(body)
    return json.dumps(body).encode()


def packed(header, payload=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return packing._MAGIC + struct.pack("!Q", len(head)) + head + payload


def parts_of(data):
    start = len(packing._MAGIC) + 8
    (length,) = struct.unpack("!Q", data[len(packing._MAGIC) : start])
    return json.loads(data[start : start + length]), data[start + length :]


@pytest.mark.parametrize("packed_up", [False, True], ids=["on disk", "packed"])
@pytest.mark.parametrize("name", [*HOSTILE, *BODIES])
def test_a_hostile_manifest_is_refused_before_anything_is_unpickled(name, packed_up, monkeypatch):
    t, root = saved_dict()
    before = counters(t)
    manifest = (root / ckpt.MANIFEST).read_bytes()
    text = changed(manifest, HOSTILE.get(name) or BODIES[name])
    if packed_up:
        header, payload = parts_of(t.save_to_object())
        saved = packed({**header, "manifest": text.decode("latin-1")}, payload)
    else:
        (root / ckpt.MANIFEST).write_bytes(text)
    monkeypatch.setattr(pickle, "loads", lambda data: pytest.fail("was unpickled"))
    with pytest.raises(REFUSED):
        t.restore_from_object(saved) if packed_up else t.restore(root)
    assert counters(t) == before
    assert in_logdir(t) == ["checkpoint_0"]


@pytest.mark.parametrize(
    "change",
    [{key: value} for key in ("name", "manifest")
     for value in (None, 5, "\ud800", "../x", "/x", "a\0b", "n" * 300)] + [{"name": "."}],
    ids=lambda change: repr(change)[:30],
)  # fmt: skip
def test_a_hostile_header_of_a_packed_object_is_refused(change):
    t, _ = saved_dict()
    header, payload = parts_of(t.save_to_object())
    with pytest.raises(REFUSED):
        t.restore_from_object(packed({**header, **change}, payload))
    assert in_logdir(t) == ["checkpoint_0"]


@pytest.mark.parametrize("junk", [b"", b"ATCKPT1\n", b"x" * 99, pickle.dumps({"x": 1}), None, "text", 5,
                                  packed(b"{"), packed([]), packed({}), packed(b"[" * 10**5),
                                  packed({})[:-1], packing._MAGIC + b"\xff" * 8])  # fmt: skip
def test_what_is_no_packed_checkpoint_is_called_so(junk):
    with pytest.raises(CheckpointCorrupt, match="object"):
        Saves().restore_from_object(junk)


def test_each_truncation_and_each_addition_is_noticed_by_unpack_itself(tmp_path):
    t = Layout({"layout": "directory"})
    t.x = 12345
    data = t.save_to_object()
    assert packing.unpack(data, tmp_path / "whole").is_dir()
    unnoticed = []
    for length in sorted(
        {*range(0, len(data), 9), *range(len(data) - 12, len(data)), len(data) + 1}
    ):
        with contextlib.suppress(CheckpointCorrupt):
            packing.unpack((data + b"\0")[:length], tmp_path / str(length))
            unnoticed.append(length - len(data))
    assert unnoticed == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_changed_byte_is_refused_or_touches_a_counter_only(data):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASYNCTUNE_RESULTS_DIR", folder)
        a = Layout({"layout": "nested"})
        b = Saves(
            {"look": lambda path: path + (Path(path).read_text() if Path(path).exists() else "?")}
        )
        a.train()
        packed_bytes = bytearray(a.save_to_object())
        at = data.draw(st.integers(0, len(packed_bytes) - 1))
        packed_bytes[at] ^= data.draw(st.integers(1, 255))
        try:
            b.restore_from_object(bytes(packed_bytes))
        except REFUSED:
            assert b.iteration == 0
        else:
            assert b.seen.endswith("/my/check/point1")
