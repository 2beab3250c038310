"""How runs and trials end: what hooks return, what a run raises, and what the error carries."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.errors import MetricMissing, TrialError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.schedulers import FIFOScheduler

pytestmark = pytest.mark.asyncio

RETURNED = [
    1,
    True,
    "cleaned up",
    [1],
    {"a": 1},
    object(),
    print,
    math.nan,
    b"bytes",
    ValueError("x"),
    range(3),
]


def returning(hook, value, *, is_async=False):
    """A Trainable with a hook that returns a value."""

    def plain(self, *args):
        return value

    async def asynchronous(self, *args):
        return value

    body = {
        "_train": lambda self: {"n": self.iteration + 1},
        "_save": lambda self, directory: {"n": self.iteration},
        "_restore": lambda self, checkpoint: None,
        hook: asynchronous if is_async else plain,
    }
    return type("Returns", (tune.Trainable,), body)


async def rows_of(cls, executor):
    """The rows of two trials; neither has anything in error.txt."""
    analysis = await tune.run(
        cls, num_samples=2, stop={"training_iteration": 2}, checkpoint_at_end=True,
        executor=executor, verbose=0,
    )  # fmt: skip
    for trial in analysis.trials:
        assert trial.status == "TERMINATED"
        assert not Path(trial.logdir, "error.txt").exists()
    return [len(trial.results) for trial in analysis.trials]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("hook", ["_stop", "_setup", "_log_result", "_restore"])
async def test_what_a_hook_returns_is_its_own_business_on_the_loop(hook, is_async):
    async with InlineExecutor(2) as pool:
        for value in RETURNED:
            assert await rows_of(returning(hook, value, is_async=is_async), pool) == [2, 2]


@pytest.mark.parametrize("hook", ["_stop", "_setup", "_log_result"])
async def test_what_a_hook_returns_is_its_own_business_in_a_worker(hook):
    async with ProcessExecutor(2) as pool:
        for value in RETURNED:
            assert await rows_of(returning(hook, value), pool) == [2, 2]


class LaterSpelling(tune.Trainable):
    def step(self):
        return {"n": 1}

    def save_checkpoint(self, directory):
        return {}

    def cleanup(self):
        return 1


async def test_what_cleanup_returns_is_its_own_business():
    async with ProcessExecutor(2) as pool:
        assert await rows_of(LaterSpelling, pool) == [2, 2]
        async with pool.actor(LaterSpelling) as actor:
            assert await actor.stop() is None


def fails(config):
    tune.report(n=1)
    raise RuntimeError(f"trial {config['i']} fails")


@pytest.mark.parametrize("executor", [InlineExecutor, ProcessExecutor])
async def test_a_run_that_may_not_raise_returns_after_the_first_failure_too(executor):
    async with executor(1) as pool:
        analysis = await tune.run(
            fails, config={"i": tune.grid_search([0, 1, 2])}, fail_fast=True,
            raise_on_failed_trial=False, executor=pool, verbose=0,
        )  # fmt: skip
    first, *others = analysis.trials
    assert first.status == "ERROR"
    assert {trial.stop_reason for trial in others} <= {"cancelled", "failed"}
    assert len(analysis.errors) >= 1


async def test_the_first_failure_ends_a_run_that_may_raise():
    with pytest.raises(TrialError, match="trial 0 fails") as raised:
        await tune.run(
            fails,
            config={"i": tune.grid_search([0, 1])},
            fail_fast=True,
            max_concurrent_trials=1,
            verbose=0,
        )
    assert raised.value.analysis.trials[0].status == "ERROR"


class Breaks(FIFOScheduler):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_trial_result(self, trial, result):
        raise self.error


class Refuses(Exception):
    """An exception of the user that takes no attribute."""

    def __setattr__(self, name, value):
        if name == "analysis":
            raise AttributeError(name)
        super().__setattr__(name, value)


def reports(config):
    tune.report(n=1)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), tune.TuneError("no")])
async def test_every_exception_that_ends_a_run_carries_the_analysis_and_says_so(error, results_dir):
    with pytest.raises(type(error)) as raised:
        await tune.run(reports, scheduler=Breaks(error), name="x", verbose=0)
    assert raised.value is error
    assert [trial.last_result["n"] for trial in error.analysis.trials] == [1]
    assert [
        note for note in error.__notes__ if "`analysis`" in note and str(results_dir / "x") in note
    ]


async def test_a_missing_metric_carries_the_analysis():
    with pytest.raises(MetricMissing) as raised:
        await tune.run(reports, metric="loss", mode="min", verbose=0)
    assert len(raised.value.analysis.trials) == 1


async def test_an_exception_that_takes_no_attribute_is_raised_as_it_is():
    error = Refuses("no")
    with pytest.raises(Refuses) as raised:
        await tune.run(reports, scheduler=Breaks(error), verbose=0)
    assert raised.value is error
    assert not getattr(error, "__notes__", [])


async def test_awaiting_the_handle_again_gives_the_same_error_with_one_note():
    experiment = await tune.start(reports, scheduler=Breaks(ValueError("no")), verbose=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as raised:
            await experiment
    assert len(raised.value.__notes__) == 1
    await experiment.aclose()


@pytest.mark.parametrize("interruption", [MemoryError, OSError, SystemError])
async def test_a_run_that_is_interrupted_before_its_first_record_leaves_its_name_free(
    interruption, monkeypatch, results_dir
):
    def interrupted(*args):
        raise interruption

    with monkeypatch.context() as patched, pytest.raises(interruption):
        patched.setattr("asynctune.runner.runner.start_record", interrupted)
        async with InlineExecutor(1) as pool:
            await tune.run(reports, name="x", executor=pool, verbose=0)
    assert (results_dir / "x" / "journal").read_bytes() == b""
    analysis = await tune.run(reports, name="x", verbose=0)
    assert [trial.status for trial in analysis.trials] == ["TERMINATED"]


class Scores(tune.Trainable):
    def _setup(self, config):
        self.n = 0

    def _train(self):
        self.n += 1
        score = [0.5, 0.9, 0.4, 0.3][self.n - 1]
        late = {"late": score} if self.n > 2 else {}
        return {"accuracy": score, "val": {"loss": -score}, "done": self.n == 4, **late}

    def _save(self, directory):
        return {"n": self.n}

    def _restore(self, checkpoint):
        self.n = checkpoint["n"]


async def kept(attr, **arguments):
    async with InlineExecutor(1) as pool:
        analysis = await tune.run(
            Scores, checkpoint_freq=1, keep_checkpoints_num=1, checkpoint_score_attr=attr,
            executor=pool, verbose=0, **arguments,
        )  # fmt: skip
    return [[checkpoint.iteration for checkpoint in trial.checkpoints] for trial in analysis.trials]


@pytest.mark.parametrize(
    ("attr", "iterations"),
    [
        ("accuracy", [2, 4]),
        ("min-accuracy", [4]),
        ("min-val/loss", [2, 4]),
        ("late", [3, 4]),
        (None, [4]),
    ],
)
async def test_checkpoints_are_kept_by_a_metric_that_rows_have(attr, iterations, caplog):
    assert await kept(attr) == [iterations]
    assert ("asks for" in caplog.text) == (attr == "late")


@pytest.mark.parametrize("attr", ["acuracy", "min-acuracy", "loss", "val", "accuracy/x"])
async def test_no_checkpoint_is_deleted_by_a_ranking_that_no_row_has(attr, caplog):
    assert await kept(attr, num_samples=2) == [[1, 2, 3, 4]] * 2
    assert caplog.text.count("checkpoint_score_attr asks for") == 1
    assert f"asks for {attr.removeprefix('min-')!r}" in caplog.text
    assert "accuracy, " in caplog.text


@pytest.mark.parametrize("metric", ["acuracy", "val", "accuracy/x", ""])
async def test_a_mistyped_metric_of_a_table_is_named_with_those_that_are_there(metric):
    async with InlineExecutor(1) as pool:
        analysis = await tune.run(Scores, checkpoint_freq=1, executor=pool, verbose=0)

    def look():
        (trial,) = analysis.trials
        for call in (
            lambda: analysis.rows(metric, "max"),
            lambda: analysis.dataframe(metric, "max"),
            lambda: analysis.get_trial_checkpoints_paths(trial, metric),
            lambda: analysis.get_best_trial(metric, "max"),
            lambda: analysis.get_best_config(metric, "max"),
        ):
            with pytest.raises(MetricMissing) as raised:
                call()
            assert raised.value.metric == metric
            assert "accuracy" in raised.value.found
        assert analysis.rows("late", "max")[0]["late"] == 0.4
        paths = analysis.get_trial_checkpoints_paths(trial, "late")
        assert [value for _, value in paths] == [None, None, 0.4, 0.3]

    await asyncio.to_thread(look)


class Fails(tune.Trainable):
    def _train(self):
        raise RuntimeError("no row")


async def test_a_table_of_trials_without_a_row_has_no_metric_to_miss():
    async with InlineExecutor(1) as pool:
        analysis = await tune.run(Fails, raise_on_failed_trial=False, executor=pool, verbose=0)
    assert [row["status"] for row in analysis.rows("acuracy", "max")] == ["ERROR"]
    assert analysis.get_trial_checkpoints_paths(analysis.trials[0], "acuracy") == []
