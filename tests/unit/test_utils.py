"""``validate_save_restore``: what it lets pass, and what it finds."""

from __future__ import annotations

import asyncio
import warnings

import pytest

import asynctune as tune
from asynctune.errors import TrialError, TuneError
from asynctune.utils import validate_save_restore


class Counter(tune.Trainable):
    def _setup(self, config):
        self.n = config.get("n", 0)

    def _train(self):
        self.n += 1
        return {"n": self.n}

    def _save(self, directory):
        return {"n": self.n}

    def _restore(self, state):
        self.n = state["n"]


class AsyncCounter(Counter):
    async def _train(self):
        await asyncio.sleep(0)
        return super()._train()


class FailsToRestore(Counter):
    def _restore(self, state):
        raise ValueError("planted")


class CountsByItself(Counter):
    def _train(self):
        return super()._train() | {"training_iteration": 1}


def checkpoints(config, reporter):
    begin = reporter.checkpoint["n"] if reporter.checkpoint else 0
    for n in range(begin + 1, 10):
        reporter(n=n, checkpoint={"n": n})


@pytest.mark.asyncio
@pytest.mark.parametrize("use_object_store", [False, True])
@pytest.mark.parametrize("trainable", [Counter, AsyncCounter, checkpoints])
async def test_what_can_be_saved_and_restored_passes(trainable, use_object_store):
    assert await validate_save_restore(trainable, {"n": 0}, use_object_store) is True


@pytest.mark.asyncio
async def test_a_hook_that_fails_is_the_cause():
    with pytest.raises(TrialError, match="planted") as caught:
        await validate_save_restore(FailsToRestore)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.asyncio
async def test_one_that_does_not_continue_is_found():
    with pytest.raises(TuneError, match="restoring iteration 1"):
        await validate_save_restore(CountsByItself)


def test_a_call_that_is_not_awaited_warns():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        validate_save_restore(Counter)
    assert any("never awaited" in str(warning.message) for warning in caught)


class Durable(tune.DurableTrainable, Counter):
    def _setup(self, config):
        assert self.storage_client.url == self.remote_checkpoint_dir
        super()._setup(config)


@pytest.mark.asyncio
@pytest.mark.parametrize("use_object_store", [False, True])
async def test_a_durable_trainable_is_given_a_storage_of_its_own(use_object_store):
    assert await validate_save_restore(Durable, use_object_store=use_object_store)


@pytest.mark.asyncio
async def test_an_actor_of_a_durable_trainable_wants_its_place(tmp_path):
    async with tune.executors.InlineExecutor() as pool:
        with pytest.raises(tune.ConfigError, match=r"^remote_checkpoint_dir must be given for"):
            async with pool.actor(Durable):
                pass
        with pytest.raises(tune.ConfigError, match=r"^remote_checkpoint_dir must be None for"):
            async with pool.actor(Counter, remote_checkpoint_dir=tmp_path):
                pass
