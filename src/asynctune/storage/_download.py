"""Download an object into a file in chunks, so that its size bounds neither memory nor one response."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asynctune.errors import CheckpointCorrupt
from asynctune.storage.filesystem import storage_error

_CHUNK_BYTES = 8 << 20


def download_in_chunks(
    target: Path, size: int, found_size: int, read_range: Callable[[int, int], bytes], name: str
) -> None:
    """Write an object into a new file.

    Args:
        target: The path of the file.
        size: The expected size of the object in bytes.
        found_size: The size in bytes that the storage reports.
        read_range: The function that returns the bytes at an offset (first argument) of a length (second).
        name: The name of the object in error messages.

    Raises:
        CheckpointCorrupt: The object has another size, or a chunk is short.
        StorageError: The file cannot be written; errors of ``read_range`` pass through.
    """
    if found_size != size:
        raise CheckpointCorrupt(f"{name} has {found_size} bytes instead of {size}")
    try:
        file = target.open("xb")
    except OSError as exc:
        raise storage_error(exc, f"{target} cannot be created") from exc
    with file:
        for start in range(0, size, _CHUNK_BYTES):
            length = min(_CHUNK_BYTES, size - start)
            data = read_range(start, length)
            if len(data) != length:
                raise CheckpointCorrupt(
                    f"{name} is cut: {len(data)} of {length} bytes were read at offset {start}"
                )
            try:
                file.write(data)
                file.flush()
            except OSError as exc:
                raise storage_error(exc, f"{target} cannot be written") from exc
