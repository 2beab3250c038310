"""Open a storage by its URL or path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import unquote, urlsplit

from asynctune._checks import naming_argument
from asynctune.errors import ConfigError
from asynctune.storage.base import Storage, Timeouts, redact_url
from asynctune.storage.local import LocalStorage
from asynctune.storage.obstore import ObjectStorage

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CLOUD_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
_MISSPELLED = re.compile(rf"({'|'.join((*_CLOUD_SCHEMES, 'file'))}):", re.IGNORECASE)
_TIMEOUT_NAMES = tuple(field.name for field in fields(Timeouts))


def is_url(value: Any) -> bool:
    """Return whether a value is a string that begins with a URL scheme and ``://``."""
    return isinstance(value, str) and _SCHEME.match(value) is not None


def check_url_spelling(text: str) -> None:
    """Raise ``ConfigError`` for a misspelled URL, which would otherwise name a directory.

    Raises:
        ConfigError: The text begins with a scheme without ``://``, or has white space around a URL.
    """
    stripped = text.strip()
    found = _MISSPELLED.match(stripped)
    if found and _SCHEME.match(stripped) is None:
        rest = stripped[found.end() :].lstrip("/\\")
        right = f"file:///{rest}" if found[1].lower() == "file" else f"{found[1].lower()}://{rest}"
        raise ConfigError(
            f"a location that begins with {found[0]!r} is a misspelled URL; write {redact_url(right)!r} "
            "(as a string, since a Path joins the slashes), or put './' before the name of a directory"
        )
    if stripped != text and _SCHEME.match(stripped) is not None:
        raise ConfigError(
            f"{redact_url(text)!r} has white space around the URL; remove the white space"
        )


def open_storage(where: Any, options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage at a location. Nothing is read or written yet.

    Args:
        where: The URL (``s3://``, ``gs://``, ``az://``, ``file://``), the directory, or the storage object.
        options: The limits ``connect_timeout_s`` (5), ``read_timeout_s`` (30) and ``operation_timeout_s``
            (300) in seconds; all other options are those of the object store, see
            :class:`~asynctune.storage.ObjectStorage`.

    Raises:
        ConfigError: ``where`` is none of these, or the options do not fit.
    """
    given = dict(options or {})
    rest = dict(given)
    if not all(isinstance(name, str) for name in rest):
        raise ConfigError(f"the names of storage_options must be strings, got {list(rest)!r}")
    limits = {name: rest.pop(name) for name in _TIMEOUT_NAMES if name in rest}
    with naming_argument("storage_options"):
        timeouts = Timeouts(**limits)
    if isinstance(where, Storage):
        if options:
            raise ConfigError(
                f"storage_options must be empty for {where!r}, which has its own options"
            )
        return where
    if not isinstance(where, str | os.PathLike):
        raise ConfigError(
            "the location of a storage must be a URL such as 's3://bucket/path', a directory or a storage "
            f"object, got {where!r}; wrap a file system of fsspec as "
            "asynctune.storage.FsspecStorage(filesystem, path, single_writer=True)"
        )
    text = os.fspath(where)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"the location of a storage must be a URL or a directory, got {text!r}")
    os.fsencode(text)  # Raises for a name that the operating system cannot represent.
    check_url_spelling(text)
    found = _SCHEME.match(text)
    if found:
        text = found[1].lower() + text[found.end(1) :]
    scheme, shown = text.partition("://")[0] if found else "", redact_url(text)
    if scheme in _CLOUD_SCHEMES:
        return ObjectStorage(text, rest, timeouts=timeouts)
    if found and scheme != "file":
        clouds = ", ".join(f"{scheme}://" for scheme in _CLOUD_SCHEMES)
        raise ConfigError(
            f"the URL of a storage must begin with {clouds} or file://, got {shown!r}"
        )
    if given:
        raise ConfigError(f"storage_options has {min(given)!r}, which {shown!r} does not support")
    return LocalStorage(file_url_to_path(text) if found else os.path.expanduser(text))


def file_url_to_path(url: str) -> str:
    """Return the path of a ``file://`` URL.

    Raises:
        ConfigError: The URL names another machine, or no absolute path.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(
            f"a file URL must have the form file:///path; {redact_url(url)!r} cannot be read as a URL"
        ) from None
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(
            f"a file URL must have the form file:///path, got {redact_url(url)!r}; only files of this "
            "machine are supported"
        )
    return os.path.abspath(unquote(parts.path))
