"""The manifest of a checkpoint, which lists its files. Readers do not trust its content."""

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

STAGING_PREFIX = ".tmp-"
"""The prefix of the names of staging directories, whose content is incomplete."""
MANIFEST = ".manifest.json"
DICT_FILE = "checkpoint"
FORMAT = 1
_CHECKPOINT_NAME = re.compile(r"checkpoint_[0-9]+(\.[0-9]+)?\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a checkpoint directory.

    Args:
        path: The path that ``_save`` returned, relative to the directory; ``""`` is the directory itself.
        saved_as_dict: Whether ``path`` is a pickled dict.
        state: The counters of the trainable at the time of the save.
        files: The size in bytes and the sha256 of each file by its relative path.
        directories: The relative paths of the directories, including empty ones.
    """

    path: str
    saved_as_dict: bool
    state: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]]
    directories: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Return the manifest as JSON with a checksum."""
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
        """Parse and check a manifest.

        Args:
            data: The content of the manifest file.
            where: The path or URL of the manifest, for error messages.

        Raises:
            CheckpointCorrupt: The manifest is damaged, or of a later version of asynctune.
            UnsafePath: The manifest names a path outside the checkpoint.
        """
        try:
            return cls._from_body(_check_object(json.loads(data)), where)
        except UnsafePath:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise CheckpointCorrupt(
                f"{where} is no valid manifest of a checkpoint: {exc!r}"
            ) from exc

    @classmethod
    def _from_body(cls, body: dict[str, Any], where: Path | str) -> Manifest:
        if body["format"] != FORMAT:
            raise CheckpointCorrupt(
                f"{where} has format {body['format']!r}; this version of asynctune reads {FORMAT}"
            )
        if body.pop("checksum", None) != checksum(body):
            raise ValueError("the checksum does not match")
        files = {
            check_relative_path(name, where): _check_entry(entry)
            for name, entry in _check_object(body["files"]).items()
        }
        directories = tuple(check_relative_path(name, where) for name in body["directories"])
        _check_no_conflict(files, directories)
        path, saved_as_dict = body["path"], body["saved_as_dict"]
        if path != "":
            check_relative_path(path, where)
        if not isinstance(saved_as_dict, bool):
            raise TypeError(f"saved_as_dict must be a bool, got {saved_as_dict!r}")
        if saved_as_dict and path not in files:
            # The pickled dict must be a file of the manifest, so that its sha256 is checked first.
            raise ValueError(f"the path of a saved dict must be one of the files, got {path!r}")
        return cls(path, saved_as_dict, _check_state(body["state"]), files, directories)


def is_checkpoint(name: str) -> bool:
    """Return whether a name has the form of a checkpoint directory's name."""
    return _CHECKPOINT_NAME.match(name) is not None


def check_relative_path(name: Any, where: Path | str) -> str:
    """Return a relative path unchanged if it stays inside the checkpoint.

    Args:
        name: The relative path.
        where: The manifest with the path, for error messages.

    Raises:
        UnsafePath: The path leads out of the checkpoint, or no file can have this name.
        TypeError: The path is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"a path must be a str, got {name!r}")
    pure = PurePosixPath(name)
    unsafe = pure.is_absolute() or not pure.parts or ".." in pure.parts or "\0" in name
    if unsafe or pure.as_posix() != name or pure.parts[0] == MANIFEST:
        raise UnsafePath(f"{where} names {name!r}, which is no plain path inside the checkpoint")
    try:
        long = any(len(part.encode()) > _MAX_NAME_BYTES for part in pure.parts)
    except UnicodeEncodeError:
        long = True
    if long:
        raise UnsafePath(f"{where} names {name[:50]!r}..., a name that no file can have")
    return name


def _check_no_conflict(files: Mapping[str, Any], directories: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if a path is both a file and a directory."""
    # With "/" sorted first, the content of a directory directly follows the directory.
    names = sorted((*files, *directories), key=lambda name: name.replace("/", "\0"))
    for name, following in pairwise(names):
        if name in files and (following == name or following.startswith(f"{name}/")):
            raise ValueError(f"{name!r} is both a file and a directory")


def checksum(body: Mapping[str, Any]) -> str:
    """Return the sha256 of an object's JSON text with sorted keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _check_entry(entry: Any) -> tuple[int, str]:
    size, digest = entry
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        raise TypeError(f"the entry of a file must be its size and sha256, got {entry!r}")
    if not _SHA256.match(digest):
        raise ValueError(f"a sha256 must be 64 hexadecimal digits, got {digest!r}")
    return size, digest


def _check_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"the value must be a JSON object, got {value!r}")
    return value


def _check_state(value: Any) -> dict[str, Any]:
    """Check the counters, from which the restored trainable continues to count."""
    state = _check_object(value)
    if not isinstance(state["experiment_id"], str):
        raise TypeError(f"experiment_id must be a str, got {state['experiment_id']!r}")
    if type(state["iteration"]) is not int or state["iteration"] < 0:
        raise TypeError(f"iteration must be an int of 0 or more, got {state['iteration']!r}")
    for name in ("time_total", "timesteps_total", "episodes_total"):
        number = state[name]
        if number is None and name != "time_total":
            continue
        if type(number) not in (int, float) or not math.isfinite(number):
            raise TypeError(f"{name} must be a finite number, got {number!r}")
    return state
