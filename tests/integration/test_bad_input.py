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
    (no_arguments, ConfigError, r"no_arguments\(\).*\(config\)"),
    (three_arguments, ConfigError, "three_arguments.*partial"),
    (lambda reporter: None, ConfigError, "lambda"),
    (NoTrain, ConfigError, "NoTrain.*neither _train nor step"),
    (Mixed, ConfigError, "Mixed.*_setup.*step is not looked at"),
    (NotATrainable, ConfigError, "NotATrainable"),
    (closes_over_lock(), NotSerializable, "closed-over variable 'lock'"),
    (uses_global_lock, None, ""),  # a module's global: the module is imported, not pickled
    (HoldsLock().method, NotSerializable, r"self\.guard"),
    (functools.partial(fine, threading.Lock()), ConfigError, "fine"),
    (functools.partial(three_arguments, third=threading.Lock()), NotSerializable, "'third'"),
]

ARGUMENTS = [
    ({"config": 3}, "config is 3"),
    ({"config": {"a": {"grid_search": 5}}}, "'a'.*grid_search.*5"),
    ({"config": {"a": {"b": [{"grid_search": "xyz"}]}}}, "a/b/0"),
    ({"config": {"a": {"grid_search": []}}}, "'a'.*empty"),
    ({"config": {"a": tune.sample_from(lambda spec: spec.config.nope)}}, "'a'.*nope"),
    ({"config": {"lr": threading.Lock()}}, r"config\['lr'\]"),
    ({"metric": "loss"}, "mode is not given"),
    ({"mode": "min"}, "metric is not given"),
    ({"metric": "loss", "mode": "minimum"}, "mode is 'minimum'"),
    ({"metric": 3, "mode": "min"}, "metric is 3"),
    ({"num_samples": 0}, "num_samples is 0"),
    ({"num_samples": "3"}, "num_samples is '3'"),
    ({"num_samples": -1}, "num_samples is -1.*time_budget_s"),
    ({"stop": 7}, "stop is 7"),
    ({"stop": {"loss": "low"}}, r"stop\['loss'\] is 'low'"),
    ({"stop": {"a": {"b": 1}}}, r"stop\['a'\].*'a/b'"),
    ({"stop": lambda result: True}, "stop.*trial_id, result"),
    ({"stop": asynchronous_stop()}, "stop.*async def"),
    ({"stop": tune.Stopper}, "stop.*instance"),
    ({"scheduler": "asha"}, "scheduler is 'asha'"),
    ({"resources_per_trial": {"cpu": 10_000}}, "resources_per_trial asks for 10000 cpu"),
    ({"resources_per_trial": {"gpu": 64}}, "resources_per_trial asks for 64 gpu"),
    ({"resources_per_trial": {"gpu": 1.5}}, "gpu is 1.5"),
    ({"resources_per_trial": {"cpus": 1}}, "unknown key 'cpus'"),
    ({"resources_per_trial": {"cpu": -1}}, "cpu is -1"),
    ({"resources_per_trial": {"custom_resources": {"disk": 1}}}, "1 disk"),
    ({"resources_per_trial": 2}, "resources_per_trial is 2"),
    ({"max_concurrent_trials": 0}, "max_concurrent_trials is 0"),
    ({"time_budget_s": -3}, "time_budget_s is -3"),
    ({"trial_timeout_s": 0}, "trial_timeout_s is 0"),
    ({"step_timeout_s": "1"}, "step_timeout_s is '1'"),
    ({"grace_s": -1}, "grace_s is -1"),
    ({"name": "../x"}, r"name is '\.\./x'"),
    ({"name": "a/b"}, "name is 'a/b'"),
    ({"name": ""}, "name is ''"),
    ({"name": "a\0b"}, "name is"),
    ({"name": 5}, "name is 5"),
    ({"storage_path": 5}, "storage_path: 5 is no place"),
    ({"storage_path": "s3://"}, "storage_path: 's3://' is no place in a bucket"),
    ({"upload_dir": 5}, "upload_dir: 5 is no place"),
    ({"storage_options": {"region": "x"}}, "storage_options is given"),
    ({"upload_interval_s": 0}, "upload_interval_s is 0"),
    ({"storage_path": "/tmp", "local_dir": "/tmp"}, "storage_path and local_dir"),
    ({"checkpoint_freq": -1}, "checkpoint_freq is -1"),
    ({"keep_checkpoints_num": 0}, "keep_checkpoints_num is 0"),
    ({"checkpoint_score_attr": 3}, "checkpoint_score_attr is 3"),
    ({"max_failures": "x"}, "max_failures is 'x'"),
    ({"fail_fast": True, "max_failures": 2}, "fail_fast.*max_failures=2"),
    ({"durability": "disk"}, "durability is 'disk'"),
    ({"executor": "process"}, "executor is 'process'"),
    ({"loggers": "json"}, "loggers is 'json'"),
    ({"loggers": [3]}, "loggers has 3"),
    ({"callbacks": [print]}, "callbacks has"),
    ({"trial_name_creator": "x"}, "trial_name_creator is 'x'"),
    ({"seed": "x"}, "seed is 'x'"),
    ({"verbose": -1}, "verbose is -1"),
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
    with pytest.raises(ConfigError, match=r"name is 'mine'.*never written over"):
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
