"""Checks that a trainable can be saved and restored, before a run depends on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from aiofiles.tempfile import TemporaryDirectory

from asynctune.errors import TuneError
from asynctune.executors.inline import InlineExecutor
from asynctune.result import TRAINING_ITERATION
from asynctune.trainable.durable import DurableTrainable


async def validate_save_restore(
    trainable: Any, config: Mapping[str, Any] | None = None, use_object_store: bool = False
) -> bool:
    """Train three times, save, restore into a second instance, and train that twice more.

    Args:
        trainable: The class or function. A durable one is given a temporary directory as its storage.
        config: Its configuration.
        use_object_store: Save to an object instead of a directory.

    Returns:
        True.

    Raises:
        TrialError: A hook failed; its exception is the cause.
        TuneError: The restored instance does not continue where the first one was.
    """
    durable = inspect.isclass(trainable) and issubclass(trainable, DurableTrainable)
    async with (
        TemporaryDirectory(prefix="asynctune-") as directory,
        InlineExecutor() as pool,
        pool.actor(
            trainable, config, remote_checkpoint_dir=directory if durable else None
        ) as first,
        pool.actor(
            trainable, config, remote_checkpoint_dir=directory if durable else None
        ) as second,
    ):
        for _ in range(3):
            result = await first.train()
        begin = result[TRAINING_ITERATION]
        if use_object_store:
            await second.restore_from_object(await first.save_to_object())
        else:
            await second.restore(await first.save())
        for expected in (begin + 1, begin + 2):
            found = (await second.train())[TRAINING_ITERATION]
            if found != expected:
                raise TuneError(
                    f"after restoring iteration {begin} the next training_iteration is {found}, "
                    f"not {expected}"
                )
    return True
