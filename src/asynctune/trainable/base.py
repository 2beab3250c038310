"""Trainable: one life cycle (build, train, save, restore, reset, export, stop) for all user code.

Each operation is implemented once, as a private coroutine that awaits only hooks (``_run_train`` and
so on). The public synchronous methods step this coroutine. Outside an event loop the coroutine never
suspends, since the trainable runs ``async def`` hooks to completion on a loop of its own. An executor
on an event loop awaits the same coroutine.
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
    current_context,
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
    """Base class for user code that trains step by step and can be saved and restored.

    Subclasses implement ``_setup``, ``_train``, ``_save`` and ``_restore``, and optionally
    ``_log_result``, ``reset_config``, ``_stop`` and ``_export_model``. Each hook may be ``async def``.
    A class that uses none of these spellings may use the later ones instead: ``setup, step,
    save_checkpoint, load_checkpoint, log_result, cleanup``. A Trainable also works without a run.

    Args:
        config: The hyperparameters; kept as ``self.config``.
        logger_creator: A function ``config -> Logger``; the ``logdir`` of the logger becomes the logdir
            of this trainable. By default results are written as JSON and CSV into a new directory of
            the results directory.
    """

    _shutdown_note: str | None = None
    """A note for ``error.txt`` about the stop, which a function as a trainable may leave."""
    _hook_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Mixins count too: a hook may be inherited from a class that is no Trainable.
        bases = [base for base in cls.__mro__ if base not in (Trainable, object)]
        names = {name for base in bases for name in vars(base)}
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
        self._context = current_context.get()
        self._hooks: HookCaller = self._context.hooks if self._context else SyncHookCaller()
        self.config: dict[str, Any] = config if config is not None else {}
        self._result_logger = self._create_logger(logger_creator)
        self._counters = Counters()
        if not (self._context and self._context.setup_later):
            try:
                step(self._run_setup())
            except BaseException:
                self._hooks.close()
                raise

    # -- public methods -------------------------------------------------------------------------

    def train(self) -> Row:
        """Run one iteration: call ``_train()`` and add the fields that every result has.

        Added if ``_train`` did not return them: ``done, training_iteration, time_this_iter_s,
        timesteps_total, episodes_total, neg_mean_loss``. Always set: ``time_total_s, experiment_id,
        date, timestamp (int, seconds), pid (int), hostname, node_ip, config, time_since_restore,
        timesteps_since_restore, iterations_since_restore``, and in a run ``trial_id`` and
        ``experiment_tag``.

        Returns:
            The result. After a function has ended: its last result, marked ``__duplicate__``.

        Raises:
            TypeError: ``_train`` returned something other than a dict, or a field of the result that
                must be a number is not one.
        """
        return step(self._run_train())

    def save(self, checkpoint_dir: str | None = None) -> str:
        """Save the state as ``checkpoint_<iteration>``. This directory appears once it is complete.

        Args:
            checkpoint_dir: The parent directory of the checkpoint; by default the logdir.

        Returns:
            The path (or path prefix) of the checkpoint, for :meth:`restore`.

        Raises:
            ValueError: ``_save`` returned neither a dict nor a path inside ``tmp_checkpoint_dir``.
        """
        return step(self._run_save(checkpoint_dir))

    def restore(self, checkpoint_path: str) -> None:
        """Restore a state that :meth:`save` wrote.

        Restore only checkpoints from a trusted source: dict checkpoints are unpickled.

        Args:
            checkpoint_path: The path that ``save`` returned, or the directory of the checkpoint.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            CheckpointCorrupt: The files of the checkpoint differ from the saved ones.
        """
        step(self._run_restore(os.fspath(checkpoint_path)))

    def save_to_object(self) -> bytes:
        """Save the state as bytes, whether ``_save`` returns a dict or a path."""
        return step(self._run_save_to_object())

    def restore_from_object(self, obj: bytes) -> None:
        """Restore the bytes that :meth:`save_to_object` of this or another instance returned."""
        step(self._run_restore_from_object(obj))

    def delete_checkpoint(self, checkpoint_path: str) -> None:
        """Delete the checkpoint that contains the path. A missing checkpoint is no error."""
        step(self._run_delete_checkpoint(os.fspath(checkpoint_path)))

    def export_model(
        self, export_formats: str | list[str], export_dir: str | None = None
    ) -> dict[str, str]:
        """Export the model.

        Args:
            export_formats: One format or several; ``_export_model`` defines their meaning.
            export_dir: The directory of the exported files; by default the logdir.

        Returns:
            A dict format -> path of the exported model.
        """
        return step(self._run_export_model(export_formats, export_dir))

    def stop(self) -> None:
        """Release all resources: close the logger, then call ``_stop()``."""
        step(self._run_stop())

    def reset_config(self, new_config: dict[str, Any]) -> bool | Awaitable[bool]:
        """Switch to new hyperparameters without a rebuild. Override this method to allow that.

        Args:
            new_config: The new configuration; it becomes ``self.config`` if the method returns True.

        Returns:
            Whether the object now uses ``new_config``. The default is False: the object must be
            rebuilt.
        """
        return False

    def get_config(self) -> dict[str, Any]:
        """Return the configuration: the dict itself, not a copy."""
        return self.config

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Resources | None:
        """Return the resources of a trial with this configuration; None for the default of the run."""
        return None

    @classmethod
    def resource_help(cls, config: dict[str, Any]) -> str:
        """Return advice on resources, for the error about a request that can never be satisfied."""
        return ""

    @property
    def iteration(self) -> int:
        """The number of trained iterations, restored ones included."""
        return self._counters.iteration

    @property
    def _iteration(self) -> int:  # subclasses written for the Trainable of Ray Tune read this name
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
        """The id of the trial; None outside a run."""
        return self._context.trial_id if self._context else None

    @property
    def trial_name(self) -> str | None:
        """The name of the trial; None outside a run."""
        return self._context.trial_name if self._context else None

    # -- hooks ----------------------------------------------------------------------------------

    def _setup(self, config: dict[str, Any]) -> Any:
        """Prepare for training. ``config`` is a copy of ``self.config``."""

    def _train(self) -> Any:
        """Train one iteration and return a dict of metrics."""
        raise NotImplementedError(f"{type(self).__qualname__} defines neither _train nor step")

    def _save(self, tmp_checkpoint_dir: str) -> Any:
        """Write the state below ``tmp_checkpoint_dir`` and return the path, or return a dict."""
        raise NotImplementedError(
            f"{type(self).__qualname__} cannot be saved: it defines neither _save nor save_checkpoint"
        )

    def _restore(self, checkpoint: Any) -> Any:
        """Load a state: the dict that ``_save`` returned, or the path, below another directory."""
        raise NotImplementedError(
            f"{type(self).__qualname__} cannot be restored: it defines neither _restore nor "
            "load_checkpoint"
        )

    def _log_result(self, result: Row) -> Any:
        """Log a result in the process that trains. In a run the driver logs the result too."""
        self._result_logger.on_result(result)

    def _stop(self) -> Any:
        """Release the resources of the trainable."""

    def _export_model(self, export_formats: list[str], export_dir: str) -> Any:
        """Export the model and return a dict format -> path."""
        return {}

    # -- implementation of each operation -------------------------------------------------------

    async def _run_setup(self) -> None:
        await self._hook("_setup", copy_config(self.config))

    async def _run_train(self) -> Row:
        start = time.monotonic()
        reported = await self._hook("_train")
        if not isinstance(reported, Mapping):
            raise TypeError(
                f"{type(self).__qualname__}.{self._spelling('_train')}() must return a dict of "
                f"metrics, got {reported!r}"
            )
        if _result.RESULT_DUPLICATE in reported:
            return dict(reported)
        row = dict(reported)
        self._counters.fill(row, time.monotonic() - start)
        row[_result.CONFIG] = self.config
        if self._context and self._context.trial_id is not None:
            row[_result.TRIAL_ID] = self._context.trial_id
            row[_result.EXPERIMENT_TAG] = self._context.experiment_tag or ""
        row = _result.without_secrets(row)  # the user's logger must not write secrets either
        if self._context is None or defines_hook(type(self), "_log_result"):
            await self._hook("_log_result", row)  # in all other cases the driver logs
        return row

    async def _run_save(self, checkpoint_dir: str | None = None) -> str:
        root, relative = await self._commit(os.path.abspath(checkpoint_dir or self._logdir))
        return await self._hooks.blocking(_checkpoint.as_path, root, relative)

    async def _commit(self, parent: str) -> tuple[Path, str]:
        name = f"checkpoint_{self.iteration}"
        target = await self._hooks.blocking(_checkpoint.make_staging_dir, parent, name)
        hook = f"{type(self).__qualname__}.{self._spelling('_save')}()"
        try:
            saved = await self._hook("_save", str(target))
            relative, is_dict = await self._hooks.blocking(
                _checkpoint.write_saved, saved, target, hook
            )
            root = await self._hooks.blocking(
                lambda: _checkpoint.commit(
                    target,
                    relative,
                    saved_as_dict=is_dict,
                    state=self._counters.state(),
                    parent=parent,
                )
            )
        except Exception as exc:
            # Libraries hide a full disk behind errors of their own, so probe the disk itself.
            await self._hooks.blocking(_checkpoint.raise_if_storage_failed, exc, target)
            raise
        finally:
            await self._hooks.blocking(_checkpoint.remove_staging_dir, target)
        return root, relative

    async def _run_restore(self, checkpoint_path: str) -> None:
        manifest, checkpoint = await self._hooks.blocking(_read_checkpoint, checkpoint_path)
        await self._hook("_restore", checkpoint)
        # After the hook, so that a hook that raises leaves the counters unchanged.
        self._counters.restore(manifest.state)

    async def _run_save_to_object(self) -> bytes:
        staging_dir = await self._hooks.blocking(
            _checkpoint.make_staging_dir, self._logdir, "save_to_object"
        )
        try:
            root, _ = await self._commit(str(staging_dir))
            return await self._hooks.blocking(_pack, root)
        finally:
            await self._hooks.blocking(_checkpoint.remove_staging_dir, staging_dir)

    async def _run_restore_from_object(self, obj: bytes) -> None:
        staging_dir = await self._hooks.blocking(
            _checkpoint.make_staging_dir, self._logdir, "restore_from_object"
        )
        try:
            path = await self._hooks.blocking(unpack, obj, staging_dir)
            # Not self._run_restore: a durable trainable would also search its storage for this name.
            await Trainable._run_restore(self, str(path))
        finally:
            await self._hooks.blocking(_checkpoint.remove_staging_dir, staging_dir)

    async def _run_delete_checkpoint(self, checkpoint_path: str) -> None:
        await self._hooks.blocking(_checkpoint.delete, checkpoint_path)

    async def _run_export_model(
        self, export_formats: str | list[str], export_dir: str | None = None
    ) -> dict[str, str]:
        formats = [export_formats] if isinstance(export_formats, str) else list(export_formats)
        exported = await self._hook("_export_model", formats, export_dir or self._logdir)
        return dict(exported or {})

    async def _run_reset_config(self, new_config: dict[str, Any]) -> bool:
        if accepted := bool(await self._hooks.hook(self.reset_config, new_config)):
            self.config = new_config
        return accepted

    async def _run_get_config(self) -> dict[str, Any]:
        return self.get_config()

    async def _run_stop(self) -> str | None:
        try:
            try:
                if not isinstance(self._result_logger, NoopLogger):
                    await self._hooks.blocking(self._result_logger.flush)
                    await self._hooks.blocking(self._result_logger.close)
            finally:
                await self._hook("_stop")  # its return value is the user's own business
        finally:
            self._hooks.close()
        return self._shutdown_note

    # -- helpers --------------------------------------------------------------------------------

    async def _hook(self, name: str, *args: Any) -> Any:
        return await self._hooks.hook(getattr(self, self._spelling(name)), *args)

    def _spelling(self, name: str) -> str:
        return self._hook_names.get(name, name)

    def _create_logger(self, creator: Callable[[dict[str, Any]], Logger] | None) -> Logger:
        if creator is not None:
            logger = creator(self.config)
            logdir = getattr(logger, "logdir", None)
            if not isinstance(logdir, str):
                raise ConfigError(
                    f"logger_creator must return a Logger with a logdir, got {logger!r}"
                )
            self._logdir = os.path.abspath(logdir)
            return logger
        if self._context is not None:
            self._logdir = self._context.logdir
            return NoopLogger(self.config, self._logdir)
        from asynctune.loggers.unified import UnifiedLogger  # late: workers write no log files

        self._logdir = new_standalone_dir(type(self).__qualname__)
        return UnifiedLogger(self.config, self._logdir)


def defines_hook(cls: type[Trainable], name: str) -> bool:
    """Return whether a class overrides a hook, in either spelling."""
    return name in cls._hook_names or getattr(cls, name) is not getattr(Trainable, name)


def is_async(cls: type[Trainable]) -> bool:
    """Return whether a hook of a class is ``async def``, so that the trainable needs a loop."""
    names = (*_LATER_SPELLING, "_export_model", "reset_config")
    return any(
        inspect.iscoroutinefunction(getattr(cls, cls._hook_names.get(name, name))) for name in names
    )


def _read_checkpoint(checkpoint_path: str) -> tuple[Manifest, Any]:
    """Verify a checkpoint. Return its manifest and the argument for ``_restore``."""
    manifest, path = _checkpoint.locate(checkpoint_path)
    if not manifest.saved_as_dict:
        return manifest, path
    # Checkpoints are unpickled only in this function: in the worker, verified, on request.
    return manifest, pickle.loads(Path(path).read_bytes()) | {"tune_checkpoint_path": path}


def _pack(root: Path) -> bytes:
    from asynctune.storage.checkpoints import archive  # late: few workers need it

    return archive.pack(root)


def unpack(obj: bytes, parent: Path) -> Path:
    """Write the return value of ``save_to_object`` below a directory. Return the path to restore from."""
    from asynctune.storage.checkpoints import archive

    return archive.unpack(obj, parent)
