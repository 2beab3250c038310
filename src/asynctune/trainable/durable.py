"""DurableTrainable: a trainable with checkpoints in a storage, for a restore on any machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asynctune.errors import CheckpointCorrupt, ConfigError
from asynctune.storage import Storage, open_storage
from asynctune.storage.checkpoints import directory as _checkpoint
from asynctune.storage.checkpoints.commits import Commits
from asynctune.storage.checkpoints.manifest import is_checkpoint
from asynctune.storage.checkpoints.records import Writer
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import current_context


class DurableTrainable(Trainable):
    """A :class:`Trainable` that stores its checkpoints in a storage. The hooks are the same.

    :meth:`save` returns when the checkpoint is committed in the storage. Every instance with the same
    ``remote_checkpoint_dir`` can restore the returned path, on any machine. A run needs ``upload_dir`` or
    a remote ``storage_path``, and gives each trial its own ``remote_checkpoint_dir`` below that location.

    Args:
        remote_checkpoint_dir: A URL such as ``s3://bucket/path`` or ``gs://bucket/path``, or a directory.
            The attribute of the same name is set before ``_setup`` is called, as is ``storage_client``.
        *args: Positional arguments of :class:`Trainable`.
        storage_options: The options of the storage, as for :func:`asynctune.run`; only outside a run.
        **kwargs: Keyword arguments of :class:`Trainable`.

    Attributes:
        storage_client: The :class:`~asynctune.storage.Storage` at ``remote_checkpoint_dir``, created by
            ``_create_storage_client()``, which a subclass may override.
    """

    def __init__(
        self,
        remote_checkpoint_dir: str | os.PathLike[str],
        *args: Any,
        storage_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(remote_checkpoint_dir, str | os.PathLike) or not remote_checkpoint_dir:
            raise ConfigError(
                "remote_checkpoint_dir must be a URL such as 's3://bucket/path' or a directory, got "
                f"{remote_checkpoint_dir!r}"
            )
        self.remote_checkpoint_dir = os.fspath(remote_checkpoint_dir)
        self._storage_options = storage_options
        context = current_context.get()
        self._remote = context.remote if context is not None else None
        self.storage_client: Storage = self._create_storage_client()
        writer = self._remote.writer if self._remote is not None else Writer()
        self._commits = Commits(self.storage_client, writer)
        super().__init__(*args, **kwargs)

    def _create_storage_client(self) -> Storage:
        """Return the storage at ``remote_checkpoint_dir``."""
        if self._remote is not None:
            return self._remote.storage
        return open_storage(self.remote_checkpoint_dir, self._storage_options)

    def save(self, checkpoint_dir: str | None = None) -> str:
        """Save the state. Return when the checkpoint is committed in the storage.

        Args:
            checkpoint_dir: The parent directory of the local copy, inside the logdir; by default the
                logdir.

        Returns:
            The path of the local copy, for :meth:`restore` on this or another machine.

        Raises:
            ValueError: ``checkpoint_dir`` is not inside the logdir.
            Fenced: A later attempt of the same trial, or another instance, has begun to save in the same
                ``remote_checkpoint_dir``.
            StorageError: The storage did not confirm the commit. The checkpoint does not count, and the
                local copy is deleted.
        """
        return super().save(checkpoint_dir)

    def restore(self, checkpoint_path: str) -> None:
        """Restore a state that :meth:`save` wrote, from the local copy or from the storage.

        A checkpoint whose local copy is missing or damaged is downloaded. A download that arrives damaged
        is retried once.

        Args:
            checkpoint_path: The path that ``save`` of this or another instance returned.

        Raises:
            FileNotFoundError: The checkpoint is neither local nor in the storage.
            CheckpointCorrupt: The download was damaged twice. :meth:`commits` lists older checkpoints.
        """
        super().restore(checkpoint_path)

    def delete_checkpoint(self, checkpoint_path: str) -> None:
        """Delete a checkpoint: first in the storage, then the local copy, if any.

        The method returns when both are deleted. A missing checkpoint is no error.

        Args:
            checkpoint_path: The path that ``save`` of this or another instance returned.
        """
        super().delete_checkpoint(checkpoint_path)

    def commits(self) -> list[str]:
        """Return the committed checkpoints as paths for :meth:`restore`, newest first."""
        names = [commit.name for commit in self._commits.newest_first(damaged=[])]
        return [os.path.join(self._logdir, name) for name in names]

    async def _run_save(self, checkpoint_dir: str | None = None) -> str:
        parent = await self._hooks.blocking(os.path.abspath, checkpoint_dir or self._logdir)
        if not Path(parent).is_relative_to(self._logdir):
            raise ValueError(
                f"checkpoint_dir must be inside the logdir {self._logdir!r}, got {checkpoint_dir!r}; "
                "another instance would not find the checkpoint by its path"
            )
        root, relative = await self._commit(parent)
        root = await self._hooks.blocking(self._commit_remotely, root)
        return await self._hooks.blocking(_checkpoint.as_path, root, relative)

    async def _run_restore(self, checkpoint_path: str) -> None:
        path = await self._hooks.blocking(self._download, checkpoint_path)
        await super()._run_restore(path)

    async def _run_delete_checkpoint(self, checkpoint_path: str) -> None:
        name, _ = self._split_path(checkpoint_path)
        if name:
            await self._hooks.blocking(self._commits.delete, name)
        await super()._run_delete_checkpoint(checkpoint_path)

    def _commit_remotely(self, root: Path) -> Path:
        """Commit a local checkpoint in the storage under an unused name. Return its local directory.

        The local checkpoint is renamed if its name is in use, and deleted if the commit fails.
        """
        name, number = root.name, 0
        try:
            while self._commits.is_taken(name) or (
                name != root.name and (root.parent / name).exists()
            ):
                number += 1
                name = f"checkpoint_{self.iteration}.{number}"
            if name != root.name:
                root = root.rename(root.parent / name)
            self._commits.commit(root)
        except BaseException:
            _checkpoint.delete(root)
            raise
        return root

    def _download(self, checkpoint_path: str) -> str:
        """Download a checkpoint unless an undamaged local copy exists. Return the path to restore."""
        try:
            _checkpoint.locate(checkpoint_path)
        except (FileNotFoundError, CheckpointCorrupt) as exc:
            name, inner = self._split_path(checkpoint_path)
            commit = self._commits.find(name) if name else None
            if commit is None:
                exc.add_note(f"{name!r} is not in {self.remote_checkpoint_dir} either")
                raise
        else:
            return checkpoint_path
        root = self._commits.fetch(commit, Path(self._logdir))
        return os.path.join(root, inner) if inner else str(root)

    def _split_path(self, path: str) -> tuple[str, str]:
        """Split a path into the name of a checkpoint and the path inside; both "" if there is no name."""
        full = Path(os.path.abspath(path))
        is_own = full.is_relative_to(self._logdir)
        if self._remote is not None and not is_own:
            return "", ""  # a checkpoint of another trial; one of this trial may have the same name
        parts = full.relative_to(self._logdir).parts if is_own else full.parts
        # The first match: a directory inside a checkpoint may be named like a checkpoint.
        for index, part in enumerate(parts):
            if is_checkpoint(part):
                return part, os.path.join(*parts[index + 1 :], "") if parts[index + 1 :] else ""
        return "", ""
