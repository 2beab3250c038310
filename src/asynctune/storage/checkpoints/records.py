"""The records of a trial's checkpoints in a storage, read without trust in who wrote them."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from asynctune.errors import CheckpointCorrupt, UnsafePath
from asynctune.storage.checkpoints.manifest import checksum, is_checkpoint

FORMAT = 1
_ID = re.compile(r"[0-9a-f]{24}\Z")


class NewerRecord(CheckpointCorrupt):
    """A record of a version of asynctune that came after this one: not damaged, and not to be read."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes. Of two, the later one owns the place.

    Args:
        epoch: How many drivers the experiment had before.
        attempt: How many attempts the trial had before.
        token: Tells apart two that say the same of themselves.
    """

    epoch: int = 0
    attempt: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def rank(self) -> tuple[int, int]:
        """Orders writers by when they came."""
        return self.epoch, self.attempt


@dataclass(frozen=True, slots=True)
class Commit:
    """A record: that a checkpoint is complete, that a writer begins, or nothing, to hold the last number.

    Args:
        number: Its place in the order of all records.
        writer: Who wrote it.
        begins: Whether it says that its writer begins.
        name: ``checkpoint_5``, or ``""``.
        save_id: The part of the prefix that no other save has.
        manifest: The manifest of the checkpoint, as it was written.
    """

    number: int
    writer: Writer
    begins: bool = False
    name: str = ""
    save_id: str = ""
    manifest: str = ""

    @property
    def prefix(self) -> str:
        """Where its files are."""
        return f"{self.name}/{self.save_id}/"

    def to_json(self) -> bytes:
        """Write it."""
        writer: dict[str, Any] = {"epoch": self.writer.epoch, "attempt": self.writer.attempt}
        writer["token"] = self.writer.token
        body: dict[str, Any] = {"format": FORMAT, "writer": writer, "begins": self.begins}
        if self.name:
            body |= {"name": self.name, "save_id": self.save_id, "manifest": self.manifest}
        return json.dumps(body | {"checksum": checksum(body)}).encode()

    @classmethod
    def from_json(cls, data: bytes, number: int, where: str) -> Commit:
        """Read and check it.

        Raises:
            CheckpointCorrupt: It is no record.
            NewerRecord: It is one of a newer version.
        """
        try:
            body = json.loads(data)
            _check(body, where)
            told = body["writer"]
            writer = Writer(_count(told["epoch"]), _count(told["attempt"]), _text(told["token"]))
            if "name" not in body:
                return cls(number, writer, body["begins"] is True)
            name, save_id = _text(body["name"]), _text(body["save_id"])
            check_name(name, save_id, where)
            return cls(number, writer, False, name, save_id, _text(body["manifest"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            if isinstance(exc, UnsafePath):
                raise
            raise CheckpointCorrupt(f"{where} is no record of a checkpoint: {exc!r}") from exc


def _check(body: Any, where: str) -> None:
    made = body["format"]
    if made != FORMAT:
        is_newer = type(made) is int and made > FORMAT
        raise (NewerRecord if is_newer else CheckpointCorrupt)(
            f"{where} has format {made!r}; this version of asynctune reads {FORMAT}"
        )
    if body.pop("checksum") != checksum(body):
        raise ValueError("it does not have the checksum that it says")


def check_name(name: str, save_id: str, where: str) -> None:
    """Refuse what is no name of a save.

    Raises:
        UnsafePath: It is none.
    """
    if not (is_checkpoint(name) and _ID.match(save_id)):
        raise UnsafePath(f"{where} names {name[:50]!r}/{save_id[:50]!r}, which no save is called")


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # half a surrogate pair is none either
    return value
