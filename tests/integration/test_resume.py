"""Going on with an experiment: what is final, what is taken up again, and from where."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.errors import ConfigError, SpecMismatch, TrialError, UnsafePath
from asynctune.executors import InlineExecutor
from asynctune.experiment import events as ev
from asynctune.experiment.reader import JournalReader
from asynctune.experiment.status import StopReason
from asynctune.schedulers import Decision, TrialScheduler

pytestmark = pytest.mark.asyncio


class Counts(tune.Trainable):
    """Counts, and says what its first iteration after each build was."""

    async def _setup(self, config):
        self.n = 0

    async def _train(self):
        self.n += 1
        return {"n": self.n, "x": self.config.get("x", 0), "done": self.n >= 20}

    async def _save(self, directory):
        return {"n": self.n}

    async def _restore(self, checkpoint):
        self.n = checkpoint["n"]


async def run(trainable=Counts, **arguments):
    given = {"name": "again", "verbose": 0, "checkpoint_freq": 1, "grace_s": 1}
    if not issubclass(trainable, tune.Trainable):
        del given["checkpoint_freq"]
    async with InlineExecutor(2) as pool:
        return await tune.run(trainable, executor=pool, **given | arguments)


def events_of(path):
    return [event for _, event in JournalReader(Path(path, "journal")).events()]


def started_in_last_epoch(path):
    events = events_of(path)
    last = max(i for i, event in enumerate(events) if isinstance(event, ev.RunStarted))
    return [event for event in events[last:] if isinstance(event, ev.TrialStarted)]


# -- which experiment -----------------------------------------------------------------------------


async def test_auto_starts_what_does_not_exist_and_true_refuses_and_names_what_there_is(
    results_dir,
):
    with pytest.raises(ConfigError, match=r"no experiment 'again', nor any other.*AUTO"):
        await run(resume=True)
    assert not (results_dir / "again").exists()
    first = await run(resume="AUTO", stop={"n": 2})
    assert first.trials[0].num_results == 2
    with pytest.raises(ConfigError, match="no experiment 'other'; it has the experiments again"):
        await run(resume="errored", name="other")
    with pytest.raises(ConfigError, match=r"name must be .* got 'again'.*exists.*resume=True"):
        await run()


@pytest.mark.parametrize(
    ("resume", "name", "message"),
    [
        ("yes", "a", "resume must be .* got 'yes'"),
        (1, "a", "resume must be .* got 1"),
        (True, None, "name must be the name of an experiment with resume=True, got None"),
    ],
)
async def test_a_wrong_resume_is_refused(resume, name, message):
    with pytest.raises(ConfigError, match=message):
        await run(resume=resume, name=name)


async def test_a_first_record_that_is_not_whole_is_no_experiment(results_dir):
    whole = (await run(stop={"n": 1})).path
    first = Path(whole, "journal").read_bytes().splitlines(keepends=True)[0]
    for size in (0, 1, 17, len(first) - 1):
        torn = results_dir / f"torn-{size}"
        torn.mkdir()
        (torn / "journal").write_bytes(first[:size])
        with pytest.raises(ConfigError, match="no experiment"):
            await run(name=torn.name, resume=True)
        analysis = await run(name=torn.name, resume="AUTO" if size else False, stop={"n": 1})
        assert analysis.trials[0].status == "TERMINATED"


async def test_a_directory_of_somebody_else_is_nobodys_experiment(results_dir):
    (results_dir / "again").mkdir(parents=True)
    (results_dir / "again" / "thesis.tex").write_text("x")
    for resume in (False, "AUTO"):
        with pytest.raises(ConfigError, match="exists; an experiment is never written over"):
            await run(resume=resume)
    assert (results_dir / "again" / "thesis.tex").read_text() == "x"


async def test_a_changed_space_metric_or_seed_is_refused_with_the_difference():
    space = {"x": tune.uniform(0, 1), "y": tune.choice(["a", "b"]), "fixed": 3}
    await run(config=space, metric="n", mode="max", seed=1, stop={"n": 1})
    for changed, difference in [
        ({"config": space | {"x": tune.uniform(0, 2)}}, r"config\['x'\] was Uniform\(low=0.0"),
        (
            {"config": space | {"y": tune.choice(["a"])}},
            r'was choice\(\["a", "b"\]\) and is choice',
        ),
        ({"config": space | {"fixed": 4}}, r"config\['fixed'\] was 3 and is 4"),
        ({"config": space | {"new": 1}}, r"config\['new'\] is 1 and was missing"),
        (
            {"config": {"x": space["x"], "y": space["y"]}},
            r"config\['fixed'\] was 3 and is missing",
        ),
        ({"metric": "x"}, "metric was 'n' and is 'x'"),
        ({"mode": "min"}, "mode was 'max' and is 'min'"),
        ({"seed": 2}, "seed was 1 and is 2"),
    ]:
        given = {"config": space, "metric": "n", "mode": "max", "stop": {"n": 1}} | changed
        with pytest.raises(SpecMismatch, match=difference):
            await run(resume=True, **given)
    assert (await run(resume=True, config=space, metric="n", mode="max")).trials


# -- what is final --------------------------------------------------------------------------------


async def test_a_finished_experiment_runs_nothing_again_and_gives_the_same_analysis():
    space = {"x": tune.grid_search([1, 2, 3])}
    first = await run(config=space, stop={"n": 3})
    again = await run(config=space, stop={"n": 3}, resume=True)
    assert started_in_last_epoch(first.path) == []
    assert [t.results for t in first.trials] == [t.results for t in again.trials]
    assert [t.stop_reason for t in again.trials] == [StopReason.CRITERION] * 3


async def test_a_raised_bound_goes_on_from_the_last_checkpoint_and_more_samples_are_drawn():
    space = {"x": tune.uniform(0, 1)}
    first = await run(config=space, stop={"n": 3}, num_samples=2, seed=5)
    more = await run(config=space, stop={"n": 5}, num_samples=3, resume=True)
    assert [[row["n"] for row in t.results] for t in more.trials] == [[1, 2, 3, 4, 5]] * 3
    assert [t.config for t in more.trials[:2]] == [t.config for t in first.trials]
    # The third is the one that a single run would have drawn.
    whole = await run(config=space, stop={"n": 1}, num_samples=3, seed=5, name="whole")
    assert [t.config for t in more.trials] == [t.config for t in whole.trials]
    assert {t.trial_id.rpartition("_")[0] for t in more.trials} == {
        first.trials[0].trial_id.rpartition("_")[0]
    }


async def test_a_bound_that_still_holds_and_a_trial_that_was_done_stay_ended():
    await run(stop={"n": 3})
    again = await run(stop={"n": 2}, resume=True)
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3]
    done = await run(name="done")
    assert done.trials[0].stop_reason is StopReason.DONE
    again = await run(name="done", resume=True, stop={"n": 100})
    assert (again.trials[0].num_results, started_in_last_epoch(again.path)) == (20, [])


class StopsAt(TrialScheduler):
    def __init__(self, bound):
        super().__init__()
        self.bound = bound
        self.seen = []

    def on_trial_result(self, trial, result):
        self.seen.append((trial.trial_id, result["n"], trial.last_result["n"]))
        return Decision.STOP if result["n"] >= self.bound else Decision.CONTINUE


async def test_what_the_scheduler_stopped_is_final_and_a_new_one_hears_all_of_the_past():
    first = StopsAt(3)
    await run(scheduler=first, num_samples=2)
    second = StopsAt(99)
    again = await run(scheduler=second, num_samples=2, resume=True)
    assert [t.stop_reason for t in again.trials] == [StopReason.SCHEDULER] * 2
    assert second.seen == first.seen


async def test_a_trial_that_was_stopped_by_hand_is_final_and_one_whose_run_was_is_not():
    async with InlineExecutor(2) as pool:
        given = {"executor": pool, "verbose": 0, "checkpoint_freq": 1, "num_samples": 2}
        async with tune.start(Counts, name="again", **given) as experiment:
            async for row in experiment:
                trial = experiment.trials[0]
                if row["trial_id"] == trial.trial_id and row["n"] == 2:
                    trial.stop()
                    await trial
                    experiment.stop()
                    break
    first = tune.Analysis(experiment.path)
    by_hand, other = first.trials
    assert by_hand.stop_reason is StopReason.USER
    again = await run(num_samples=2, resume=True)
    assert again.trials[0].num_results == by_hand.num_results
    if other.stop_reason is StopReason.EXPERIMENT:
        assert again.trials[1].stop_reason is StopReason.DONE
    assert [row["n"] for row in again.trials[1].results] == list(range(1, 21))


# -- what is not ----------------------------------------------------------------------------------


class Waits(Counts):
    """Waits in its third iteration until it is cancelled, the first time."""

    waiting: asyncio.Event

    async def _train(self):
        if self.n == 2 and not self.waiting.is_set():
            self.waiting.set()
            await asyncio.Event().wait()
        return await super()._train()


async def cancelled_while_it_waits(**arguments):
    Waits.waiting = asyncio.Event()
    given = {"name": "again", "verbose": 0, "grace_s": 0.1}
    async with (
        InlineExecutor(2) as pool,
        tune.start(Waits, executor=pool, **given | arguments) as experiment,
    ):
        await Waits.waiting.wait()
        await experiment.aclose()


async def test_a_cancelled_trial_goes_on_from_its_last_commit():
    await cancelled_while_it_waits(checkpoint_freq=1)
    again = await run(Waits, resume=True, stop={"n": 4})
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3, 4]
    (started,) = started_in_last_epoch(again.path)
    assert started.restored_from.endswith("checkpoint_2/checkpoint")
    assert (started.attempt, again.trials[0].num_failures) == (1, 0)


async def test_without_a_commit_what_was_cut_short_begins_again_with_a_notice(caplog):
    await cancelled_while_it_waits()
    again = await run(Waits, resume=True, stop={"n": 4}, checkpoint_freq=0)
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3, 4]
    assert again.trials[0].stop_reason is StopReason.CRITERION
    assert "has no checkpoint and begins again" in caplog.text


@pytest.mark.parametrize("end", ["stop", "cancel", "aclose"])
async def test_a_run_that_its_user_ends_is_finished_by_a_resume_without_a_commit(end):
    given = {"name": "again", "verbose": 0, "grace_s": 1, "num_samples": 3}
    async with (
        InlineExecutor(1) as pool,
        tune.start(Counts, executor=pool, **given) as experiment,
    ):
        async for row in experiment:
            if row["n"] == 3:
                if end == "aclose":
                    await experiment.aclose()
                else:
                    getattr(experiment, end)()
                break
    again = await run(num_samples=3, resume=True, checkpoint_freq=0)
    rows = [[row["n"] for row in trial.results] for trial in again.trials]
    assert rows == [list(range(1, 21))] * 3


async def test_a_time_budget_that_is_raised_lets_trials_without_a_commit_begin_again():
    class Slow(Counts):
        async def _train(self):
            await asyncio.sleep(0.05)
            return await super()._train()

    first = await run(Slow, time_budget_s=0.4, checkpoint_freq=0)
    assert first.trials[0].stop_reason is StopReason.TIME_BUDGET
    more = await run(Slow, time_budget_s=60, resume=True, checkpoint_freq=0)
    assert [row["n"] for row in more.trials[0].results] == list(range(1, 21))


async def test_a_raised_criterion_alone_repeats_no_training(caplog):
    await run(stop={"n": 3}, checkpoint_freq=0)
    again = await run(stop={"n": 5}, checkpoint_freq=0, resume=True)
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3]
    assert "stays ended (stop criterion): the trial has no checkpoint" in caplog.text


async def test_a_last_row_that_ends_a_trial_ends_it_without_another_train():
    class Once(Counts):
        allowed = 3

        async def _train(self):
            assert Once.allowed, "nothing is left to train"
            Once.allowed -= 1
            return await super()._train()

    first = await run(Once, stop={"n": 3}, checkpoint_freq=2)
    journal = Path(first.path, "journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"trial_ended"' in lines[-2]
    journal.write_bytes(b"".join(lines[:-2]))  # as if its driver had died right before
    again = await run(Once, stop={"n": 3}, checkpoint_freq=2, resume=True)
    assert again.trials[0].stop_reason is StopReason.CRITERION
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3]


async def test_a_time_budget_counts_what_was_worked_before_and_may_be_raised(tmp_path):
    class Slow(Counts):
        async def _train(self):
            await asyncio.sleep(0.05)
            return await super()._train()

    first = await run(Slow, time_budget_s=0.4)
    assert first.trials[0].stop_reason is StopReason.TIME_BUDGET
    count = first.trials[0].num_results
    again = await run(Slow, time_budget_s=0.4, resume=True)
    assert (again.trials[0].num_results, started_in_last_epoch(again.path)) == (count, [])
    more = await run(Slow, time_budget_s=60, resume=True)
    assert more.trials[0].stop_reason is StopReason.DONE
    assert [row["n"] for row in more.trials[0].results] == list(range(1, 21))


class Breaks(Counts):
    async def _train(self):
        if self.n == 2 and os.path.exists(self.config["broken"]):
            raise ValueError("broken")
        return await super()._train()


async def test_a_failed_trial_is_final_but_for_errored_which_goes_on_from_its_checkpoint(tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    given = {"config": {"broken": str(broken)}, "stop": {"n": 4}}
    with pytest.raises(TrialError, match="broken"):
        await run(Breaks, **given)
    with pytest.raises(TrialError, match="broken") as caught:
        await run(Breaks, resume=True, **given)
    assert started_in_last_epoch(caught.value.analysis.path) == []
    assert "ValueError: broken" in str(caught.value.__cause__)
    broken.unlink()
    mended = await run(Breaks, resume="errored", **given)
    assert [row["n"] for row in mended.trials[0].results] == [1, 2, 3, 4]
    (started,) = started_in_last_epoch(mended.path)
    assert started.restored_from.endswith("checkpoint_2/checkpoint")
    assert (mended.trials[0].status, mended.trials[0].error) == ("TERMINATED", None)


async def test_a_metric_that_was_missing_once_does_not_bar_the_way(tmp_path):
    class Mended(Counts):
        async def _train(self):
            row = await super()._train()
            return row | ({} if os.path.exists(self.config["broken"]) else {"loss": 1})

    broken = tmp_path / "broken"
    broken.touch()
    given = {"config": {"broken": str(broken)}, "metric": "loss", "mode": "min", "stop": {"n": 2}}
    with pytest.raises(tune.MetricMissing):
        await run(Mended, **given)
    broken.unlink()
    assert (await run(Mended, resume=True, **given)).best_result["loss"] == 1


# -- by hand, files, restore ----------------------------------------------------------------------


async def test_trials_that_were_added_by_hand_come_back_with_their_configurations():
    async with (
        InlineExecutor(2) as pool,
        tune.start(
            Counts, name="again", executor=pool, verbose=0, stop={"n": 2}, checkpoint_freq=1
        ) as experiment,
    ):
        experiment.add_trial({"x": 5, "deep": {"a": [1, 2]}})
        experiment.add_trial({"x": 6, "object": object()})
    more = await run(resume=True, stop={"n": 4})
    found = {trial.config.get("x", 0): trial for trial in more.trials}
    assert found[5].config == {"x": 5, "deep": {"a": [1, 2]}}
    assert {x: trial.num_results for x, trial in found.items()} == {0: 4, 5: 4, 6: 2}, (
        "an object cannot come back"
    )


async def test_the_logs_say_the_surviving_line_after_a_retry_and_a_resume(tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    given = {
        "config": {"broken": str(broken)},
        "checkpoint_freq": 0,
        "raise_on_failed_trial": False,
    }
    first = await run(Breaks, max_failures=2, **given)
    log = Path(first.trials[0].logdir, "result.json")
    assert [json.loads(line)["n"] for line in log.read_text().splitlines()] == [1, 2]
    Path(log).write_text(log.read_text()[:-7])  # as a driver that is killed leaves it
    broken.unlink()
    await run(Breaks, resume="errored", stop={"n": 3}, **given)
    assert [json.loads(line)["n"] for line in log.read_text().splitlines()] == [1, 2, 3]
    rows = Path(first.trials[0].logdir, "progress.csv").read_text().splitlines()
    assert len(rows) == 4


class Picky(Counts):
    async def _restore(self, checkpoint):
        if checkpoint["n"] >= int(Path(self.config["limit"]).read_text()):
            raise ValueError("cannot read this")
        await super()._restore(checkpoint)


@pytest.mark.parametrize("how", ["the hook refuses it", "a file is damaged"])
async def test_a_failed_restore_falls_back_one_commit_and_says_so(how, tmp_path, caplog):
    limit = tmp_path / "limit"
    limit.write_text("99")
    given = {"config": {"limit": str(limit)}}
    first = await run(Picky, stop={"n": 3}, **given)
    if how == "a file is damaged":
        Path(first.trials[0].logdir, "checkpoint_3", "checkpoint").write_bytes(b"no pickle")
    else:
        limit.write_text("3")
    again = await run(Picky, stop={"n": 5}, resume=True, **given)
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3, 4, 5]
    assert "checkpoint_3/checkpoint cannot be restored" in caplog.text
    assert "goes on from the one before" in caplog.text
    assert "checkpoint_2" in started_in_last_epoch(again.path)[-1].restored_from
    (rejected,) = [e for e in events_of(again.path) if isinstance(e, ev.CheckpointRejected)]
    assert rejected.path.endswith("checkpoint_3/checkpoint")


async def test_with_no_commit_left_it_fails_and_never_begins_again_in_silence(tmp_path):
    limit = tmp_path / "limit"
    limit.write_text("99")
    given = {"config": {"limit": str(limit)}}
    await run(Picky, stop={"n": 2}, **given)
    limit.write_text("0")
    with pytest.raises(TrialError, match=r"failed in restore\(\).*cannot read this") as caught:
        await run(Picky, stop={"n": 5}, resume=True, max_failures=5, **given)
    assert started_in_last_epoch(caught.value.analysis.path) == []
    assert [row["n"] for row in caught.value.analysis.trials[0].results] == [1, 2]


@pytest.mark.parametrize("where", ["experiment", "trial", "journal"])
async def test_links_and_special_files_in_a_resumed_directory_are_refused(where, tmp_path):
    first = await run(stop={"n": 1})
    elsewhere = tmp_path / "elsewhere"
    if where == "journal":
        os.rename(Path(first.path, "journal"), elsewhere)
        Path(first.path, "journal").symlink_to(elsewhere)
    elif where == "experiment":
        Path(first.path, "surprise").symlink_to(elsewhere)
    else:
        os.mkfifo(Path(first.trials[0].logdir, "pipe"))
    with pytest.raises(UnsafePath, match=r"regular file|symbolic link|special file"):
        await run(resume=True)
    assert where == "journal" or not elsewhere.exists()


async def test_a_journal_whose_names_lead_outside_is_refused(results_dir):
    from asynctune.experiment.reader import record

    first = await run(stop={"n": 1})
    journal = Path(first.path, "journal")
    whole = journal.read_bytes()
    trial_id = first.trials[0].trial_id
    for name in ("../../outside", "a/b", "..", "/etc"):
        lines = whole.splitlines(keepends=True)
        changed = [record(line[18:-1].replace(trial_id.encode(), name.encode())) for line in lines]
        journal.write_bytes(b"".join(changed))
        with pytest.raises(UnsafePath, match="in a journal must be a plain"):
            await run(resume=True)
        with pytest.raises(UnsafePath, match="in a journal must be a plain"):
            tune.Analysis(first.path)


async def test_an_experiment_that_was_moved_goes_on_where_it_is(results_dir, tmp_path):
    first = await run(stop={"n": 2})
    moved = tmp_path / "moved"
    moved.mkdir()
    os.rename(first.path, moved / "again")
    again = await run(stop={"n": 3}, resume=True, storage_path=moved)
    assert [row["n"] for row in again.trials[0].results] == [1, 2, 3]
    assert all(Path(c.path).is_relative_to(moved) for c in again.trials[0].checkpoints)


async def test_what_a_dead_driver_left_unfinished_is_removed_and_nothing_else_is():
    first = await run(stop={"n": 2})
    logdir = Path(first.trials[0].logdir)
    (logdir / ".tmp-0123" / "checkpoint_3").mkdir(parents=True)
    (logdir / "checkpoint_7").mkdir()  # the user's own: it has no manifest
    import shutil

    shutil.copytree(logdir / "checkpoint_2", logdir / "checkpoint_9")  # complete, in no journal
    await run(stop={"n": 3}, resume=True)
    names = {entry.name for entry in logdir.iterdir() if entry.is_dir()}
    assert names == {"checkpoint_1", "checkpoint_2", "checkpoint_3", "checkpoint_7"}


async def test_retry_with_other_resources_and_none_leaves_it_to_max_failures():
    asked = []

    def fails_thrice(config):
        raise ValueError(f"boom {len(asked)}")

    async def on_failure(trial, error):
        asked.append((trial.num_failures, trial.resources.cpu, str(error)))
        return tune.Retry(resources={"cpu": 2}, delay=0.01) if len(asked) < 3 else None

    async with InlineExecutor(4) as pool:
        with pytest.raises(TrialError) as caught:
            await tune.run(fails_thrice, on_failure=on_failure, executor=pool, verbose=0)
    assert [(n, cpu) for n, cpu, _ in asked] == [(0, 1), (1, 2), (2, 2)]
    (trial,) = caught.value.analysis.trials
    assert (trial.num_failures, trial.resources.cpu) == (3, 2)
    text = Path(trial.logdir, "error.txt").read_text()
    assert text.count("Traceback") == 3, "of every attempt"


@pytest.mark.parametrize("answer", ["again", True])
async def test_on_failure_answers_a_retry_or_none(answer):
    def fails(config):
        raise ValueError("boom")

    async with InlineExecutor(2) as pool:
        with pytest.raises(
            tune.TuneError, match=r"on_failure\(\) must return a tune.Retry or None, got"
        ):
            await tune.run(fails, on_failure=lambda trial, error: answer, executor=pool, verbose=0)


async def test_a_hook_that_hangs_is_ended_by_its_limit_and_named():
    class Hangs(Counts):
        async def _setup(self, config):
            await asyncio.Event().wait()

    with pytest.raises(TrialError, match=r"hook_timeout_s=0.05 in _setup"):
        await run(Hangs, hook_timeout_s=0.05, grace_s=0.05)
