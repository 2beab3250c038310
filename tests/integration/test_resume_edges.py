"""What a resume does at the edges: rows that had still to be repeated, checkpoints that are passed over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import anyio
import pytest
from counting import Counts

import asynctune as tune
from asynctune.executors import InlineExecutor
from asynctune.experiment import events
from asynctune.schedulers import TrialScheduler
from harness.faults import Crash, FaultyFileSystem, using

pytestmark = pytest.mark.asyncio


async def run(trainable, parent, **arguments):
    given = {"name": "e", "storage_path": parent, "verbose": 0, "stop": {"n": 10}}
    async with InlineExecutor(2) as pool:
        return await tune.run(trainable, executor=pool, **given | arguments)


def rows(trial):
    return [row["n"] for row in trial.results]


def logged(trial):
    return [
        json.loads(line)["n"] for line in Path(trial.logdir, "result.json").read_text().splitlines()
    ]


async def killed_at(n, trainable, parent, **arguments):
    """Leave an experiment as a driver does that dies when a trial has reported ``n``."""
    given = {"name": "e", "storage_path": parent, "verbose": 0} | arguments
    files = FaultyFileSystem()
    with pytest.raises(Crash), using(files):
        async with (
            InlineExecutor(2) as pool,
            tune.start(trainable, executor=pool, **given) as experiment,
        ):
            async for row in experiment:
                if row["n"] == n:
                    files.crash_next()


@pytest.mark.parametrize("freq", [0, 3])
async def test_rows_that_were_shown_stay_when_a_resume_is_cancelled_before_it_repeats_them(
    tmp_path, freq
):
    await killed_at(7, Counts, tmp_path, checkpoint_freq=freq)
    async with (
        InlineExecutor(1) as pool,
        tune.start(
            Counts, executor=pool, name="e", storage_path=tmp_path, verbose=0, resume=True
        ) as experiment,
    ):
        async for event in experiment.events():
            if isinstance(event, events.TrialReopened):
                experiment.cancel()
    (trial,) = experiment.trials
    assert rows(trial)[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert trial.last_result["n"] == rows(trial)[-1]
    assert logged(trial) == rows(trial)
    assert rows(tune.Analysis(tmp_path / "e").trials[0]) == rows(trial)


async def test_a_run_that_its_stopper_ended_is_the_same_after_an_unchanged_resume(tmp_path):
    class AtEight(tune.Stopper):
        seen = 0

        def __call__(self, trial_id, result):
            self.seen += 1
            return False

        def stop_all(self):
            return self.seen >= 8

    before = await run(Counts, tmp_path, stop=AtEight(), checkpoint_freq=5)
    after = await run(Counts, tmp_path, stop=AtEight(), checkpoint_freq=5, resume=True)
    assert rows(after.trials[0]) == rows(before.trials[0])
    assert len(rows(before.trials[0])) >= 8
    assert logged(after.trials[0]) == rows(before.trials[0])


async def test_rows_stay_when_a_trial_is_stopped_while_it_waits_for_its_retry(tmp_path):
    class Fails(Counts):
        async def _train(self):
            if self.n == 4:
                raise ValueError("boom")
            return await super()._train()

    async with (
        InlineExecutor(1) as pool,
        tune.start(
            Fails, executor=pool, storage_path=tmp_path, verbose=0,
            on_failure=lambda trial, error: tune.Retry(delay=1000),
        ) as experiment,
    ):  # fmt: skip
        async for event in experiment.events():
            if isinstance(event, events.TrialFailed):
                experiment.trials[0].stop()
    assert rows(experiment.trials[0]) == [1, 2, 3, 4]
    assert logged(experiment.trials[0]) == [1, 2, 3, 4]


async def test_a_restore_that_fails_for_an_outside_reason_costs_no_checkpoint(tmp_path, caplog):
    class Boom(Counts):
        async def _train(self):
            if self.n == 8:
                raise ValueError("boom")
            return await super()._train()

    class NoDevice(Counts):
        async def _restore(self, checkpoint):
            raise RuntimeError("no device")

    arguments = {"checkpoint_freq": 2, "raise_on_failed_trial": False}
    failed = await run(Boom, tmp_path, **arguments)
    logdir = failed.trials[0].logdir
    await run(NoDevice, tmp_path, resume="errored", **arguments)
    names = [name for name in os.listdir(logdir) if name.startswith("checkpoint_")]
    assert sorted(names) == ["checkpoint_2", "checkpoint_4", "checkpoint_6", "checkpoint_8"]
    mended = await run(Counts, tmp_path, resume="errored", **arguments)
    assert rows(mended.trials[0]) == list(range(1, 11))
    started = [
        event.restored_from
        for event in await all_events(tmp_path)
        if isinstance(event, events.TrialStarted)
    ]
    assert started == [None, f"{mended.trials[0].trial_id}/checkpoint_8/checkpoint"]


async def all_events(parent):
    from asynctune.experiment.reader import JournalReader

    return [event for _, event in JournalReader(Path(parent, "e", "journal")).events()]


async def test_a_fallback_goes_back_with_its_rows_when_it_is_restored(tmp_path):
    class Third(Counts):
        async def _train(self):
            if self.n == 7 and not Path(tmp_path, "failed").exists():
                Path(tmp_path, "failed").touch()
                raise ValueError("boom")
            return await super()._train()

        async def _restore(self, checkpoint):
            if checkpoint["n"] == 6:
                raise RuntimeError("this one is no good")
            await super()._restore(checkpoint)

    analysis = await run(Third, tmp_path, checkpoint_freq=2, max_failures=1)
    assert rows(analysis.trials[0]) == list(range(1, 11))
    (started,) = [
        event
        for event in await all_events(tmp_path)
        if isinstance(event, events.TrialStarted) and event.restored_from
    ]
    assert started.restored_from.endswith("checkpoint_4/checkpoint")
    assert started.resume_sequence == 3


async def test_a_failure_that_was_for_good_is_tried_again_from_its_checkpoint_whenever_the_driver_died(
    tmp_path,
):
    class Boom(Counts):
        async def _train(self):
            if self.n == 7:
                raise ValueError("boom")
            return await super()._train()

    files = FaultyFileSystem()

    class DiesThen(tune.Callback):
        async def on_trial_error(self, trial, error):
            files.crash_next()

    with pytest.raises(Crash), using(files):
        await run(Boom, tmp_path, checkpoint_freq=3, callbacks=[DiesThen()])
    kinds = [event.kind for event in await all_events(tmp_path)]
    assert "trial_failed" in kinds
    if "trial_ended" in kinds:
        pytest.skip("it came to write its end down")
    mended = await run(Counts, tmp_path, checkpoint_freq=3, resume="errored")
    assert rows(mended.trials[0]) == list(range(1, 11))
    assert mended.trials[0].num_forgiven == 1


async def test_a_journal_that_names_a_path_elsewhere_is_refused(tmp_path):
    from asynctune.experiment.journal import record
    from asynctune.experiment.reader import JournalReader  # noqa: F401 - the module whose format this is

    other = await run(Counts, tmp_path, name="other", checkpoint_freq=5)
    precious = other.trials[0].checkpoint.path
    mine = await run(Counts, tmp_path, name="mine", stop={"n": 2})
    trial_id = mine.trials[0].trial_id
    event = events.Checkpointed(trial_id, 0, 1, precious, 2)
    with Path(tmp_path, "mine", "journal").open("ab") as file:
        file.write(record(events.encode(event)))
    with pytest.raises(tune.TuneError, match="must be a plain path inside its experiment, got"):
        await run(Counts, tmp_path, name="mine", resume=True, keep_checkpoints_num=1)
    assert Path(precious).exists()


async def test_an_on_failure_that_raises_loses_no_failure(tmp_path):
    class Boom(Counts):
        async def _train(self):
            if self.n == 2:
                raise ValueError("boom")
            return await super()._train()

    def on_failure(trial, error):
        raise KeyError("a bug of the hook")

    with pytest.raises(KeyError, match="a bug of the hook"):
        await run(Boom, tmp_path, on_failure=on_failure, checkpoint_freq=1)
    (failure,) = [e for e in await all_events(tmp_path) if isinstance(e, events.TrialFailed)]
    assert "boom" in failure.error
    (trial,) = tune.Analysis(tmp_path / "e").trials
    assert "boom" in Path(trial.logdir, "error.txt").read_text()
    assert rows(trial) == [1, 2]
    mended = await run(Counts, tmp_path, resume=True, checkpoint_freq=1)
    assert rows(mended.trials[0]) == list(range(1, 11))


async def test_a_hook_that_blocks_does_not_keep_a_cancelled_run(tmp_path):
    class Boom(Counts):
        async def _train(self):
            raise ValueError("boom")

    asked, done = [], []

    def on_failure(trial, error):
        asked.append(trial)
        while not done:
            time.sleep(0.01)

    try:
        async with InlineExecutor(1) as pool:
            experiment = await tune.start(
                Boom, executor=pool, storage_path=tmp_path, verbose=0, on_failure=on_failure
            )
            with anyio.fail_after(30):
                while not asked:
                    await anyio.lowlevel.checkpoint()
                await experiment.aclose()
    finally:
        done.append(True)
    assert experiment.trials[0].stop_reason == "cancelled"


async def test_the_judge_is_told_the_same_again_whatever_was_under_way(tmp_path):
    class Tells(TrialScheduler):
        def __init__(self):
            super().__init__()
            self.told = []

        def on_trial_add(self, trial):
            self.told.append(("add", trial.index))

        def on_trial_result(self, trial, result):
            self.told.append(("row", trial.index, result["n"]))
            return self.CONTINUE

    class Slow(Counts):
        async def _train(self):
            await anyio.sleep(0.01)
            return await super()._train()

    for durability in ("process", "power"):
        parent = tmp_path / durability
        live = Tells()
        async with (
            InlineExecutor(3) as pool,
            tune.start(
                Slow, executor=pool, name="e", storage_path=parent, verbose=0, num_samples=2,
                scheduler=live, durability=durability, checkpoint_freq=1,
            ) as experiment,
        ):  # fmt: skip
            async for row in experiment:
                if row["n"] == 2 and len(experiment.trials) == 2:
                    experiment.add_trial({})
                if row["n"] == 4:
                    experiment.cancel()
                    break
        replayed = Tells()
        async with (
            InlineExecutor(3) as pool,
            tune.start(
                Slow, executor=pool, name="e", storage_path=parent, verbose=0, num_samples=2,
                scheduler=replayed, durability=durability, checkpoint_freq=1, resume=True,
            ) as experiment,
        ):  # fmt: skip
            experiment.cancel()
        assert len(live.told) > 8
        assert replayed.told[: len(live.told)] == live.told


async def test_logs_are_whole_after_any_number_of_deaths(tmp_path):
    await killed_at(3, Counts, tmp_path, checkpoint_freq=1)
    (trial,) = tune.Analysis(tmp_path / "e").trials
    log = Path(trial.logdir, "result.json")
    log.write_text("")
    with pytest.raises(Crash), using(FaultyFileSystem(crash_at=12)):
        await run(Counts, tmp_path, resume=True, checkpoint_freq=1)
    analysis = await run(Counts, tmp_path, resume=True, checkpoint_freq=1)
    assert logged(analysis.trials[0]) == rows(analysis.trials[0]) == list(range(1, 11))


async def test_an_experiment_that_was_repaired_keeps_what_nobody_knows_any_more(tmp_path):
    analysis = await run(Counts, tmp_path, checkpoint_freq=5, keep_checkpoints_num=1)
    (trial,) = analysis.trials
    newest = trial.checkpoint.path
    journal = Path(tmp_path, "e", "journal")
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    from asynctune.cli.main import main

    assert await anyio.to_thread.run_sync(main, ["repair", str(tmp_path / "e")]) == 0
    await run(
        Counts, tmp_path, resume=True, checkpoint_freq=5, raise_on_failed_trial=False, stop={"n": 1}
    )
    assert Path(newest).exists()


async def test_a_trial_by_hand_with_tuples_and_secrets_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD_OF_TEST", "very secret")
    config = {"shape": (1, [2, (3,)]), "key": tune.Secret("env:PASSWORD_OF_TEST")}
    async with (
        InlineExecutor(2) as pool,
        tune.start(
            Counts, executor=pool, name="e", storage_path=tmp_path, verbose=0, checkpoint_freq=1
        ) as experiment,
    ):
        trial = experiment.add_trial(config)
        async for row in experiment:
            if row["trial_id"] == trial.trial_id and row["n"] == 2:
                experiment.cancel()
    analysis = await run(Counts, tmp_path, resume=True, checkpoint_freq=1)
    (again,) = [found for found in analysis.trials if found.trial_id == trial.trial_id]
    assert again.config == config
    assert rows(again) == list(range(1, 11))


async def test_what_is_not_yet_durable_is_in_no_analysis_when_power_may_fail(tmp_path):
    seen = []

    class Watches(tune.Callback):
        async def on_trial_result(self, trial, result):
            seen.append(result["n"])

    async with (
        InlineExecutor(1) as pool,
        tune.start(
            Counts, executor=pool, storage_path=tmp_path, verbose=0, durability="power",
            stop={"n": 30},
        ) as experiment,
    ):  # fmt: skip
        durable = 0
        async for event in experiment.events():
            durable += isinstance(event, events.Reported)
            if experiment.trials:
                shown = experiment.analysis().trials[0].num_results
                assert shown <= experiment._runner.journal._synced
    assert durable == 30
