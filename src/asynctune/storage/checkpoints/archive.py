"""A checkpoint as bytes, the return value of ``save_to_object``."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from asynctune.errors import CheckpointCorrupt, UnsafePath
from asynctune.storage.checkpoints.manifest import MANIFEST, Manifest, check_relative_path

_MAGIC = b"ATCKPT1\n"


def pack(root: Path) -> bytes:
    """Return a checkpoint directory as bytes: a JSON header, then the files one after another."""
    manifest_bytes = (root / MANIFEST).read_bytes()
    manifest = Manifest.from_json(manifest_bytes, root / MANIFEST)
    header = json.dumps({"name": root.name, "manifest": manifest_bytes.decode()}).encode()
    parts = [_MAGIC, struct.pack("!Q", len(header)), header]
    parts += [(root / name).read_bytes() for name in sorted(manifest.files)]
    return b"".join(parts)


def unpack(data: bytes, parent: Path) -> Path:
    """Write packed bytes as a checkpoint directory below ``parent``.

    Returns:
        The path to restore from.

    Raises:
        CheckpointCorrupt: The bytes are not the output of :func:`pack`, or are cut.
        UnsafePath: A name in the bytes leads out of the directory.
    """
    label = Path("the checkpoint object")
    start = len(_MAGIC) + 8
    if not isinstance(data, bytes | bytearray | memoryview) or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise CheckpointCorrupt("the object must be the return value of save_to_object()")
    try:
        (length,) = struct.unpack("!Q", data[len(_MAGIC) : start])
        header = json.loads(bytes(data[start : start + length]))
        name, manifest_bytes = header["name"], header["manifest"].encode()
        manifest = Manifest.from_json(manifest_bytes, label)
        root = parent / check_relative_path(name, label)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        if isinstance(exc, UnsafePath):
            raise
        raise CheckpointCorrupt(f"the checkpoint object is damaged: {exc!r}") from exc
    size = sum(size for size, _ in manifest.files.values())
    if len(data) != start + length + size:
        raise CheckpointCorrupt(
            f"the checkpoint object has {len(data)} bytes instead of {start + length + size}"
        )
    try:
        _write_files(data, start + length, manifest, root)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as exc:
        raise CheckpointCorrupt(f"the checkpoint object has names that conflict: {exc}") from exc
    (root / MANIFEST).write_bytes(manifest_bytes)
    path: Path = root / manifest.path
    return path


def _write_files(data: bytes, offset: int, manifest: Manifest, root: Path) -> None:
    root.mkdir(parents=True, mode=0o700)
    for directory in manifest.directories:
        (root / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in sorted(manifest.files):
        size, _ = manifest.files[file]
        target = root / file
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.write_bytes(data[offset : offset + size])
        offset += size
