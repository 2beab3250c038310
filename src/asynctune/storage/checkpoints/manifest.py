"""The manifest of a checkpoint: what its directory holds. Reading one trusts nothing in it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from asynctune.errors import CheckpointCorrupt, UnsafePath

ASIDE = ".tmp-"
"""How the names of directories begin in which something is made that is not complete."""
MANIFEST = ".manifest.json"
DICT_FILE = "checkpoint"
FORMAT = 1
_NAME = re.compile(r"checkpoint_[0-9]+(\.[0-9]+)?\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint directory holds.

    Args:
        path: What ``_save`` returned, relative to the directory, ``""`` for the directory itself.
        saved_as_dict: Whether ``path`` is a pickled dict.
        state: The counters of the trainable at that moment.
        files: Relative path -> (size in bytes, sha256).
        directories: The relative paths of the directories, empty ones included.
    """

    path: str
    saved_as_dict: bool
    state: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]]
    directories: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Write it."""
        body = {
            "format": FORMAT,
            "path": self.path,
            "saved_as_dict": self.saved_as_dict,
            "state": dict(self.state),
            "files": {name: list(entry) for name, entry in sorted(self.files.items())},
            "directories": list(self.directories),
        }
        return json.dumps(body | {"checksum": checksum(body)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: Path | str) -> Manifest:
        """Read and check it.

        Args:
            data: What was written.
            where: How errors call it.

        Raises:
            CheckpointCorrupt: It is no manifest, or one of a newer version.
            UnsafePath: It names something outside the checkpoint.
        """
        try:
            return cls._checked(_object(json.loads(data)), where)
        except UnsafePath:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise CheckpointCorrupt(f"{where} is not a checkpoint's manifest: {exc!r}") from exc

    @classmethod
    def _checked(cls, body: dict[str, Any], where: Path | str) -> Manifest:
        if body["format"] != FORMAT:
            raise CheckpointCorrupt(
                f"{where} has format {body['format']!r}; this version of asynctune reads {FORMAT}"
            )
        if body.pop("checksum", None) != checksum(body):
            raise ValueError("it does not have the checksum that it says")
        files = {
            inside(name, where): _entry(entry) for name, entry in _object(body["files"]).items()
        }
        directories = tuple(inside(name, where) for name in body["directories"])
        _refuse_clashes(files, directories)
        path, saved_as_dict = body["path"], body["saved_as_dict"]
        if path != "":
            inside(path, where)
        if not isinstance(saved_as_dict, bool):
            raise TypeError(f"saved_as_dict is {saved_as_dict!r}")
        if saved_as_dict and path not in files:
            # What is unpickled has to be a file whose sha256 is checked first.
            raise ValueError(f"saved_as_dict, but {path!r} is not among the files")
        return cls(path, saved_as_dict, _state(body["state"]), files, directories)


def is_checkpoint(name: str) -> bool:
    """Tell whether this is what the directory of a checkpoint is called."""
    return _NAME.match(name) is not None


def inside(name: Any, where: Path | str) -> str:
    """Return a relative path as it is, if it stays inside.

    Raises:
        UnsafePath: It would not, or no file can have this name.
    """
    if not isinstance(name, str):
        raise TypeError(f"a path is {name!r}")
    pure = PurePosixPath(name)
    unsafe = pure.is_absolute() or not pure.parts or ".." in pure.parts or "\0" in name
    if unsafe or pure.as_posix() != name or pure.parts[0] == MANIFEST:
        raise UnsafePath(f"{where} names {name!r}, which is no plain path inside the checkpoint")
    try:
        long = any(len(part.encode()) > _MAX_NAME for part in pure.parts)
    except UnicodeEncodeError:
        long = True
    if long:
        raise UnsafePath(f"{where} names {name[:50]!r}..., which no file can be called")
    return name


def _refuse_clashes(files: Mapping[str, Any], directories: tuple[str, ...]) -> None:
    """Refuse a file that would be a directory, too."""
    # In this order, what is inside of something comes right behind it.
    names = sorted((*files, *directories), key=lambda name: name.replace("/", "\0"))
    for name, behind in pairwise(names):
        if name in files and (behind == name or behind.startswith(f"{name}/")):
            raise ValueError(f"{name!r} is a file and a directory")


def checksum(body: Mapping[str, Any]) -> str:
    """Return the sha256 of what JSON says of a value, however its keys are ordered."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _entry(entry: Any) -> tuple[int, str]:
    size, digest = entry
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        raise TypeError(f"a file is {entry!r}; its size and sha256 are wanted")
    if not _SHA256.match(digest):
        raise ValueError(f"a sha256 is {digest!r}")
    return size, digest


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def _state(value: Any) -> dict[str, Any]:
    """Check the counters: they go on counting from here."""
    state = _object(value)
    if not isinstance(state["experiment_id"], str):
        raise TypeError(f"experiment_id is {state['experiment_id']!r}")
    if type(state["iteration"]) is not int or state["iteration"] < 0:
        raise TypeError(f"iteration is {state['iteration']!r}")
    for name in ("time_total", "timesteps_total", "episodes_total"):
        number = state[name]
        if number is None and name != "time_total":
            continue
        if type(number) not in (int, float) or not math.isfinite(number):
            raise TypeError(f"{name} is {number!r}")
    return state
