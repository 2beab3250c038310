"""Trainable: one life cycle (build, train, save, restore, reset, export, stop) for all user code.

Each public method exists once, as a private coroutine that awaits only hooks (``_run_train`` and so
on). The synchronous face steps it: outside of an event loop nothing in it suspends, since an ``async
def`` hook is run to its end on a loop that the trainable keeps. An executor that lives on a loop
awaits the same coroutine.
"""

from __future__ import annotations

import inspect
import os
import pickle
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from asynctune import result as _result
from asynctune.errors import ConfigError
from asynctune.loggers.base import Logger, NoopLogger
from asynctune.resources import Resources
from asynctune.result import Row
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.checkpoints.manifest import Manifest
from asynctune.trainable.context import (
    HookCaller,
    SyncHookCaller,
    copy_config,
    host,
    new_standalone_dir,
    step,
)
from asynctune.trainable.counters import Counters

_LATER_SPELLING = {
    "_setup": "setup",
    "_train": "step",
    "_save": "save_checkpoint",
    "_restore": "load_checkpoint",
    "_log_result": "log_result",
    "_stop": "cleanup",
}


class Trainable:
    """Something that can be trained step by step, saved and restored. Subclass it.

    Implement ``_setup``, ``_train``, ``_save`` and ``_restore``; ``_log_result``, ``reset_config``,
    ``_stop`` and ``_export_model`` where they help. Each hook may be ``async def``. The later
    spellings ``setup, step, save_checkpoint, load_checkpoint, log_result, cleanup`` are accepted in a
    class that uses none of the above. Usable by itself, without any run.

    Args:
        config: The hyperparameters; kept as ``self.config``.
        logger_creator: ``config -> Logger``, whose ``logdir`` becomes this trainable's. By default
            results are written as JSON and CSV into a new directory of the results folder.
    """

    _hook_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [base for base in cls.__mro__ if base not in (Trainable, object)]
        names = {name for base in own for name in vars(base)}
        uses_seed = any(name in names for name in _LATER_SPELLING)
        cls._hook_names = {
            seed: later
            for seed, later in _LATER_SPELLING.items()
            if not uses_seed and later in names
        }

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        logger_creator: Callable[[dict[str, Any]], Logger] | None = None,
    ) -> None:
        self._host = host.get()
        self._calls: HookCaller = self._host.calls if self._host else SyncHookCaller()
        self.config: dict[str, Any] = config if config is not None else {}
        self._result_logger = self._create_logger(logger_creator)
        self._counters = Counters()
        if not (self._host and self._host.setup_later):
            try:
                step(self._run_setup())
            except BaseException:
                self._calls.close()
                raise

    # -- the public face ------------------------------------------------------------------------

    def train(self) -> Row:
        """Run one iteration: call ``_train()`` and fill in the fields that every result has.

        Filled only if not given: ``done, training_iteration, time_this_iter_s, timesteps_total,
        episodes_total, neg_mean_loss``. Always: ``time_total_s, experiment_id, date, timestamp (int,
        seconds), pid (int), hostname, node_ip, config, time_since_restore, timesteps_since_restore,
        iterations_since_restore``, and in a run ``trial_id`` and ``experiment_tag``.

        Returns:
            The result. After a function has ended, its last one, marked ``__duplicate__``.

        Raises:
            TypeError: ``_train`` returned something else than a dict.
        """
        return step(self._run_train())

    def save(self, checkpoint_dir: str | None = None) -> str:
        """Save the state as ``checkpoint_<iteration>``, which appears when it is complete.

        Args:
            checkpoint_dir: Where to put it; the logdir by default.

        Returns:
            The path, or prefix, for :meth:`restore`.

        Raises:
            ValueError: ``_save`` returned neither a dict nor a path inside the directory it was given.
        """
        return step(self._run_save(checkpoint_dir))

    def restore(self, checkpoint_path: str) -> None:
        """Restore a state that :meth:`save` wrote. Restoring means trusting whoever wrote it.

        Args:
            checkpoint_path: What ``save`` returned, or the checkpoint's directory.

        Raises:
            FileNotFoundError: There is no checkpoint.
            CheckpointCorrupt: Its files are not those that were saved.
        """
        step(self._run_restore(os.fspath(checkpoint_path)))

    def save_to_object(self) -> bytes:
        """Save the state as bytes, whatever form ``_save`` gives it."""
        return step(self._run_save_to_object())

    def restore_from_object(self, obj: bytes) -> None:
        """Restore what :meth:`save_to_object` returned, here or in another instance."""
        step(self._run_restore_from_object(obj))

    def delete_checkpoint(self, checkpoint_path: str) -> None:
        """Delete the checkpoint that the path lies in. A missing one is no error."""
        step(self._run_delete_checkpoint(os.fspath(checkpoint_path)))

    def export_model(
        self, export_formats: str | list[str], export_dir: str | None = None
    ) -> dict[str, str]:
        """Export the model.

        Args:
            export_formats: A format or several; what they mean is up to ``_export_model``.
            export_dir: Where to; the logdir by default.

        Returns:
            Format -> path, of what was exported.
        """
        return step(self._run_export_model(export_formats, export_dir))

    def stop(self) -> None:
        """Release everything: close the logger, then call ``_stop()``."""
        step(self._run_stop())

    def reset_config(self, new_config: dict[str, Any]) -> bool | Awaitable[bool]:
        """Take over new hyperparameters without being rebuilt. Override it where that is possible.

        Args:
            new_config: The new configuration; it becomes ``self.config`` if this worked.

        Returns:
            Whether it worked. This one returns False: rebuild the object.
        """
        return False

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, the live object."""
        return self.config

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Resources | None:
        """Say what a trial with this configuration needs; None leaves it to the run."""
        return None

    @classmethod
    def resource_help(cls, config: dict[str, Any]) -> str:
        """Advise on resources; becomes part of the error when they can never be had."""
        return ""

    @property
    def iteration(self) -> int:
        """How many iterations were trained, restored ones included."""
        return self._counters.iteration

    @property
    def _iteration(self) -> int:  # what subclasses of the Trainable of Ray Tune have always read
        return self._counters.iteration

    @property
    def training_iteration(self) -> int:
        """The same as :attr:`iteration`."""
        return self._counters.iteration

    @property
    def logdir(self) -> str:
        """The directory of results and checkpoints, with a separator at its end."""
        return os.path.join(self._logdir, "")

    @property
    def trial_id(self) -> str | None:
        """The id of the trial, None outside a run."""
        return self._host.trial_id if self._host else None

    @property
    def trial_name(self) -> str | None:
        """The name of the trial, None outside a run."""
        return self._host.trial_name if self._host else None

    # -- hooks ----------------------------------------------------------------------------------

    def _setup(self, config: dict[str, Any]) -> Any:
        """Prepare. ``config`` is a copy of ``self.config``."""

    def _train(self) -> Any:
        """Train one iteration and return a dict of metrics."""
        raise NotImplementedError(f"{type(self).__qualname__} defines neither _train nor step")

    def _save(self, tmp_checkpoint_dir: str) -> Any:
        """Write the state below ``tmp_checkpoint_dir`` and return the path, or return a dict."""
        raise NotImplementedError(
            f"{type(self).__qualname__} cannot be saved: it defines neither _save nor save_checkpoint"
        )

    def _restore(self, checkpoint: Any) -> Any:
        """Take over a state: the dict that ``_save`` returned, or the path, under another prefix."""
        raise NotImplementedError(
            f"{type(self).__qualname__} cannot be restored: it defines neither _restore nor "
            "load_checkpoint"
        )

    def _log_result(self, result: Row) -> Any:
        """Log a result where it was made. In a run the driver logs too."""
        self._result_logger.on_result(result)

    def _stop(self) -> Any:
        """Clean up."""

    def _export_model(self, export_formats: list[str], export_dir: str) -> Any:
        """Export the model and return format -> path."""
        return {}

    # -- each operation, once -------------------------------------------------------------------

    async def _run_setup(self) -> None:
        await self._hook("_setup", copy_config(self.config))

    async def _run_train(self) -> Row:
        start = time.monotonic()
        reported = await self._hook("_train")
        if not isinstance(reported, Mapping):
            raise TypeError(
                f"{type(self).__qualname__}.{self._spelling('_train')}() returned {reported!r}; "
                "a dict of metrics is wanted"
            )
        if _result.RESULT_DUPLICATE in reported:
            return dict(reported)
        row = dict(reported)
        self._counters.fill(row, time.monotonic() - start)
        row[_result.CONFIG] = self.config
        if self._host and self._host.trial_id is not None:
            row[_result.TRIAL_ID] = self._host.trial_id
            row[_result.EXPERIMENT_TAG] = self._host.experiment_tag or ""
        row = _result.without_secrets(row)  # before a logger of the user's writes it
        if self._host is None or defines_hook(type(self), "_log_result"):
            await self._hook("_log_result", row)  # otherwise the driver logs
        return row

    async def _run_save(self, checkpoint_dir: str | None = None) -> str:
        root, relative = await self._commit(os.path.abspath(checkpoint_dir or self._logdir))
        return await self._calls.blocking(_checkpoint.as_path, root, relative)

    async def _commit(self, parent: str) -> tuple[Path, str]:
        name = f"checkpoint_{self.iteration}"
        target = await self._calls.blocking(_checkpoint.make_staging_dir, parent, name)
        hook = f"{type(self).__qualname__}.{self._spelling('_save')}()"
        try:
            saved = await self._hook("_save", str(target))
            relative, is_dict = await self._calls.blocking(
                _checkpoint.write_saved, saved, target, hook
            )
            root = await self._calls.blocking(
                lambda: _checkpoint.commit(
                    target,
                    relative,
                    saved_as_dict=is_dict,
                    state=self._counters.state(),
                    parent=parent,
                )
            )
        except Exception as exc:
            await self._calls.blocking(_checkpoint.raise_if_storage_failed, exc, target)
            raise
        finally:
            await self._calls.blocking(_checkpoint.remove_staging_dir, target)
        return root, relative

    async def _run_restore(self, checkpoint_path: str) -> None:
        manifest, checkpoint = await self._calls.blocking(_read, checkpoint_path)
        await self._hook("_restore", checkpoint)
        # After the hook: one that raises leaves the counters as they were.
        self._counters.restore(manifest.state)

    async def _run_save_to_object(self) -> bytes:
        from asynctune.storage.checkpoints import archive as _packing

        aside = await self._calls.blocking(
            _checkpoint.make_staging_dir, self._logdir, "save_to_object"
        )
        try:
            root, _ = await self._commit(str(aside))
            return await self._calls.blocking(_packing.pack, root)
        finally:
            await self._calls.blocking(_checkpoint.remove_staging_dir, aside)

    async def _run_restore_from_object(self, obj: bytes) -> None:
        from asynctune.storage.checkpoints import archive as _packing

        aside = await self._calls.blocking(
            _checkpoint.make_staging_dir, self._logdir, "restore_from_object"
        )
        try:
            path = await self._calls.blocking(_packing.unpack, obj, aside)
            # From nowhere else, wherever a subclass keeps its checkpoints.
            await Trainable._run_restore(self, str(path))
        finally:
            await self._calls.blocking(_checkpoint.remove_staging_dir, aside)

    async def _run_delete_checkpoint(self, checkpoint_path: str) -> None:
        await self._calls.blocking(_checkpoint.delete, checkpoint_path)

    async def _run_export_model(
        self, export_formats: str | list[str], export_dir: str | None = None
    ) -> dict[str, str]:
        formats = [export_formats] if isinstance(export_formats, str) else list(export_formats)
        exported = await self._hook("_export_model", formats, export_dir or self._logdir)
        return dict(exported or {})

    async def _run_reset_config(self, new_config: dict[str, Any]) -> bool:
        if accepted := bool(await self._calls.hook(self.reset_config, new_config)):
            self.config = new_config
        return accepted

    async def _run_get_config(self) -> dict[str, Any]:
        return self.get_config()

    async def _run_stop(self) -> Any:
        try:
            try:
                if not isinstance(self._result_logger, NoopLogger):
                    await self._calls.blocking(self._result_logger.flush)
                    await self._calls.blocking(self._result_logger.close)
            finally:
                note = await self._hook("_stop")
        finally:
            self._calls.close()
        return note

    # -- small helpers --------------------------------------------------------------------------

    async def _hook(self, name: str, *args: Any) -> Any:
        return await self._calls.hook(getattr(self, self._spelling(name)), *args)

    def _spelling(self, name: str) -> str:
        return self._hook_names.get(name, name)

    def _create_logger(self, creator: Callable[[dict[str, Any]], Logger] | None) -> Logger:
        if creator is not None:
            logger = creator(self.config)
            logdir = getattr(logger, "logdir", None)
            if not isinstance(logdir, str):
                raise ConfigError(
                    f"logger_creator returned {logger!r}, which has no logdir; a Logger is wanted"
                )
            self._logdir = os.path.abspath(logdir)
            return logger
        if self._host is not None:
            self._logdir = self._host.logdir
            return NoopLogger(self.config, self._logdir)
        from asynctune.loggers.unified import UnifiedLogger  # a worker needs no logger

        self._logdir = new_standalone_dir(type(self).__qualname__)
        return UnifiedLogger(self.config, self._logdir)


def defines_hook(cls: type[Trainable], name: str) -> bool:
    """Tell whether a class overrides a hook, in either spelling."""
    return name in cls._hook_names or getattr(cls, name) is not getattr(Trainable, name)


def is_async(cls: type[Trainable]) -> bool:
    """Tell whether a hook of a class is ``async def``, so that it wants to live on a loop."""
    names = (*_LATER_SPELLING, "_export_model", "reset_config")
    return any(
        inspect.iscoroutinefunction(getattr(cls, cls._hook_names.get(name, name))) for name in names
    )


def _read(checkpoint_path: str) -> tuple[Manifest, Any]:
    """Verify a checkpoint, and return what ``_restore`` is given of it."""
    manifest, path = _checkpoint.locate(checkpoint_path)
    if not manifest.saved_as_dict:
        return manifest, path
    # The one place where a checkpoint is unpickled: in the worker, verified, on request.
    return manifest, pickle.loads(Path(path).read_bytes()) | {"tune_checkpoint_path": path}
