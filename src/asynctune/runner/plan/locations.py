"""Where an experiment will be: its folder, its name, and where it is kept beside that."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from asynctune._checks import naming_argument, safe_repr
from asynctune.errors import ConfigError, UnsafePath
from asynctune.runner.plan.options import Options
from asynctune.storage import Storage, open_storage
from asynctune.storage.urls import check_spelling, is_url, path_of
from asynctune.trainable.context import results_dir


def resolve_locations(options: Options, name: str) -> tuple[str, Storage | None]:
    """Return the local folder of an experiment, and where it is kept beside that.

    Args:
        options: The arguments of the run.
        name: The name of the experiment.

    Raises:
        ConfigError: A place is none; the message names the argument.
    """
    path, local, upload = options.storage_path, options.local_dir, options.upload_dir
    argument, given = "storage_path", path
    if path is None:
        argument, given = "local_dir", local
    elif local is not None and not _is_remote(path):
        raise ConfigError("storage_path and local_dir are two names of one thing; give one of them")
    if _is_remote(given):
        if upload is not None:
            raise ConfigError(
                f"{argument} is remote, and upload_dir is given too; give one of them"
            )
        # What is remote is written here first.
        where, remote_argument = given, argument
        argument, given = "local_dir", local if argument == "storage_path" else None
    else:
        where, remote_argument = upload, "upload_dir"
    folder = results_dir()
    if given is not None:
        with naming_argument(argument):
            folder = _folder(argument, given)
    if options.storage_options is not None and not isinstance(options.storage_options, Mapping):
        raise ConfigError(
            f"storage_options is {safe_repr(options.storage_options)}; a dict is wanted"
        )
    if where is None:
        if options.storage_options:
            raise ConfigError(
                "storage_options is given, but neither upload_dir nor a remote storage_path"
            )
        return folder, None
    with naming_argument(remote_argument):
        remote = open_storage(where, options.storage_options).below(name)
    if remote.url == Path(folder, name).as_uri():
        raise ConfigError(
            f"{remote_argument} is where the experiment is written anyway, {folder}; give another place"
        )
    return folder, remote


def _is_remote(where: Any) -> bool:
    """Tell whether a place is another than a directory of this machine."""
    if isinstance(where, str):
        return is_url(where) and not where.lower().startswith("file://")
    return where is not None and not isinstance(where, os.PathLike)


def experiment_name(name: Any, trainable_name: str) -> str:
    """Return the name of an experiment, a new one if none was given.

    Raises:
        ConfigError: It is no string.
        UnsafePath: It is not that of one plain directory.
    """
    if name is None:
        label = re.sub(r"[^A-Za-z0-9_-]", "-", trainable_name)[:60]
        moment = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        return f"{label}_{moment}_{secrets.token_hex(3)}"
    if not isinstance(name, str):
        raise ConfigError(f"name is {safe_repr(name)}; a string is wanted")
    _check_name(name)
    return name


def _folder(argument: str, given: Any) -> str:
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else b""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{argument} is {safe_repr(given)}; a path is wanted")
    os.fsencode(path)  # a name that the system cannot have raises here
    check_spelling(path)
    return path_of(path) if is_url(path) else os.path.abspath(os.path.expanduser(path))


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise UnsafePath(
            f"name is {name!r}, which would leave the results folder; a plain name without slashes "
            "is wanted (the folder is storage_path)"
        )
    if len(name.encode("utf-8", "surrogatepass")) > 200 or not name.isprintable():
        raise UnsafePath(f"name is {name!r}; at most 200 bytes of printable characters are wanted")
