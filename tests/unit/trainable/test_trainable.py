"""Trainable by itself, without any run: its whole public face."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import re
import tempfile
import threading
import traceback
from datetime import datetime
from pathlib import Path

import pytest

import asynctune as tune
from asynctune import result as keys
from asynctune.errors import ConfigError, ExecutorError, TuneError
from asynctune.loggers import Logger, NoopLogger
from asynctune.storage.checkpoints import directory as checkpoint
from asynctune.trainable.base import Trainable

SEED = ("_setup", "_train", "_save", "_restore", "_log_result", "_stop")
LATER = ("setup", "step", "save_checkpoint", "load_checkpoint", "log_result", "cleanup")


class Scripted(Trainable):
    """Reports or raises what its config says."""

    def _train(self):
        item = self.config["rows"].pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    def _save(self, tmp_checkpoint_dir):
        return {"iteration": self.iteration}

    def _restore(self, checkpoint):
        assert checkpoint["iteration"] >= 0


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def make():
    made = []

    def build(cls, config=None, **kwargs):
        made.append(cls(config, **kwargs))
        return made[-1]

    yield build
    for trainable in made:
        with contextlib.suppress(Exception):
            trainable.stop()


def counters(trainable):
    """What a checkpoint would say of it now."""
    with tempfile.TemporaryDirectory() as aside:
        return dict(checkpoint.read_manifest(checkpoint.find_root(trainable.save(aside))).state)


def within(seconds, function, *args):
    """Run in a thread, so that what hangs fails one test only; return what it raised."""
    raised = []

    def run():
        try:
            function(*args)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"{function.__qualname__} hangs"
    return raised[0] if raised else None


# -- train --------------------------------------------------------------------------------------


def test_a_result_has_exactly_the_promised_fields(make):
    t = make(Scripted, {"rows": [{"loss": 1}]})
    row = t.train()
    assert set(row) == {"loss", *keys.AUTO_FILLED} - {keys.TRIAL_ID, keys.EXPERIMENT_TAG}
    assert (row["done"], row["training_iteration"], row["iterations_since_restore"]) == (
        False,
        1,
        1,
    )
    assert (row["timesteps_total"], row["episodes_total"]) == (None, None)
    assert (row["pid"], row["timesteps_since_restore"]) == (os.getpid(), 0)
    assert type(row["timestamp"]) is int
    assert abs(row["timestamp"] - datetime.now().timestamp()) < 3600
    assert re.fullmatch(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}", row["date"])
    assert len(row["experiment_id"]) == 32
    assert int(row["experiment_id"], 16)
    assert row["config"] is t.config
    assert all(isinstance(row[name], str) and row[name] for name in ("hostname", "node_ip"))
    assert row["time_this_iter_s"] == row["time_total_s"] == row["time_since_restore"] >= 0


@pytest.mark.parametrize(
    ("rows", "key", "expected"),
    [
        ([{"timesteps_this_iter": 10}] * 2, "timesteps_total", [10, 20]),
        ([{"timesteps_this_iter": 10}] * 2, "timesteps_since_restore", [10, 20]),
        ([{}, {"timesteps_this_iter": 0}, {}], "timesteps_total", [None, 0, 0]),
        ([{"timesteps_this_iter": None}], "timesteps_total", [None]),
        ([{"episodes_this_iter": 3}, {}], "episodes_total", [3, 3]),
        ([{"episodes_this_iter": 0}], "episodes_total", [0]),
        ([{"time_this_iter_s": 10}] * 2, "time_total_s", [10, 20]),
        ([{"time_this_iter_s": 10}] * 2, "time_since_restore", [10, 20]),
        ([{"time_this_iter_s": 0}], "time_this_iter_s", [0]),
        ([{"timesteps_this_iter": 5, "timesteps_total": 99}, {"timesteps_this_iter": 5}],
         "timesteps_total", [99, 10]),
        ([{"training_iteration": 100}, {}], "training_iteration", [100, 2]),
        ([{"done": True}, {}], "done", [True, False]),
        ([{"mean_loss": 2.0}, {"mean_loss": 0.0}], "neg_mean_loss", [-2.0, 0.0]),
        ([{"mean_loss": 2.0, "neg_mean_loss": 7}], "neg_mean_loss", [7]),
        ([{"pid": "x"}], "pid", [os.getpid()]),
        ([{"time_total_s": -1, "time_this_iter_s": 3}], "time_total_s", [3]),
        ([{"iterations_since_restore": 9}] * 2, "iterations_since_restore", [1, 2]),
        ([{"should_checkpoint": True}], "should_checkpoint", [True]),
    ],
)  # fmt: skip
def test_fields_accumulate_and_users_override_where_they_may(make, rows, key, expected):
    t = make(Scripted, {"rows": [dict(row) for row in rows]})
    assert [t.train()[key] for _ in rows] == expected
    assert t.iteration == t.training_iteration == len(rows)


def test_what_is_never_the_users_is_overwritten(make):
    given = dict.fromkeys(
        ["experiment_id", "date", "timestamp", "hostname", "node_ip", "config"], 0
    )
    row = make(Scripted, {"rows": [given]}).train()
    assert not [key for key in given if row[key] == 0]
    assert set(given.values()) == {0}, "the dict that _train returned was changed"


def test_a_duplicate_is_passed_on_untouched_and_not_logged(make):
    t = make(Scripted, {"rows": [{"__duplicate__": True, "x": 1}]})
    assert t.train() == {"__duplicate__": True, "x": 1}
    assert t.iteration == 0
    assert not Path(t.logdir, "result.json").read_text()


@pytest.mark.parametrize("answer", [None, [("a", 1)], 5, "a"])
def test_train_refuses_what_is_no_dict_and_names_the_hook(make, answer):
    t = make(Scripted, {"rows": [answer]})
    with pytest.raises(TypeError, match=r"Scripted\._train"):
        t.train()
    assert t.iteration == 0


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_of_train_comes_out_as_it_is_and_counts_nothing(make, error):
    t = make(Scripted, {"rows": [error, {}]})
    with pytest.raises(type(error)) as caught:
        t.train()
    assert caught.value is error
    assert t.train()["training_iteration"] == 1


def test_a_leaked_stop_iteration_keeps_its_traceback(make):
    class Leaks(Trainable):
        def _train(self):
            return {"x": next(iter(()))}

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        make(Leaks).train()
    assert isinstance(caught.value.__cause__, StopIteration)
    frames = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert "_train" in [frame.name for frame in frames]


@pytest.mark.parametrize("bad", [{"timesteps_this_iter": "many"}, {"time_this_iter_s": "long"},
                                 {"mean_loss": [1]}])  # fmt: skip
def test_a_field_of_the_wrong_type_names_itself_and_counts_nothing(make, bad):
    t = make(Scripted, {"rows": [bad]})
    before = counters(t)
    with pytest.raises((TypeError, ConfigError), match=next(iter(bad))):
        t.train()
    assert counters(t) == before


# -- hooks --------------------------------------------------------------------------------------


def recording(names, *, asynchronous):
    def hook(name, answer):
        def plain(self, *args):
            self.__dict__.setdefault("calls", []).append(name)
            return answer

        async def awaited(self, *args):
            await asyncio.sleep(0)
            return plain(self, *args)

        return awaited if asynchronous else plain

    answers = (None, {"x": 1}, {"state": 1}, None, None, None)
    return {name: hook(name, answer) for name, answer in zip(names, answers, strict=True)}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("names", [SEED, LATER], ids=["seed", "later"])
@pytest.mark.parametrize("place", ["class", "parent", "mixin"])
def test_hooks_are_found_in_either_spelling_sync_or_async_wherever_they_stand(
    names, asynchronous, place
):
    hooks = recording(names, asynchronous=asynchronous)
    bases = {
        "class": (Trainable,),
        "parent": (type("Parent", (Trainable,), hooks),),
        "mixin": (type("Mixin", (), hooks), Trainable),
    }[place]
    t = type("Hooks", bases, hooks if place == "class" else {})()
    t.train()
    t.restore(t.save())
    t.restore_from_object(t.save_to_object())
    t.stop()
    order = [0, 1, 4, 2, 3, 2, 3, 5]
    assert t.calls == [names[i] for i in order]


def test_the_later_names_mean_nothing_in_a_class_that_has_one_of_the_seeds(make):
    class Both(Trainable):
        def _train(self):
            return {"x": 1}

        def setup(self, config):
            raise AssertionError("a method of the user's own")

        step = cleanup = log_result = setup

    t = make(Both)
    assert t.train()["x"] == 1
    t.stop()


@pytest.mark.parametrize(("call", "name"), [("train", "_train"), ("save", "_save")])
def test_a_missing_hook_is_named(make, call, name):
    with pytest.raises(NotImplementedError, match=rf"Bare.*{name}"):
        getattr(make(type("Bare", (Trainable,), {})), call)()


def test_asynchronous_hooks_share_one_loop_and_task_which_stop_ends():
    class Scoped(Trainable):
        async def _setup(self, config):
            self.loop, self.ticks, self.log = asyncio.get_running_loop(), 0, []
            self.group = await asyncio.TaskGroup().__aenter__()
            self.loop.create_task(self.background())

        async def background(self):
            try:
                while True:
                    await asyncio.sleep(0)
                    self.ticks += 1
            finally:
                self.log.append("background ended")

        async def _train(self):
            assert asyncio.get_running_loop() is self.loop
            seen = self.ticks
            while self.ticks == seen:
                await asyncio.sleep(0)
            return {"x": await self.group.create_task(asyncio.sleep(0, 7))}

        async def _stop(self):
            await self.group.__aexit__(None, None, None)  # works only in the task that entered

    t = Scoped()
    assert [t.train()["x"], t.train()["x"]] == [7, 7]
    t.stop()
    assert t.loop.is_closed()
    assert t.log == ["background ended"]


def test_a_cancelled_hook_does_not_make_the_next_one_hang():
    class Cancelled(Trainable):
        async def _train(self):
            raise asyncio.CancelledError("of the user's own")

        async def _stop(self):
            self.stopped = True

    t = Cancelled()
    assert isinstance(within(2, t.train), BaseException)
    within(2, t.stop)
    assert t.stopped


def test_a_failed_asynchronous_setup_leaves_no_event_loop_open(monkeypatch):
    class Fails(Trainable):
        async def _setup(self, config):
            raise OSError("no data")

    loops, new_event_loop = [], asyncio.new_event_loop
    monkeypatch.setattr(
        asyncio, "new_event_loop", lambda: loops.append(new_event_loop()) or loops[-1]
    )
    with pytest.raises(OSError, match="no data") as caught:
        Fails()
    closed = [loop.is_closed() for loop in loops]
    for loop in loops:  # end what was left, or it warns in another test
        if not loop.is_closed():
            for task in asyncio.all_tasks(loop):
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
            loop.close()
    del caught
    assert closed == [True]


def test_on_a_running_loop_async_hooks_are_refused_with_advice_and_sync_ones_work(make):
    async def inside():
        with pytest.raises(ExecutorError, match="InlineExecutor"):
            type("Async", (Trainable,), recording(SEED, asynchronous=True))()
        return make(Scripted, {"rows": [{"x": 1}]}).train()["x"]

    assert asyncio.run(inside()) == 1


def test_setup_gets_a_copy_of_the_config_even_if_a_leaf_cannot_be_copied(make):
    class Changes(Trainable):
        def _setup(self, config):
            config["a"]["b"].append(1)
            config["new"] = config.get("lock")

    for extra in ({}, {"lock": threading.Lock()}):
        given = {"a": {"b": []}, **extra}
        t = make(Changes, given)
        assert given == {"a": {"b": []}, **extra}
        assert t.config is given is t.get_config()
    assert make(Scripted).config == {}


# -- the rest of the face -----------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("formats", ["model", ["model"], ["model", "h5"], ("model",)])
def test_export_hands_over_a_list_and_a_directory(make, tmp_path, formats, asynchronous):
    def export(self, export_formats, export_dir):
        assert isinstance(export_formats, list)
        return {name: f"{export_dir.rstrip('/')}/{name}" for name in export_formats}

    async def export_async(self, export_formats, export_dir):
        return export(self, export_formats, export_dir)

    t = make(type("T", (Trainable,), {"_export_model": export_async if asynchronous else export}))
    names = [formats] if isinstance(formats, str) else list(formats)
    assert t.export_model(formats) == {n: os.path.join(t.logdir, n) for n in names}
    assert t.export_model(formats, str(tmp_path)) == {n: f"{tmp_path}/{n}" for n in names}
    assert make(Scripted).export_model(formats) == {}


def test_export_formats_are_validated_only_on_request():
    assert tune.ExportFormat.validate([" MODEL", "h5"]) == ["model", "h5"]
    with pytest.raises(TuneError, match="onnx"):
        tune.ExportFormat.validate(["model", "onnx"])


def test_by_itself_it_has_a_directory_and_no_trial(make, results):
    a, b = make(Scripted, {"rows": [{"x": float("nan")}, {"x": 2, "y": 1}]}), make(Scripted)
    assert Path(a.logdir).parent == results
    assert a.logdir.endswith(os.sep)
    assert a.logdir != b.logdir
    assert (a.trial_id, a.trial_name, a.iteration) == (None, None, 0)
    assert a.reset_config({"rows": []}) is False
    assert a.config != {"rows": []}
    assert (Trainable.default_resource_request({}), Trainable.resource_help({})) == (None, "")
    a.train()
    a.train()
    a.stop()
    lines = Path(a.logdir, "result.json").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [None, 2]
    table = Path(a.logdir, "progress.csv").read_text().splitlines()
    assert [row["y"] for row in csv.DictReader(table)] == ["", "1"]
    assert "rows" in json.loads(Path(a.logdir, "params.json").read_text())


def test_it_stays_in_its_directory_when_the_working_directory_changes(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", "relative")
    t = make(Scripted, {"rows": [{}]})
    monkeypatch.chdir("/")
    t.train()
    path = t.save()
    assert path.startswith(str(tmp_path / "relative"))
    assert Path(t.logdir, "result.json").read_text()


class Recorder(Logger):
    def _init(self):
        self.calls = []
        self.fails = ()

    def on_result(self, result):
        self.calls.append(result)

    def _called(self, name):
        self.calls.append(name)
        if name in self.fails:
            raise OSError(f"{name} failed")

    def flush(self):
        self._called("flush")

    def close(self):
        self._called("close")


@pytest.mark.parametrize("fails", [(), ("flush",), ("close",)])
def test_a_logger_of_ones_own_sees_every_row_and_cannot_keep_stop_from_stopping(tmp_path, fails):
    class Stops(Scripted):
        def _stop(self):
            self._result_logger.calls.append("_stop")

    config = {"rows": [{"x": 1}]}
    made = []
    t = Stops(config, lambda given: made.append(Recorder(given, tmp_path)) or made[0])
    made[0].fails = fails
    row = t.train()
    assert (made[0].config, t.logdir) == (config, f"{tmp_path}/")
    with contextlib.suppress(OSError):
        t.stop()
    assert made[0].calls[0] == row
    assert made[0].calls[1:] == ["flush", "close", "_stop"] or (
        fails and made[0].calls[-1] == "_stop"
    )


@pytest.mark.parametrize("answer", [None, object(), "path"])
def test_a_logger_creator_that_makes_no_logger_is_named(answer):
    with pytest.raises(ConfigError, match="logger_creator"):
        Scripted({}, logger_creator=lambda config: answer)


def test_the_directory_of_a_logger_need_not_exist_yet(make, tmp_path):
    t = make(Scripted, logger_creator=lambda config: NoopLogger(config, tmp_path / "new" / "deep"))
    t.restore_from_object(t.save_to_object())
    assert t.save().startswith(str(tmp_path / "new/deep"))
