"""From a URL, a path or a storage object to the storage that it means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import unquote, urlsplit

from asynctune._checks import naming_argument
from asynctune.errors import ConfigError
from asynctune.storage.base import Storage, Timeouts, without_secrets
from asynctune.storage.local import LocalStorage
from asynctune.storage.obstore import ObjectStorage

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CLOUD = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
_ALMOST = re.compile(rf"({'|'.join((*_CLOUD, 'file'))}):", re.IGNORECASE)
_LIMITS = tuple(field.name for field in fields(Timeouts))


def is_url(where: Any) -> bool:
    """Tell whether a text begins like a URL."""
    return isinstance(where, str) and _SCHEME.match(where) is not None


def check_spelling(text: str) -> None:
    """Refuse what was meant as a URL and would be taken for the name of a directory.

    Raises:
        ConfigError: It is almost a URL.
    """
    stripped = text.strip()
    found = _ALMOST.match(stripped)
    if found and _SCHEME.match(stripped) is None:
        rest = stripped[found.end() :].lstrip("/\\")
        right = f"file:///{rest}" if found[1].lower() == "file" else f"{found[1].lower()}://{rest}"
        raise ConfigError(
            f"a place that begins with {found[0]!r} is almost a URL; {without_secrets(right)!r} may be "
            "meant (as a string, since a Path has one slash). If it is a directory, write './' before it"
        )
    if stripped != text and _SCHEME.match(stripped) is not None:
        raise ConfigError(f"{without_secrets(text)!r} has white space around the URL; leave it out")


def open_storage(where: Any, options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage at a place. Nothing is read or written yet.

    Args:
        where: A URL (``s3://``, ``gs://``, ``az://``, ``file://``), a directory, or a storage object.
        options: ``connect_timeout_s`` (5), ``read_timeout_s`` (30) and ``operation_timeout_s`` (300);
            all else is for the object store, see :class:`~asynctune.storage.ObjectStorage`.

    Raises:
        ConfigError: It is none of these, or the options do not fit.
    """
    given = dict(options or {})
    rest = dict(given)
    if not all(isinstance(name, str) for name in rest):
        raise ConfigError(f"the names of storage_options are strings; {list(rest)!r} are given")
    limits = {name: rest.pop(name) for name in _LIMITS if name in rest}
    with naming_argument("storage_options"):
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
    check_spelling(text)
    found = _SCHEME.match(text)
    if found:
        text = found[1].lower() + text[found.end(1) :]
    scheme, named = text.partition("://")[0] if found else "", without_secrets(text)
    if scheme in _CLOUD:
        return ObjectStorage(text, rest, timeouts=timeouts)
    if found and scheme != "file":
        known = ", ".join(f"{scheme}://" for scheme in (*_CLOUD, "file"))
        raise ConfigError(f"{named!r} is a URL of an unknown kind; known are {known}")
    if given:
        raise ConfigError(f"storage_options has {min(given)!r}, for which {named!r} has no use")
    return LocalStorage(path_of(text) if found else os.path.expanduser(text))


def path_of(url: str) -> str:
    """Return the path of a ``file://`` URL.

    Raises:
        ConfigError: It names another machine, or no absolute path.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(
            f"{without_secrets(url)!r} cannot be read as a URL; file:///path is wanted"
        ) from None
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(
            f"{without_secrets(url)!r} is no file of this machine; file:///path is wanted"
        )
    return os.path.abspath(unquote(parts.path))
