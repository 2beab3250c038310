"""A check that a trainable can be saved and restored, before a run depends on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from aiofiles.tempfile import TemporaryDirectory

from asynctune.errors import TuneError
from asynctune.executors.inline import InlineExecutor
from asynctune.result import TRAINING_ITERATION
from asynctune.trainable.durable import DurableTrainable

__all__ = ["validate_save_restore"]


async def validate_save_restore(
    trainable: Any, config: Mapping[str, Any] | None = None, use_object_store: bool = False
) -> bool:
    """Train three times, save, restore into a second instance, and train the second one twice.

    Args:
        trainable: The class or function. The storage of a durable trainable is a temporary directory.
        config: The configuration of the trainable.
        use_object_store: Whether to save to an object instead of a directory.

    Returns:
        True.

    Raises:
        TrialError: A hook failed; its exception is the cause.
        TuneError: The restored instance does not continue at the iteration of the first one.
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
                    f"training_iteration must be {expected} after restoring iteration {begin}, got {found}"
                )
    return True
