"""Searchers in a run: what they are told and asked, in which order, and after a resume."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

import asynctune as tune
from asynctune.executors import InlineExecutor
from asynctune.experiment import events
from asynctune.suggest import FINISHED, Searcher

pytestmark = pytest.mark.asyncio
SPACE = {"x": tune.uniform(0, 1), "fixed": 3, "model": {"layers": tune.choice([object, int])}}


async def once(config):
    await tune.report(loss=config["x"])


async def thrice(config):
    for n in range(3):
        await tune.report(loss=config["x"] + n)


class Follows(Searcher):
    """What it suggests depends on its seed, on all that it was told, and on the order of it."""

    repeats = True

    def __init__(self, finished_after=None, **arguments):
        super().__init__(**arguments)
        self.told = []
        self.asked = []
        self.threads = set()
        self.finished_after = finished_after

    def bind(self, space, metric, mode, seed):
        super().bind(space, metric, mode, seed)
        self.space = space
        self.rng = random.Random(seed)

    def suggest(self, trial_id):
        self.threads.add(threading.current_thread())
        if self.finished_after == len(self.asked):
            return FINISHED
        self.asked.append(trial_id)
        known = sum(loss for _, loss in self.told) + 7 * len(self.told)
        return {"x": (self.rng.random() + known) % 1}

    def on_trial_result(self, trial_id, result):
        self.told.append((trial_id, result["loss"]))

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.told.append((trial_id, -1.0 if error else (result or {"loss": 0})["loss"]))


class OneAtATime(Follows):
    """Suggests nothing while its last trial has not ended."""

    def suggest(self, trial_id):
        ended = {name for name, _ in self.told[1::2]}
        return None if len(self.asked) > len(ended) else super().suggest(trial_id)


def run(searcher, tmp_path, **arguments):
    given = {
        "config": SPACE, "metric": "loss", "mode": "min", "num_samples": 6, "seed": 1,
        "storage_path": tmp_path, "verbose": 0, "loggers": [],
    }  # fmt: skip
    return tune.run(once, search_alg=searcher, **given | arguments)


def drawn(analysis):
    return [trial.config["x"] for trial in analysis.trials]


async def test_a_searcher_is_asked_and_told_off_the_loop_and_its_values_are_the_configurations(
    tmp_path,
):
    searcher = Follows()
    async with InlineExecutor(1) as pool:
        analysis = await run(searcher, tmp_path, executor=pool)
    assert threading.main_thread() not in searcher.threads
    assert [trial.trial_id for trial in analysis.trials] == searcher.asked
    for trial in analysis.trials:
        assert trial.config["fixed"] == 3
        assert trial.config["model"]["layers"] in (object, int), "what it does not suggest is drawn"
    # A result and an end of each of the six, those of the last ones too.
    assert [name for name, _ in searcher.told] == [
        trial.trial_id for trial in analysis.trials for _ in range(2)
    ]
    assert list(searcher.space.samplers) == ["model/layers", "x"]


async def test_one_worker_and_one_seed_give_the_same_suggestions(tmp_path):
    results = []
    for name in ("a", "b"):
        async with InlineExecutor(1) as pool:
            results.append(drawn(await run(Follows(), tmp_path, executor=pool, name=name)))
    assert results[0] == results[1]
    assert len(set(results[0])) == 6


async def late(config):
    for n in range(3):
        for _ in range(random.randrange(20)):
            await asyncio.sleep(0)
        await tune.report(loss=config["x"] + n)


async def several(tmp_path, count, **arguments):
    """What so many runs of the same kind drew, each with trials that end in another order."""
    results = set()
    for number in range(count):
        async with InlineExecutor(3) as pool:
            analysis = await tune.run(
                late, config=SPACE, metric="loss", mode="min", num_samples=12, seed=1, executor=pool,
                search_alg=Follows(), name=f"e{number}", storage_path=tmp_path, verbose=0, **arguments,
            )  # fmt: skip
        results.add(tuple(drawn(analysis)))
    return results


async def test_deterministic_suggestions_do_not_depend_on_timing(tmp_path):
    assert len(await several(tmp_path / "control", 4)) > 1
    assert len(await several(tmp_path / "same", 4, deterministic=True)) == 1


@pytest.mark.parametrize("deterministic", [False, True])
async def test_a_resume_suggests_what_the_driver_before_would_have(tmp_path, deterministic, caplog):
    async with InlineExecutor(1) as pool:
        control = drawn(
            await run(Follows(), tmp_path, executor=pool, name="c", deterministic=deterministic)
        )
        first = drawn(
            await run(
                Follows(),
                tmp_path,
                executor=pool,
                name="r",
                num_samples=3,
                deterministic=deterministic,
            )
        )
        searcher = Follows()
        both = drawn(
            await run(
                searcher,
                tmp_path,
                executor=pool,
                name="r",
                resume=True,
                seed=None,
                deterministic=deterministic,
            )
        )
    assert first == control[:3]
    assert both == control
    assert len(searcher.asked) == 6
    assert caplog.text == "", "it repeated every suggestion"


async def test_a_resume_in_parallel_repeats_what_was_known_at_each_suggestion(tmp_path):
    async with (
        InlineExecutor(3) as pool,
        tune.start(
            thrice, config=SPACE, metric="loss", mode="min", num_samples=20, executor=pool,
            search_alg=Follows(), name="r", storage_path=tmp_path, verbose=0,
        ) as experiment,
    ):  # fmt: skip
        ended = 0
        async for event in experiment.events():
            ended += isinstance(event, events.TrialEnded)
            if ended == 7:
                experiment.cancel()
    before = [trial.config["x"] for trial in experiment.trials]
    searcher = Follows()
    async with (
        InlineExecutor(3) as pool,
        tune.start(
            thrice, config=SPACE, metric="loss", mode="min", num_samples=20, executor=pool,
            search_alg=searcher, name="r", storage_path=tmp_path, verbose=0, resume=True,
        ) as experiment,
    ):  # fmt: skip
        pass
    assert [trial.config["x"] for trial in experiment.trials][: len(before)] == before
    assert len(experiment.trials) == 20
    assert len(searcher.asked) == 20, "it was asked again for each of the first ones, and agreed"


async def test_a_searcher_that_does_not_repeat_is_told_the_history_and_says_so(tmp_path, caplog):
    class Forgets(Follows):
        repeats = False

        def adopt(self, trial_id, values):
            self.adopted = [*getattr(self, "adopted", []), (trial_id, values["x"])]

    async with InlineExecutor(1) as pool:
        before = await run(Forgets(), tmp_path, executor=pool, name="r", num_samples=3)
        searcher = Forgets()
        await run(searcher, tmp_path, executor=pool, name="r", resume=True)
    assert searcher.adopted == [(t.trial_id, t.config["x"]) for t in before.trials]
    assert len(searcher.asked) == 3
    assert len(searcher.told) == 12
    assert "Forgets gets the history of the previous runs" in caplog.text


async def test_a_searcher_that_is_another_now_is_told_the_history_and_says_so(tmp_path, caplog):
    class Changed(Follows):
        def suggest(self, trial_id):
            return {"x": super().suggest(trial_id)["x"] / 2}

    async with InlineExecutor(1) as pool:
        before = drawn(await run(Follows(), tmp_path, executor=pool, name="r", num_samples=3))
        after = drawn(await run(Changed(), tmp_path, executor=pool, name="r", resume=True))
    assert after[:3] == before
    assert "Changed did not repeat the suggestion that it made for" in caplog.text


async def test_not_now_waits_for_what_is_running(tmp_path):
    async with InlineExecutor(3) as pool:
        analysis = await run(OneAtATime(), tmp_path, executor=pool)
    assert len(analysis.trials) == 6
    ends = [trial.ended_at for trial in analysis.trials]
    starts = [trial.started_at for trial in analysis.trials]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


async def test_a_searcher_that_waits_for_nothing_is_an_error(tmp_path):
    class Never(Follows):
        def suggest(self, trial_id):
            return None

    async with InlineExecutor(1) as pool:
        with pytest.raises(tune.TuneError, match=r"Never\.suggest\(\) must return .* got None"):
            await run(Never(), tmp_path, executor=pool)


async def test_a_searcher_that_has_finished_ends_the_run(tmp_path):
    async with InlineExecutor(2) as pool:
        analysis = await run(Follows(finished_after=4), tmp_path, executor=pool, num_samples=-1)
    assert len(analysis.trials) == 4


async def test_what_a_searcher_raises_or_answers_wrongly_ends_the_run(tmp_path):
    class Raises(Follows):
        def suggest(self, trial_id):
            raise ZeroDivisionError("inside")

    class Wrong(Follows):
        def suggest(self, trial_id):
            return 3

    class Foreign(Follows):
        def suggest(self, trial_id):
            return {"model": {"layers": str}}

    async with InlineExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError, match="inside"):
            await run(Raises(), tmp_path, executor=pool)
        with pytest.raises(tune.TuneError, match=r"Wrong\.suggest\(\) must return .* got 3"):
            await run(Wrong(), tmp_path, executor=pool)
        with pytest.raises(tune.TuneError, match=r"Foreign\.suggest\(\).*'model/layers'.*str"):
            await run(Foreign(), tmp_path, executor=pool)


async def test_other_keys_that_a_searcher_sets_are_in_the_config_and_survive_a_resume(tmp_path):
    class Sets(Follows):
        def suggest(self, trial_id):
            return {**super().suggest(trial_id), "model": {"width": 7}, "new": [1, 2]}

    async with InlineExecutor(1) as pool:
        for resume in (False, True):
            analysis = await run(
                Sets(),
                tmp_path,
                executor=pool,
                name="r",
                num_samples=4 if resume else 2,
                resume=resume,
            )
    for trial in analysis.trials:
        assert trial.config["model"]["width"] == 7
        assert trial.config["new"] == [1, 2]
        assert trial.config["model"]["layers"] in (object, int)


async def test_a_grid_is_gone_through_beside_a_searcher(tmp_path):
    async with InlineExecutor(1) as pool:
        analysis = await run(
            Follows(), tmp_path, executor=pool, num_samples=2,
            config={"x": tune.uniform(0, 1), "g": tune.grid_search(["a", "b"])},
        )  # fmt: skip
    assert [trial.config["g"] for trial in analysis.trials] == ["a", "b", "a", "b"]
    assert len(set(drawn(analysis))) == 4


@pytest.mark.parametrize("duplicates", ["allow", "skip", "reuse"])
async def test_duplicates(tmp_path, duplicates):
    class Repeats(Follows):
        """Suggests each value three times."""

        def suggest(self, trial_id):
            self.asked.append(trial_id)
            return {"x": (len(self.asked) - 1) // 3 / 10}

    searcher = Repeats(duplicates=duplicates)
    async with InlineExecutor(1) as pool:
        analysis = await run(
            searcher, tmp_path, executor=pool, num_samples=3, config={"x": tune.uniform(0, 1)}
        )
    if duplicates == "allow":
        assert drawn(analysis) == [0, 0, 0]
        return
    assert drawn(analysis) == [0, 0.1, 0.2]
    assert len(searcher.asked) == 7, "three of 0, three of 0.1, and 0.2"
    values = dict(zip(searcher.asked, [0, 0, 0, 0.1, 0.1, 0.1, 0.2], strict=True))
    tried = [searcher.asked[0], searcher.asked[3], searcher.asked[6]]
    for name in searcher.asked:
        told = [loss for other, loss in searcher.told if other == name]
        if name in tried:
            assert told == [values[name]] * 2, "its result and its end"
        else:
            assert told == [values[name] if duplicates == "reuse" else 0]


async def test_a_searcher_is_used_once_and_needs_an_objective(tmp_path):
    searcher = Follows()
    async with InlineExecutor(1) as pool:
        await run(searcher, tmp_path, executor=pool)
        with pytest.raises(tune.TuneError, match="this Follows was already used by another run"):
            await run(searcher, tmp_path, executor=pool)
        with pytest.raises(tune.TuneError, match="Follows needs an objective"):
            await run(Follows(), tmp_path, executor=pool, metric=None, mode=None)
        with pytest.raises(tune.TuneError, match=r"search_alg must be .* got 3"):
            await run(3, tmp_path, executor=pool)
