"""An object written into a file piece by piece, so that its size bounds no memory and no single answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asynctune.errors import CheckpointCorrupt
from asynctune.storage.filesystem import storage_error

_PIECE = 8 << 20


def write_pieces(
    target: Path, size: int, found: int, read: Callable[[int, int], bytes], named: str
) -> None:
    """Write an object into a new file.

    Args:
        target: The file.
        size: How many bytes the object has to have.
        found: How many the place says that it has.
        read: Returns so many bytes (second) from a place on (first).
        named: How errors call the object.

    Raises:
        CheckpointCorrupt: It has another size, or comes short.
        StorageError: The file cannot be written; or what ``read`` raises.
    """
    if found != size:
        raise CheckpointCorrupt(f"{named} has {found} bytes; {size} are wanted")
    try:
        file = target.open("xb")
    except OSError as exc:
        raise storage_error(exc, f"{target} cannot be created") from exc
    with file:
        for start in range(0, size, _PIECE):
            length = min(_PIECE, size - start)
            data = read(start, length)
            if len(data) != length:
                raise CheckpointCorrupt(f"{named} was read short")
            try:
                file.write(data)
                file.flush()
            except OSError as exc:
                raise storage_error(exc, f"{target} cannot be written") from exc
