"""Storages: a bucket of an object store, a directory, or any file system of fsspec.

The names are imported on first use: a worker imports them only for a durable trainable.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.storage.base import Entry, Storage, Timeouts, check_key, join_key
    from asynctune.storage.filesystem import storage_error
    from asynctune.storage.fsspec import FsspecStorage
    from asynctune.storage.local import LocalStorage
    from asynctune.storage.obstore import ObjectStorage
    from asynctune.storage.urls import open_storage

_MODULE_OF = {
    "Entry": "base",
    "FsspecStorage": "fsspec",
    "LocalStorage": "local",
    "ObjectStorage": "obstore",
    "Storage": "base",
    "Timeouts": "base",
    "check_key": "base",
    "join_key": "base",
    "open_storage": "urls",
    "storage_error": "filesystem",
}

__all__ = [
    "Entry",
    "FsspecStorage",
    "LocalStorage",
    "ObjectStorage",
    "Storage",
    "Timeouts",
    "check_key",
    "join_key",
    "open_storage",
    "storage_error",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
