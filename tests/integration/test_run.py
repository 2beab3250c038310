"""``tune.run`` and ``tune.start`` from end to end, on both executors."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
import threading
from pathlib import Path

import anyio
import pytest

import asynctune as tune
from asynctune.errors import ConfigError, MetricMissing, TrialError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.experiment.status import StopReason
from asynctune.resources import Resources
from asynctune.trainable.base import Trainable

pytestmark = pytest.mark.asyncio
VARYING = {
    "experiment_id", "trial_id", "experiment_tag", "pid", "hostname", "node_ip", "date", "timestamp",
    "time_this_iter_s", "time_total_s", "time_since_restore",
}  # fmt: skip

ROWS = [
    {"loss": 1.5, "nested": {"a": (1, 2), "b": None}, "text": "x", "timesteps_this_iter": 3},
    {"loss": float("nan"), "nested": {"a": [3]}, "flag": True, "timesteps_this_iter": 4},
    {"loss": 0.25, "late": math.inf, "mean_loss": 0.0, "episodes_this_iter": 1, "done": True},
]


class FromList(Trainable):
    def _setup(self, config):
        self.rows = iter(ROWS)

    def _train(self):
        return next(self.rows)


def with_reporter(config, reporter):
    for row in ROWS:
        reporter(**row)


def with_report(config):
    for row in ROWS:
        tune.report(row)


def with_track(config):
    for row in ROWS:
        tune.track.log(**row)


async def async_reporter(config, reporter):
    for row in ROWS:
        await reporter(**row)


async def async_report(config):
    for row in ROWS:
        await tune.report(row)


def generator(config):
    yield from ROWS


async def async_generator(config):
    for row in ROWS:
        yield row


class Bound:
    def method(self, config, reporter):
        with_reporter(config, reporter)


FORMS = [
    FromList, with_reporter, with_report, with_track, async_reporter, async_report, generator,
    async_generator, functools.partial(with_reporter), Bound().method,
]  # fmt: skip


def executor(kind):
    return ProcessExecutor(2) if kind == "process" else InlineExecutor()


def steady(rows):
    kept = [{k: v for k, v in row.items() if k not in VARYING} for row in rows]
    return json.loads(json.dumps(kept), parse_constant=str)


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_every_form_of_one_list_of_results_gives_the_same_rows(kind):
    async with executor(kind) as pool:
        seen = []
        for form in FORMS:
            analysis = await tune.run(form, executor=pool, verbose=0)
            (trial,) = analysis.trials
            seen.append(steady(trial.results))
            assert [row["training_iteration"] for row in trial.results] == [1, 2, 3]
            assert trial.status == "TERMINATED"
            assert trial.results[0]["trial_id"] == trial.trial_id
    assert seen[0][0]["nested"] == {"a": [1, 2], "b": None}
    assert seen[0][1]["loss"] == "NaN"
    assert seen[0][2]["late"] == "Infinity"
    assert seen[0][2]["neg_mean_loss"] == 0.0
    assert [row["timesteps_total"] for row in seen[0]] == [3, 7, 7]
    for form, rows in zip(FORMS, seen, strict=True):
        assert rows == seen[0], form


def report_steps(config):
    for step in range(config.get("steps", 5)):
        tune.report(step=step, loss=abs(config.get("x", 0) - step))


async def test_live_and_from_disk_the_analysis_is_the_same():
    space = {"x": tune.grid_search([0, 3, 4])}
    live = await tune.run(report_steps, config=space, metric="loss", mode="min", verbose=0)
    stored = tune.Analysis(live.path)
    assert [t.trial_id for t in live.trials] == [t.trial_id for t in stored.trials]
    for ours, theirs in zip(live.trials, stored.trials, strict=True):
        assert ours.results == theirs.results
        assert ours.config == theirs.config
        assert (ours.status, ours.stop_reason) == (theirs.status, theirs.stop_reason)
    assert live.best_config == stored.best_config == {"x": 0}
    assert stored.best_result["loss"] == 0
    assert live.get_best_config("step", "max", "last") == {"x": 0}
    assert live.stats()["results"] == stored.stats()["results"] == 15
    frame = live.dataframe("loss", "min")
    assert list(frame["config/x"]) == [0, 3, 4]
    assert set(live.trial_dataframes) == {t.logdir for t in live.trials}


async def test_files_of_a_trial_lie_in_a_directory_named_by_its_id():
    analysis = await tune.run(
        report_steps, config={"x": tune.grid_search(["a/b", "../c"]), "steps": 0}, verbose=0
    )
    for trial in analysis.trials:
        assert os.path.basename(trial.logdir) == trial.trial_id
        files = set(os.listdir(trial.logdir))
        assert files == {"params.json", "result.json", "progress.csv", "output.log"}
        assert json.loads(Path(trial.logdir, "params.json").read_text()) == trial.config
        assert Path(trial.logdir).stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(analysis.path)) == sorted(
        ["journal", "lock", *(t.trial_id for t in analysis.trials)]
    )


async def test_result_json_is_strict_and_complete():
    analysis = await tune.run(with_report, verbose=0)
    lines = Path(analysis.trials[0].logdir, "result.json").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["loss"] for row in rows] == [1.5, None, 0.25]
    header = Path(analysis.trials[0].logdir, "progress.csv").read_text().splitlines()[0]
    assert "late" in header.split(",")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ({"training_iteration": 2}, 2),
        ({"step": 2, "training_iteration": 9}, 3),
        (lambda trial_id, result: result["step"] >= 3, 4),
        (None, 5),
    ],
)
async def test_stop_in_its_forms(stop, expected):
    analysis = await tune.run(report_steps, stop=stop, executor=None, verbose=0)
    assert analysis.trials[0].num_results == expected
    reason = StopReason.DONE if stop is None else StopReason.CRITERION
    assert analysis.trials[0].stop_reason is reason


class StopsAll(tune.Stopper):
    def __init__(self):
        self.count = 0

    def __call__(self, trial_id, result):
        self.count += 1
        return False

    def stop_all(self):
        return self.count >= 7


async def test_a_stopper_ends_a_run_without_an_end():
    analysis = await tune.run(report_steps, stop=StopsAll(), num_samples=-1, verbose=0)
    assert 7 <= analysis.stats()["results"] <= 9


async def test_the_same_seed_draws_the_same_configurations():
    space = {"a": tune.uniform(0, 1), "b": tune.sample_from(lambda spec: spec.config.a * 2)}

    async def configs(seed):
        async with InlineExecutor() as pool:
            analysis = await tune.run(
                generator, config=space, num_samples=4, seed=seed, executor=pool, verbose=0
            )
        return [trial.config for trial in analysis.trials]

    first = await configs(7)
    assert first == await configs(7)
    assert first != await configs(8)
    assert all(c["b"] == c["a"] * 2 for c in first)


async def test_any_number_of_readers_sees_every_result_whenever_it_comes():
    async def collect(experiment, into):
        async for row in experiment:
            into.append((row["trial_id"], row["training_iteration"]))

    early, late, after = [], [], []
    async with tune.start(report_steps, num_samples=3, verbose=0) as experiment:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, experiment, early)
            await experiment.trials[0] if experiment.trials else None
            tasks.start_soon(collect, experiment, late)
        async for row in experiment:
            assert row["step"] == 0
            break
    await collect(experiment, after)
    assert len(early) == 15
    assert early == late == after


async def test_a_late_reader_reads_from_the_file_what_memory_no_longer_has():
    steps = 3000  # more than the journal keeps at hand
    async with (
        InlineExecutor() as pool,
        tune.start(report_steps, config={"steps": steps}, executor=pool, verbose=0) as experiment,
    ):
        await experiment
    assert [row["step"] async for row in experiment] == list(range(steps))


async def test_a_handle_awaited_by_start_runs_on_and_is_cancelled_by_aclose():
    async with ProcessExecutor(1) as pool:
        experiment = await tune.start(hangs, executor=pool, verbose=0, grace_s=0.1)
        async for row in experiment:
            assert row["pid"] in pool.pids
            break
        assert experiment.trials[0].status == "RUNNING"
        await experiment.aclose()
        assert experiment.is_over
        assert experiment.trials[0].stop_reason is StopReason.CANCELLED
        assert row["pid"] not in pool.pids
        assert (await experiment).trials[0].num_results == 1


def hangs(config):
    tune.report(step=0)
    threading.Event().wait()


def cleans_up(config):
    try:
        for step in range(10**9):
            tune.report(step=step)
    finally:
        Path("cleaned").touch()


async def test_stopping_a_trial_by_hand_lets_its_finally_blocks_run_and_others_go_on():
    async with tune.start(
        cleans_up, num_samples=2, max_concurrent_trials=2, verbose=0
    ) as experiment:
        started = set()
        async for row in experiment:
            started.add(row["trial_id"])
            if len(started) == 2:
                break
        first, second = experiment.trials
        first.stop()
        last = await first
        assert first.stop_reason is StopReason.USER
        assert last == first.last_result
        assert not second.status.is_final
        experiment.stop()
    assert second.stop_reason is StopReason.EXPERIMENT
    assert all(Path(t.logdir, "cleaned").exists() for t in (first, second))


async def test_a_trial_added_by_hand_runs():
    async with tune.start(report_steps, config={"x": 1}, verbose=0) as experiment:
        added = experiment.add_trial({"x": 2, "steps": 3})
        assert (await added)["step"] == 2
    assert len(experiment.trials) == 2
    with pytest.raises(tune.TuneError, match="add_trial"):
        experiment.add_trial({})


async def test_cancelling_the_task_that_awaits_run_lets_trials_clean_up():
    async with ProcessExecutor(2) as pool:
        ready = asyncio.Event()

        class Ready(tune.Callback):
            async def on_trial_result(self, trial, result):
                ready.set()

        task = asyncio.create_task(
            tune.run(cleans_up, num_samples=4, executor=pool, callbacks=[Ready()], verbose=0)
        )
        await ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
    (path,) = Path(os.environ["ASYNCTUNE_RESULTS_DIR"]).iterdir()
    trials = tune.Analysis(path).trials
    assert all(trial.stop_reason is StopReason.CANCELLED for trial in trials)
    for trial in trials:
        assert Path(trial.logdir, "cleaned").exists() == (trial.started_at is not None)


async def test_a_timeout_around_run_kills_what_does_not_clean_up():
    async with ProcessExecutor(2) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await tune.run(hangs, num_samples=2, grace_s=0.1, executor=pool, verbose=0)
        assert pool.pids == []
        with anyio.move_on_after(0.5) as scope:
            await tune.run(hangs, num_samples=2, grace_s=0.1, executor=pool, verbose=0)
        assert scope.cancelled_caught
        assert pool.pids == []


async def test_an_exception_in_the_block_comes_out_itself_and_the_run_is_cancelled():
    class Mine(Exception):
        pass

    with pytest.raises(Mine):
        async with tune.start(cleans_up, verbose=0) as experiment:
            async for _ in experiment:
                raise Mine
    assert experiment.is_over
    assert experiment.trials[0].stop_reason is StopReason.CANCELLED


async def test_cancelling_one_who_awaits_the_handle_leaves_the_run_alone():
    experiment = await tune.start(cleans_up, verbose=0)
    async for _ in experiment:
        break
    with anyio.move_on_after(0):
        await experiment
    assert not experiment.is_over
    experiment.stop()
    assert (await experiment).trials[0].status == "TERMINATED"


def fails_at(config):
    for step in range(5):
        if step == config["at"]:
            raise ValueError(f"planted at {step}")
        tune.report(step=step)


async def test_a_failed_trial_raises_its_own_error_with_the_remote_traceback():
    with pytest.raises(TrialError, match="ValueError: planted at 2") as caught:
        await tune.run(fails_at, config={"at": tune.grid_search([2, 9, 3])}, verbose=0)
    error = caught.value
    assert 'raise ValueError(f"planted at {step}")' in str(error.__cause__)
    assert len(error.failures) == 2
    assert error.analysis.stats()["by_status"] == {"ERROR": 2, "TERMINATED": 1}
    assert [t.num_results for t in error.analysis.trials] == [2, 5, 3]
    failed = error.analysis.trials[0]
    assert "planted at 2" in Path(failed.logdir, "error.txt").read_text()
    assert any("2 of 3 trials failed" in note for note in error.__notes__)


async def test_failures_can_be_looked_at_instead():
    analysis = await tune.run(fails_at, config={"at": 1}, raise_on_failed_trial=False, verbose=0)
    (error,) = analysis.errors.values()
    assert "planted at 1" in str(error)
    assert analysis.trials[0].status == "ERROR"
    stored = tune.Analysis(analysis.path)
    assert "planted at 1" in str(stored.trials[0].error)


class Counter(Trainable):
    def _setup(self, config):
        self.value = 0

    def _train(self):
        self.value += 1
        if self.config.get("fail_at") == self.value and not os.path.exists("failed"):
            Path("failed").touch()
            raise ValueError("planted")
        return {"value": self.value, "score": -abs(self.value - 3)}

    def _save(self, directory):
        return {"value": self.value}

    def _restore(self, state):
        self.value = state["value"]

    def _export_model(self, formats, directory):
        path = os.path.join(directory, "model")
        Path(path).write_text(str(self.value))
        return dict.fromkeys(formats, path)


async def test_a_retry_continues_from_the_newest_checkpoint_and_no_row_comes_twice():
    analysis = await tune.run(
        Counter,
        config={"fail_at": 4},
        stop={"value": 6},
        checkpoint_freq=2,
        max_failures=1,
        verbose=0,
    )
    (trial,) = analysis.trials
    assert [row["value"] for row in trial.results] == [1, 2, 3, 4, 5, 6]
    assert [row["training_iteration"] for row in trial.results] == [1, 2, 3, 4, 5, 6]
    assert trial.num_failures == 1
    assert tune.Analysis(analysis.path).trials[0].results == trial.results


async def test_checkpoints_are_kept_by_score_and_the_model_is_exported():
    analysis = await tune.run(
        Counter, stop={"value": 6}, checkpoint_freq=1, keep_checkpoints_num=2,
        checkpoint_score_attr="score", export_formats="model", verbose=0, metric="score", mode="max",
    )  # fmt: skip
    (trial,) = analysis.trials
    kept = sorted(p.name for p in Path(trial.logdir).glob("checkpoint_*"))
    assert kept == ["checkpoint_3", "checkpoint_4", "checkpoint_6"]
    assert analysis.best_checkpoint.iteration == 3
    assert Path(trial.exported["model"]).read_text() == "6"
    again = await tune.run(
        Counter, stop={"value": 8}, restore=analysis.best_checkpoint.path, verbose=0
    )
    assert [row["value"] for row in again.trials[0].results] == [4, 5, 6, 7, 8]


def checkpoints_itself(config, reporter):
    begin = reporter.checkpoint["step"] + 1 if reporter.checkpoint else 0
    for step in range(begin, 6):
        if step == 4 and not os.path.exists("failed"):
            Path("failed").touch()
            raise ValueError("planted")
        reporter(step=step, checkpoint={"step": step} if step % 2 else None)


async def test_a_function_continues_from_the_checkpoint_that_it_reported():
    analysis = await tune.run(checkpoints_itself, max_failures=1, verbose=0)
    assert [row["step"] for row in analysis.trials[0].results] == [0, 1, 2, 3, 4, 5]
    assert analysis.trials[0].checkpoint.iteration == 6


async def test_step_and_trial_timeouts_and_the_budget_end_what_hangs():
    limits = {"grace_s": 0.1, "verbose": 0}
    with pytest.raises(tune.TrialTimeout, match="step_timeout_s"):
        await tune.run(hangs, step_timeout_s=0.3, **limits)
    with pytest.raises(tune.TrialTimeout, match="trial_timeout_s"):
        await tune.run(hangs, trial_timeout_s=0.3, **limits)
    analysis = await tune.run(hangs, time_budget_s=0.4, num_samples=-1, **limits)
    assert {t.stop_reason for t in analysis.trials} == {StopReason.TIME_BUDGET}


def of_one_name(value):
    def same_name(config):
        tune.report(value=value)

    return same_name


async def test_two_functions_of_one_name_in_two_runs_on_one_pool_run_their_own_code():
    async with ProcessExecutor(2) as pool:
        found = {}

        async def one(value):
            analysis = await tune.run(of_one_name(value), num_samples=4, executor=pool, verbose=0)
            found[value] = {t.last_result["value"] for t in analysis.trials}

        async with anyio.create_task_group() as tasks:
            for value in "abc":
                tasks.start_soon(one, value)
    assert found == {value: {value} for value in "abc"}


@pytest.mark.timing
@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_coroutines_run_at_once(count):
    alive = 0
    everyone = asyncio.Event()

    async def waits(config):
        nonlocal alive
        alive += 1
        if alive == count:
            everyone.set()
        await everyone.wait()
        await tune.report(n=1)

    async with InlineExecutor() as pool:
        analysis = await tune.run(waits, num_samples=count, executor=pool, loggers=[], verbose=0)
    assert alive == count
    assert analysis.stats()["results"] == count


class Big(Trainable):
    @classmethod
    def default_resource_request(cls, config):
        return Resources(cpu=config["cpu"])

    @classmethod
    def resource_help(cls, config):
        return f"Lower cpu, which is {config['cpu']}."

    def _train(self):
        return {"threads": os.environ["OMP_NUM_THREADS"], "done": True}


async def test_resources_come_from_the_trainable_and_impossible_ones_are_refused_with_its_help(
    monkeypatch,
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    async with ProcessExecutor(cpus=2) as pool:
        with pytest.raises(ConfigError, match=r"1000 cpu.*2 in all.*Lower cpu, which is 1000"):
            await tune.run(Big, config={"cpu": 1000}, executor=pool, verbose=0)
        with pytest.raises(ConfigError, match="resources_per_trial"):
            await tune.run(
                Big, config={"cpu": 1}, resources_per_trial={"cpu": 1}, executor=pool, verbose=0
            )
        analysis = await tune.run(
            Big, config={"cpu": tune.grid_search([1, 2])}, executor=pool, verbose=0
        )
    assert [t.last_result["threads"] for t in analysis.trials] == ["1", "2"]


async def test_a_missing_metric_ends_the_run_and_lists_those_that_are_there():
    for wrong in ({"metric": "lss", "mode": "min"}, {"stop": {"lss": 1}}):
        with pytest.raises(MetricMissing, match=r"lss.*loss, .*step"):
            await tune.run(report_steps, verbose=0, **wrong)


async def test_a_stopper_or_scheduler_that_raises_ends_the_run_with_its_exception():
    class Planted(Exception):
        pass

    def stop(trial_id, result):
        raise Planted("stop")

    class Scheduler(tune.schedulers.TrialScheduler):
        def on_trial_result(self, trial, result):
            raise Planted("scheduler")

    for wrong in ({"stop": stop}, {"scheduler": Scheduler()}):
        with pytest.raises(Planted):
            await tune.run(report_steps, num_samples=3, verbose=0, **wrong)


async def test_a_scheduler_that_says_stop_stops_and_is_told_of_ends():
    calls = []

    class Halving(tune.schedulers.TrialScheduler):
        def on_trial_result(self, trial, result):
            assert self.metric == "loss"
            return self.STOP if result["step"] == 1 else self.CONTINUE

        def on_trial_complete(self, trial, result):
            calls.append(trial.stop_reason)

    scheduler = Halving()
    analysis = await tune.run(
        report_steps, num_samples=2, scheduler=scheduler, metric="loss", mode="min", verbose=0
    )
    assert [t.num_results for t in analysis.trials] == [2, 2]
    assert calls == [StopReason.SCHEDULER] * 2
    with pytest.raises(ConfigError, match="already used"):
        await tune.run(report_steps, scheduler=scheduler, verbose=0)


async def test_a_callback_sees_everything_and_one_that_raises_is_dropped(caplog):
    seen = []

    class Watch(tune.Callback):
        async def on_trial_start(self, trial):
            seen.append("start")

        def on_trial_result(self, trial, result):
            seen.append(result["step"])

        def on_trial_complete(self, trial):
            seen.append(str(trial.status))

        def on_run_end(self, reason):
            seen.append(reason)

    class Raises(tune.Callback):
        def on_trial_result(self, trial, result):
            raise RuntimeError("planted")

    await tune.run(report_steps, config={"steps": 2}, callbacks=[Raises(), Watch()], verbose=0)
    assert seen == ["start", 0, 1, "TERMINATED", "done"]
    assert caplog.text.count("is dropped") == 1


async def test_progress_is_a_line_a_trial_and_verbose_0_is_silent(capsys):
    await tune.run(report_steps, metric="loss", mode="min", num_samples=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["[1/2]", "[2/2]"]
    assert "best loss=0" in lines[1]
    await tune.run(report_steps, verbose=0)
    assert capsys.readouterr().out == ""


async def test_what_trials_print_is_shown_on_request(capsys):
    def prints(config):
        print("hello from the trial")
        tune.report(n=1)

    await tune.run(prints, log_to_driver=True, verbose=0)
    assert "hello from the trial" in capsys.readouterr().out


async def test_a_large_leaf_of_the_config_reaches_the_trial_whole_and_the_rows_in_brief():
    import numpy as np

    def measures(config):
        tune.report(size=config["data"].size, text=len(config["text"]))

    big = {"data": np.zeros((1000, 2000)), "text": "x" * 50_000, "many": list(range(5000))}
    analysis = await tune.run(measures, config=big, verbose=0)
    (trial,) = analysis.trials
    assert (trial.last_result["size"], trial.last_result["text"]) == (2_000_000, 50_000)
    assert trial.last_result["config"]["data"] == "<numpy.ndarray of shape 1000x2000>"
    assert trial.config["data"] is big["data"]
    assert Path(analysis.path, "journal").stat().st_size < 100_000


async def test_a_reader_that_changes_its_row_changes_nobody_elses():
    async with tune.start(report_steps, verbose=0) as experiment:
        async for row in experiment:
            row.clear()
    assert [row["step"] async for row in experiment] == list(range(5))
    lines = Path(experiment.trials[0].logdir, "result.json").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5))


async def test_a_cancelled_wait_of_a_reader_loses_and_repeats_nothing():
    steps = 3000
    async with InlineExecutor() as pool:
        experiment = await tune.start(
            report_steps, config={"steps": steps}, executor=pool, loggers=[], verbose=0
        )
        await experiment
    reader = aiter(experiment)
    for ticks in range(30):
        task = asyncio.ensure_future(anext(reader))
        for _ in range(ticks % 3):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            break
    first = 0 if task.cancelled() else 1
    assert [row["step"] async for row in reader] == list(range(first, steps))


async def test_a_callback_that_raises_a_cancellation_of_its_own_is_dropped(caplog):
    class Odd(tune.Callback):
        def __init__(self, error):
            self.error = error

        async def on_trial_result(self, trial, result):
            raise self.error

    class InThread(Odd):
        def on_trial_result(self, trial, result):
            raise self.error

    odd = (asyncio.CancelledError(), SystemExit(3), GeneratorExit(), StopIteration())
    for callback in [kind(error) for kind in (Odd, InThread) for error in odd]:
        caplog.clear()
        await tune.run(report_steps, callbacks=[callback], verbose=0)
        assert caplog.text.count("is dropped") == 1, callback.error


async def test_names_of_trials_are_the_creators_live_and_from_disk():
    analysis = await tune.run(
        report_steps, trial_name_creator=lambda trial: f"mine {trial.config}", verbose=0
    )
    assert str(analysis.trials[0]) == str(tune.Analysis(analysis.path).trials[0]) == "mine {}"

    def fails(trial):
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        await tune.run(report_steps, trial_name_creator=fails, verbose=0)


async def test_a_config_that_cannot_travel_is_the_failure_of_its_own_trial():
    space = {"x": tune.grid_search([1, threading.Lock(), 3])}
    with pytest.raises(TrialError, match=r"cannot start.*config\['x'\]") as caught:
        await tune.run(report_steps, config=space, verbose=0)
    assert [t.status for t in caught.value.analysis.trials] == ["TERMINATED", "ERROR", "TERMINATED"]


async def test_a_trial_added_by_hand_is_drawn_and_checked():
    async with tune.start(cleans_up, verbose=0) as experiment:
        for wrong in (None, [1], {"lock": threading.Lock()}):
            with pytest.raises(ConfigError):
                experiment.add_trial(wrong)
        assert isinstance(experiment.add_trial({"x": tune.uniform(0, 1)}).config["x"], float)
        experiment.stop()


async def test_who_awaits_the_trial_that_ended_the_run_hears_of_it():
    with pytest.raises(MetricMissing):
        async with tune.start(report_steps, metric="nope", mode="min", verbose=0) as experiment:
            with pytest.raises(MetricMissing):
                await experiment.trials[0] if experiment.trials else await experiment
            await experiment


async def test_a_large_request_of_one_run_is_not_overtaken_for_ever_by_small_ones_of_another():
    async with (
        ProcessExecutor(2, cpus=2) as pool,
        tune.start(report_steps, num_samples=40, executor=pool, loggers=[], verbose=0) as small,
    ):
        async for _ in small:
            break
        large = await tune.run(
            report_steps, resources_per_trial={"cpu": 2}, executor=pool, verbose=0
        )
        assert large.trials[0].status == "TERMINATED"
        assert not small.is_over


async def test_formats_that_nothing_can_export_are_refused():
    with pytest.raises(ConfigError, match="no _export_model"):
        await tune.run(report_steps, export_formats="model", verbose=0)
