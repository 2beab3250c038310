"""From a URL, a path or a storage object to the storage that it means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import unquote, urlsplit

from asynctune.blame import about
from asynctune.errors import ConfigError
from asynctune.storage.base import Storage, Timeouts, without_secrets
from asynctune.storage.local import LocalStorage
from asynctune.storage.obstore import ObjectStorage

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CLOUD = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
_LIMITS = tuple(field.name for field in fields(Timeouts))


def is_url(where: Any) -> bool:
    """Tell whether a text begins like a URL."""
    return isinstance(where, str) and _SCHEME.match(where) is not None


def open_storage(where: Any, options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage at a place. Nothing is read or written yet.

    Args:
        where: A URL (``s3://``, ``gs://``, ``az://``, ``file://``), a directory, or a storage object.
        options: ``connect_timeout_s`` (5), ``read_timeout_s`` (30) and ``operation_timeout_s`` (300);
            all else is for the object store, see :class:`~asynctune.storage.ObjectStorage`.

    Raises:
        ConfigError: It is none of these, or the options do not fit.
    """
    rest = dict(options or {})
    if not all(isinstance(name, str) for name in rest):
        raise ConfigError(f"the names of storage_options are strings; {list(rest)!r} are given")
    limits = {name: rest.pop(name) for name in _LIMITS if name in rest}
    with about("storage_options"):
        timeouts = Timeouts(**limits)
    if isinstance(where, Storage):
        if options:
            raise ConfigError(f"{where!r} has its own options; give none beside it")
        return where
    if not isinstance(where, str | os.PathLike):
        raise ConfigError(
            f"{where!r} is no place to store something; a URL such as 's3://bucket/path', a directory "
            "or a storage object is wanted (a file system of fsspec as "
            "asynctune.storage.FsspecStorage(filesystem, path, single_writer=True))"
        )
    text = os.fspath(where)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(
            f"{text!r} is no place to store something; a URL or a directory is wanted"
        )
    os.fsencode(text)  # a name that the system cannot have raises here
    found = _SCHEME.match(text)
    if found:
        text = found[1].lower() + text[found.end(1) :]
    scheme, named = text.partition("://")[0] if found else "", without_secrets(text)
    if scheme in _CLOUD:
        return ObjectStorage(text, rest, timeouts=timeouts)
    if rest:
        raise ConfigError(f"storage_options has {min(rest)!r}, for which {named!r} has no use")
    if not found:
        return LocalStorage(os.path.expanduser(text))
    if scheme == "file":
        return LocalStorage(path_of(text))
    known = ", ".join(f"{scheme}://" for scheme in (*_CLOUD, "file"))
    raise ConfigError(f"{named!r} is a URL of an unknown kind; known are {known}")


def path_of(url: str) -> str:
    """Return the path of a ``file://`` URL.

    Raises:
        ConfigError: It names another machine, or no absolute path.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(
            f"{without_secrets(url)!r} is no file of this machine; file:///path is wanted"
        )
    return os.path.abspath(unquote(parts.path))
