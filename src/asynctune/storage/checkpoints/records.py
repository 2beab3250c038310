"""The records of a trial's checkpoints in a storage. Readers do not trust their content."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from asynctune.errors import CheckpointCorrupt, UnsafePath
from asynctune.storage.checkpoints.manifest import checksum, is_checkpoint

FORMAT = 1
_SAVE_ID = re.compile(r"[0-9a-f]{24}\Z")


class NewerRecord(CheckpointCorrupt):
    """A record in the format of a later version of asynctune: not damaged, but not readable."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer of checkpoints. Of two writers of a storage, the later one owns it.

    Args:
        epoch: The number of drivers that the experiment had before.
        attempt: The number of attempts that the trial had before.
        token: The random text that distinguishes two writers of equal epoch and attempt.
    """

    epoch: int = 0
    attempt: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def rank(self) -> tuple[int, int]:
        """The order of writers in time; a later writer has a greater rank."""
        return self.epoch, self.attempt


@dataclass(frozen=True, slots=True)
class Commit:
    """A record of one of three kinds.

    A commit (with a name) says that a checkpoint is complete, a claim (``begins``) that a writer begins. A
    placeholder (neither) keeps the last number in use when the commit with that number is deleted.

    Args:
        number: The position in the order of all records, from 1.
        writer: The writer of the record.
        begins: Whether the record is a claim.
        name: The name of the checkpoint, e.g. ``checkpoint_5``, or ``""``.
        save_id: The part of the prefix that is unique to each save.
        manifest: The manifest of the checkpoint as JSON text.
    """

    number: int
    writer: Writer
    begins: bool = False
    name: str = ""
    save_id: str = ""
    manifest: str = ""

    @property
    def prefix(self) -> str:
        """The prefix of the checkpoint's files in the storage."""
        return f"{self.name}/{self.save_id}/"

    def to_json(self) -> bytes:
        """Return the record as JSON with a checksum."""
        writer: dict[str, Any] = {"epoch": self.writer.epoch, "attempt": self.writer.attempt}
        writer["token"] = self.writer.token
        body: dict[str, Any] = {"format": FORMAT, "writer": writer, "begins": self.begins}
        if self.name:
            body |= {"name": self.name, "save_id": self.save_id, "manifest": self.manifest}
        return json.dumps(body | {"checksum": checksum(body)}).encode()

    @classmethod
    def from_json(cls, data: bytes, number: int, where: str) -> Commit:
        """Parse and check a record.

        Args:
            data: The content of the record's object.
            number: The number of the record.
            where: The URL of the record, for error messages.

        Raises:
            CheckpointCorrupt: The record is damaged.
            NewerRecord: The record is that of a later version of asynctune.
            UnsafePath: The record names a checkpoint as no save does.
        """
        try:
            body = json.loads(data)
            _check_format(body, where)
            fields = body["writer"]
            writer = Writer(
                _check_count(fields["epoch"]),
                _check_count(fields["attempt"]),
                _check_text(fields["token"]),
            )
            if "name" not in body:
                return cls(number, writer, body["begins"] is True)
            name, save_id = _check_text(body["name"]), _check_text(body["save_id"])
            check_name(name, save_id, where)
            return cls(number, writer, False, name, save_id, _check_text(body["manifest"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            if isinstance(exc, UnsafePath):
                raise
            raise CheckpointCorrupt(f"{where} is no valid record of a checkpoint: {exc!r}") from exc


def _check_format(body: Any, where: str) -> None:
    version = body["format"]
    if version != FORMAT:
        is_newer = type(version) is int and version > FORMAT
        raise (NewerRecord if is_newer else CheckpointCorrupt)(
            f"{where} has format {version!r}; this version of asynctune reads {FORMAT}"
        )
    if body.pop("checksum") != checksum(body):
        raise ValueError("the checksum does not match")


def check_name(name: str, save_id: str, where: str) -> None:
    """Check the name and the id of a save.

    Args:
        name: The name of the checkpoint.
        save_id: The id of the save.
        where: The record or directory with the name, for error messages.

    Raises:
        UnsafePath: The name or the id does not have the form that asynctune gives them.
    """
    if not (is_checkpoint(name) and _SAVE_ID.match(save_id)):
        raise UnsafePath(
            f"{where} names the save {name[:50]!r}/{save_id[:50]!r}; the name must be checkpoint_<n> or "
            "checkpoint_<n>.<attempt>, and the id 24 hexadecimal digits"
        )


def _check_count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"a count must be an int of 0 or more, got {value!r}")
    return value


def _check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text must be a str, got {value!r}")
    value.encode()  # Raises for half of a surrogate pair.
    return value
