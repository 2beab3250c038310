"""DurableTrainable: a trainable whose checkpoints live in a storage, and can be restored anywhere."""

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
from asynctune.trainable.context import host


class DurableTrainable(Trainable):
    """A :class:`Trainable` that keeps its checkpoints in a storage. It has the same hooks.

    :meth:`save` returns when the checkpoint is committed there. What it returned, every instance with the
    same ``remote_checkpoint_dir`` can restore, on any machine. In a run, which needs ``upload_dir`` or a
    remote ``storage_path``, each trial has a directory of its own there.

    Args:
        remote_checkpoint_dir: A URL such as ``s3://bucket/path`` or ``gs://bucket/path``, or a directory;
            kept under this name. It is there before ``_setup`` is called, as is ``storage_client``.
        *args: As for :class:`Trainable`.
        storage_options: As for :func:`asynctune.run`, outside of a run.
        **kwargs: As for :class:`Trainable`.

    Attributes:
        storage_client: The :class:`~asynctune.storage.Storage` there, as ``_create_storage_client()``
            made it, which may be overridden.
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
                f"remote_checkpoint_dir is {remote_checkpoint_dir!r}; a URL such as 's3://bucket/path' "
                "is wanted"
            )
        self.remote_checkpoint_dir = os.fspath(remote_checkpoint_dir)
        self._storage_options = storage_options
        place = host.get()
        self._remote = place.remote if place is not None else None
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
        """Save the state, and return when it is committed in the storage.

        Args:
            checkpoint_dir: Where to put the local copy; it has to lie in the logdir, which is the default.

        Returns:
            The path of the local copy, for :meth:`restore`, here or elsewhere.

        Raises:
            ValueError: ``checkpoint_dir`` lies elsewhere.
            Fenced: A later attempt of the same trial, or another instance, has begun to save there.
            StorageError: It is not known to be stored; it counts as nothing, and is not here either.
        """
        return super().save(checkpoint_dir)

    def restore(self, checkpoint_path: str) -> None:
        """Restore a state that :meth:`save` wrote, from the local copy or from the storage.

        A local copy that is missing or damaged is brought from the storage; one that comes damaged is read
        once more.

        Args:
            checkpoint_path: What ``save`` returned, perhaps to another instance.

        Raises:
            FileNotFoundError: It is neither here nor there.
            CheckpointCorrupt: It came damaged twice. ``commits()`` has those before it.
        """
        super().restore(checkpoint_path)

    def delete_checkpoint(self, checkpoint_path: str) -> None:
        """Delete a checkpoint, in the storage first; also when there is no local copy.

        Returns when it is gone. A missing one is no error.
        """
        super().delete_checkpoint(checkpoint_path)

    def commits(self) -> list[str]:
        """Return what can be restored, as paths for :meth:`restore`, the newest first."""
        names = [commit.name for commit in self._commits.newest_first(damaged=[])]
        return [os.path.join(self._logdir, name) for name in names]

    async def _run_save(self, checkpoint_dir: str | None = None) -> str:
        parent = await self._calls.blocking(os.path.abspath, checkpoint_dir or self._logdir)
        if not Path(parent).is_relative_to(self._logdir):
            raise ValueError(
                f"checkpoint_dir is {checkpoint_dir!r}, which does not lie in the logdir {self._logdir!r}; "
                "another instance would not find the checkpoint by its path"
            )
        root, relative = await self._commit(parent)
        root = await self._calls.blocking(self._store, root)
        return await self._calls.blocking(_checkpoint.as_path, root, relative)

    async def _run_restore(self, checkpoint_path: str) -> None:
        path = await self._calls.blocking(self._download, checkpoint_path)
        await super()._run_restore(path)

    async def _run_delete_checkpoint(self, checkpoint_path: str) -> None:
        name, _ = self._split(checkpoint_path)
        if name:
            await self._calls.blocking(self._commits.delete, name)
        await super()._run_delete_checkpoint(checkpoint_path)

    def _store(self, root: Path) -> Path:
        """Commit a local checkpoint under a name that nobody has used; return where it now is."""
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
        """See that a checkpoint is here and whole; return the path to restore from."""
        try:
            _checkpoint.locate(checkpoint_path)
        except (FileNotFoundError, CheckpointCorrupt) as exc:
            name, inner = self._split(checkpoint_path)
            commit = self._commits.find(name) if name else None
            if commit is None:
                exc.add_note(f"nor is {name!r} in {self.remote_checkpoint_dir}")
                raise
        else:
            return checkpoint_path
        root = self._commits.fetch(commit, Path(self._logdir))
        return os.path.join(root, inner) if inner else str(root)

    def _split(self, path: str) -> tuple[str, str]:
        """Split a path into the name of the checkpoint, "" for none, and what in it is meant."""
        full = Path(os.path.abspath(path))
        is_own = full.is_relative_to(self._logdir)
        if self._remote is not None and not is_own:
            return "", ""  # another trial's: one of ours may be called the same
        parts = full.relative_to(self._logdir).parts if is_own else full.parts
        # What lies in a checkpoint may be called like one, so it is the first that counts.
        for index, part in enumerate(parts):
            if is_checkpoint(part):
                return part, os.path.join(*parts[index + 1 :], "") if parts[index + 1 :] else ""
        return "", ""
