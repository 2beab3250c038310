"""The locations of an experiment: its local directory, and the storage that keeps a copy."""

from __future__ import annotations

import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from asynctune._checks import naming_argument, safe_repr
from asynctune.errors import ConfigError
from asynctune.runner.plan.options import Options
from asynctune.storage import Storage, open_storage
from asynctune.storage.base import redact_url
from asynctune.storage.urls import check_url_spelling, file_url_to_path, is_url
from asynctune.trainable.context import results_dir


def resolve_locations(options: Options, name: str) -> tuple[str, Storage | None]:
    """Return the results folder of an experiment, and the storage that keeps a copy of the experiment.

    Args:
        options: The arguments of the run.
        name: The name of the experiment.

    Raises:
        ConfigError: An argument is no location, or two of them contradict each other.
    """
    path, local, upload = options.storage_path, options.local_dir, options.upload_dir
    argument, given = "storage_path", path
    if path is None:
        argument, given = "local_dir", local
    elif local is not None and not _is_remote(path):
        shown = redact_url(local) if isinstance(local, str) else local
        raise ConfigError(
            f"local_dir must be None with a local storage_path, got {safe_repr(shown)}; both name the "
            "results folder"
        )
    if _is_remote(given):
        if upload is not None:
            raise ConfigError(
                f"upload_dir must be None with a remote {argument}; both name the storage of the copy"
            )
        # A remote experiment is written to a local folder first.
        where, remote_argument = given, argument
        argument, given = "local_dir", local if argument == "storage_path" else None
    else:
        where, remote_argument = upload, "upload_dir"
    folder = results_dir()
    if given is not None:
        with naming_argument(argument):
            folder = _folder(argument, given)
    if where is None:
        if options.storage_options:
            raise ConfigError(
                "storage_options must be None without upload_dir or a remote storage_path, got "
                f"values for {', '.join(map(str, options.storage_options))}"
            )
        return folder, None
    with naming_argument(remote_argument):
        remote = open_storage(where, options.storage_options).below(name)
    if remote.url == Path(folder, name).as_uri():
        raise ConfigError(
            f"{remote_argument} must be another place than {folder}, where the experiment is written anyway"
        )
    return folder, remote


def new_name(trainable_name: str) -> str:
    """Return a new name for an experiment: the trainable, the local time, and a random suffix."""
    label = re.sub(r"[^A-Za-z0-9_-]", "-", trainable_name)[:60]
    return f"{label}_{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}"


def _is_remote(where: Any) -> bool:
    """Return whether a location is not a directory of this machine."""
    if isinstance(where, str):
        return is_url(where) and not where.lower().startswith("file://")
    return where is not None and not isinstance(where, os.PathLike)


def _folder(argument: str, given: Any) -> str:
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else b""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{argument} must be a path, got {safe_repr(given)}")
    os.fsencode(path)  # raises for a name that the system cannot have
    check_url_spelling(path)
    return file_url_to_path(path) if is_url(path) else os.path.abspath(os.path.expanduser(path))
