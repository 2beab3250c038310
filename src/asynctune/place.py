"""Where an experiment will be: its folder and its name, as the arguments of a run say."""

from __future__ import annotations

import os
import re
import secrets
from datetime import datetime
from typing import Any

from asynctune.blame import about, shown
from asynctune.errors import ConfigError, UnsafePath
from asynctune.hosting import results_dir


def parent_of(storage_path: Any, local_dir: Any) -> str:
    """Return the folder of an experiment.

    Raises:
        ConfigError: It is none; the message names the argument.
    """
    if storage_path is not None and local_dir is not None:
        raise ConfigError("storage_path and local_dir are two names of one thing; give one of them")
    argument, given = "storage_path", storage_path
    if storage_path is None:
        argument, given = "local_dir", local_dir
    if given is None:
        return results_dir()
    with about(argument):
        return _folder(argument, given)


def name_of(name: Any, trainable_name: str) -> str:
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
        raise ConfigError(f"name is {shown(name)}; a string is wanted")
    _check_name(name)
    return name


def _folder(argument: str, given: Any) -> str:
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else b""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{argument} is {shown(given)}; a path is wanted")
    os.fsencode(path)  # a name that the system cannot have raises here
    if not re.match(r"[a-z][a-z0-9+.-]*://", path):
        return os.path.abspath(os.path.expanduser(path))
    if not path.startswith("file://"):
        raise ConfigError(f"{argument} is {path!r}; this version writes to local directories only")
    return os.path.abspath(path.removeprefix("file://"))


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise UnsafePath(
            f"name is {name!r}, which would leave the results folder; a plain name without slashes "
            "is wanted (the folder is storage_path)"
        )
    if len(name.encode("utf-8", "surrogatepass")) > 200 or not name.isprintable():
        raise UnsafePath(f"name is {name!r}; at most 200 bytes of printable characters are wanted")
