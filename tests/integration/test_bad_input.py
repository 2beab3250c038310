"""Each wrong argument is one clear exception that names the culprit, before any worker starts."""

from __future__ import annotations

import functools
import threading

import pytest

import asynctune as tune
from asynctune.errors import ConfigError, ExecutorError, NotSerializable, TrialError, UnsafePath
from asynctune.executors import InlineExecutor, ProcessExecutor

pytestmark = pytest.mark.asyncio


def fine(config):
    tune.report(loss=1.0)


def no_arguments():
    pass


def three_arguments(config, reporter, third):
    pass


class NoTrain(tune.Trainable):
    def _setup(self, config):
        pass


class Mixed(tune.Trainable):
    def _setup(self, config):
        pass

    def step(self):
        return {}


class NotATrainable:
    pass


LOCK = threading.Lock()


def uses_global_lock(config):
    with LOCK:
        tune.report(loss=1)


def closes_over_lock():
    lock = threading.Lock()
    return lambda config: tune.report(loss=lock.locked())


class HoldsLock:
    def __init__(self):
        self.guard = threading.Lock()

    def method(self, config):
        tune.report(loss=1)


async def coroutine_function(config):
    await tune.report(loss=1)


def asynchronous_stop():
    async def stop(trial_id, result):
        return True

    return stop


TRAINABLES = [
    (None, ConfigError, "None"),
    (42, ConfigError, "42"),
    (no_arguments, ConfigError, r"no_arguments\(config\).*, got no_arguments\(\)"),
    (three_arguments, ConfigError, "three_arguments.*partial"),
    (lambda reporter: None, ConfigError, "lambda"),
    (NoTrain, ConfigError, "NoTrain.*neither _train nor step"),
    (Mixed, ConfigError, "Mixed.*step is ignored.*_setup"),
    (NotATrainable, ConfigError, "NotATrainable"),
    (closes_over_lock(), NotSerializable, "closed-over variable 'lock'"),
    (uses_global_lock, None, ""),  # a module's global: the module is imported, not pickled
    (HoldsLock().method, NotSerializable, r"self\.guard"),
    (functools.partial(fine, threading.Lock()), ConfigError, "fine"),
    (functools.partial(three_arguments, third=threading.Lock()), NotSerializable, "'third'"),
]

ARGUMENTS = [
    ({"config": 3}, "config must be .*, got 3"),
    ({"config": {"a": {"grid_search": 5}}}, "grid_search at 'a' in config must be .*, got 5"),
    ({"config": {"a": {"b": [{"grid_search": "xyz"}]}}}, "a/b/0"),
    ({"config": {"a": {"grid_search": []}}}, "'a'.*empty"),
    ({"config": {"a": tune.sample_from(lambda spec: spec.config.nope)}}, "'a'.*nope"),
    ({"config": {"lr": threading.Lock()}}, r"config\['lr'\]"),
    ({"metric": "loss"}, "mode must be 'min' or 'max' with metric='loss', got None"),
    ({"mode": "min"}, "metric must be the name of a metric with mode='min', got None"),
    ({"metric": "loss", "mode": "minimum"}, "mode must be 'min' or 'max', got 'minimum'"),
    ({"metric": 3, "mode": "min"}, "metric must be .*, got 3"),
    ({"num_samples": 0}, "num_samples must be .*, got 0"),
    ({"num_samples": "3"}, "num_samples must be .*, got '3'"),
    ({"num_samples": -1}, "num_samples must be a positive int, got -1 .*time_budget_s"),
    ({"stop": 7}, "stop must be a dict of bounds, .*, got 7$"),
    ({"stop": {"loss": "low"}}, r"stop\['loss'\] must be a number other than NaN, got 'low'"),
    ({"stop": {"a": {"b": 1}}}, r"stop\['a'\].*'a/b'"),
    ({"stop": lambda result: True}, "stop.*trial_id, result"),
    ({"stop": asynchronous_stop()}, "stop must be .*; an async function"),
    ({"stop": tune.Stopper}, "stop.*instance"),
    ({"scheduler": "asha"}, "scheduler must be .*, got 'asha'"),
    ({"resources_per_trial": {"cpu": 10_000}}, "resources_per_trial asks for 10000 cpu"),
    ({"resources_per_trial": {"gpu": 64}}, "resources_per_trial asks for 64 gpu"),
    (
        {"resources_per_trial": {"gpu": 1.5}},
        "resources_per_trial: gpu of Resources must be .*, got 1.5",
    ),
    (
        {"resources_per_trial": {"cpus": 1}},
        "key of resources_per_trial must be one of cpu, .*, got 'cpus'",
    ),
    (
        {"resources_per_trial": {"cpu": -1}},
        "resources_per_trial: cpu of Resources must be .*, got -1",
    ),
    ({"resources_per_trial": {"custom_resources": {"disk": 1}}}, "1 disk"),
    ({"resources_per_trial": 2}, "resources_per_trial must be .*, got 2"),
    ({"max_concurrent_trials": 0}, "max_concurrent_trials must be .*, got 0"),
    ({"time_budget_s": -3}, "time_budget_s must be .*, got -3"),
    ({"trial_timeout_s": 0}, "trial_timeout_s must be .*, got 0"),
    ({"step_timeout_s": "1"}, "step_timeout_s must be .*, got '1'"),
    ({"grace_s": -1}, "grace_s must be .*, got -1"),
    ({"name": "../x"}, r"name must be .*, got '\.\./x'"),
    ({"name": "a/b"}, "name must be .*, got 'a/b'"),
    ({"name": ""}, "name must be .*, got ''"),
    ({"name": "a\0b"}, r"name must be .*, got 'a.x00b'"),
    ({"name": 5}, "name must be .*, got 5"),
    ({"storage_path": 5}, "storage_path: the location of a storage must be .*got 5"),
    ({"storage_path": "s3://"}, "storage_path: .* the form s3://bucket/path, got 's3://'"),
    ({"upload_dir": 5}, "upload_dir: the location of a storage must be .*got 5"),
    (
        {"storage_options": {"region": "x"}},
        "storage_options must be None without upload_dir .*, got values for region",
    ),
    ({"upload_interval_s": 0}, "upload_interval_s must be .*, got 0"),
    (
        {"storage_path": "/tmp", "local_dir": "/tmp"},
        "local_dir must be None with a local storage_path, got '/tmp'",
    ),
    ({"checkpoint_freq": -1}, "checkpoint_freq must be .*, got -1"),
    ({"keep_checkpoints_num": 0}, "keep_checkpoints_num must be an int of at least 1, got 0"),
    ({"checkpoint_score_attr": 3}, "checkpoint_score_attr must be the name of a metric, .*, got 3"),
    ({"max_failures": "x"}, "max_failures must be .*, got 'x'"),
    (
        {"fail_fast": True, "max_failures": 2},
        "fail_fast must be False with max_failures=2, got True",
    ),
    ({"durability": "disk"}, "durability must be .*, got 'disk'"),
    ({"executor": "process"}, "executor must be .*, got 'process'"),
    ({"loggers": "json"}, "loggers must be .*, got 'json'"),
    ({"loggers": [3]}, "each item of loggers must be .*, got 3"),
    ({"callbacks": [print]}, "each item of callbacks must be .*, got <built-in function print>"),
    ({"trial_name_creator": "x"}, "trial_name_creator must be .*, got 'x'"),
    ({"seed": "x"}, "seed must be .*, got 'x'"),
    ({"verbose": -1}, "verbose must be .*, got -1"),
]


@pytest.mark.parametrize(("trainable", "error", "message"), TRAINABLES)
async def test_a_wrong_trainable_is_named(trainable, error, message):
    async with ProcessExecutor(1) as pool:
        if error is None:
            await tune.run(trainable, executor=pool, verbose=0)
            return
        with pytest.raises(error, match=message):
            await tune.run(trainable, executor=pool, verbose=0)
        assert pool.pids == []


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
async def test_a_wrong_argument_is_named_and_nothing_starts(arguments, message, results_dir):
    async with ProcessExecutor(1) as pool:
        with pytest.raises(ConfigError, match=message):
            await tune.run(fine, **({"executor": pool, "verbose": 0} | arguments))
        assert pool.pids == []
    assert not results_dir.exists()


async def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="num_smaples"):
        await tune.run(fine, num_smaples=3)


async def test_what_calling_the_function_gave_is_refused():
    with pytest.raises(ConfigError, match="pass the function itself"):
        await tune.run(coroutine_function({}))
    with pytest.raises(ConfigError, match="pass the class"):
        await tune.run(NoTrain.__new__(NoTrain))


async def test_an_existing_experiment_is_not_written_over(results_dir):
    await tune.run(fine, name="mine", verbose=0)
    with pytest.raises(ConfigError, match=r"name must be .* got 'mine'.*never written over"):
        await tune.run(fine, name="mine", verbose=0)
    with pytest.raises(UnsafePath):
        await tune.run(fine, name="..", verbose=0)


async def test_a_closed_executor_is_refused():
    with pytest.raises(ExecutorError, match="not open"):
        await tune.run(fine, executor=InlineExecutor(), verbose=0)


async def test_checkpoints_of_a_class_that_cannot_save_are_refused():
    class NoSave(tune.Trainable):
        def _train(self):
            return {}

    with pytest.raises(ConfigError, match=r"NoSave.*_save"):
        await tune.run(NoSave, checkpoint_freq=1, verbose=0)


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_a_result_that_is_not_jsons_names_its_key(kind):
    def reports_object(config):
        tune.report(model={"layer": [1, object()]})

    async with ProcessExecutor(1) if kind == "process" else InlineExecutor() as pool:
        with pytest.raises(TrialError, match=r"result\['model'\]\['layer'\]\[1\]") as caught:
            await tune.run(reports_object, executor=pool, verbose=0)
    assert isinstance(caught.value.__cause__, NotSerializable)


async def test_a_report_that_is_not_awaited_is_an_error_of_the_trial():
    async def forgets(config):
        tune.report(loss=1)

    with pytest.raises(TrialError, match="not awaited"):
        await tune.run(forgets, verbose=0)
