"""Places for objects: a bucket of an object store, a directory, or any file system of fsspec."""

from __future__ import annotations

from asynctune.storage.base import Entry, Storage, Timeouts
from asynctune.storage.fsspec import FsspecStorage
from asynctune.storage.local import LocalStorage
from asynctune.storage.obstore import ObjectStorage
from asynctune.storage.urls import open_storage

__all__ = [
    "Entry",
    "FsspecStorage",
    "LocalStorage",
    "ObjectStorage",
    "Storage",
    "Timeouts",
    "open_storage",
]
