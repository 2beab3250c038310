"""The storage in an object store (S3, GS, Azure and compatible ones) through obstore.

Only obstore's synchronous calls are used, from threads: the asynchronous ones can end the interpreter by
SIGABRT at exit (0.12, CPython 3.11). In a child process forked after a call, further calls hang, so they
raise an error instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import SplitResult, urlsplit

from asynctune.errors import ConfigError, StorageDenied, StorageError, UnsafePath
from asynctune.secret import resolve
from asynctune.storage._download import download_in_chunks
from asynctune.storage._obstore_errors import (
    first_line,
    is_panic,
    redact_users,
    safe_cause,
    translate_error,
)
from asynctune.storage._obstore_settings import make_settings
from asynctune.storage._retries import Retries, Transient
from asynctune.storage.base import Entry, Timeouts, check_key, join_key, redact_url
from asynctune.storage.filesystem import storage_error

T = TypeVar("T")
Page: TypeAlias = list[tuple[str, int]]

_PART_BYTES = 8 << 20
"""The size up to which a file is sent in one request; larger files are sent in parts of this size."""
_PAGE_SIZE = 1000
_PART_RETRY_S = 20.0
_VARIABLE_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_", "MSI_", "IDENTITY_")
"""The prefixes of the environment variables that may hold credentials."""


class ObjectStorage:
    """A storage below a prefix in a bucket.

    The client is built when it is first needed, again when the credentials in the environment have changed,
    and again for every retry.

    Args:
        url: The URL, such as ``s3://bucket/prefix``, ``gs://...``, ``az://...`` or ``abfs://...``.
        options: The configuration of the store by obstore's names (``endpoint``, ``region``,
            ``access_key_id``, ...), besides ``client_options``, a dict, and ``credential_provider``, a
            function. A value may be a :class:`~asynctune.Secret`. Options that are left out come from the
            usual environment variables, such as ``AWS_ENDPOINT_URL``.
        timeouts: The limits of time.

    Raises:
        ConfigError: The URL or an option is invalid, or the extra ``cloud`` is not installed.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._bucket, self._prefix = _split_url(url)
        self._options = dict(options or {})
        make_settings(_scheme(self._bucket), self._options, {})  # Raises early for invalid options.
        self._client = _Client(self._bucket, self._options, timeouts or Timeouts())
        self._retries = Retries(timeouts or Timeouts())

    def __repr__(self) -> str:
        return f"ObjectStorage({self.url!r})"  # Without the options, which may hold credentials.

    def __reduce__(self) -> tuple[Any, ...]:
        # The prefix is kept apart from the URL: in a URL, characters of an experiment's name such as "#"
        # would have another meaning.
        timeouts = self._retries.timeouts
        return _unpickle, (type(self), self._bucket, self._prefix, self._options, timeouts)

    @property
    def url(self) -> str:
        return join_key(self._bucket, self._prefix) if self._prefix else self._bucket

    def below(self, prefix: str) -> Self:
        return self._copy(
            join_key(self._prefix, check_key(prefix, self.url)), self._retries.child()
        )

    def limited(self) -> Self:
        return self._copy(self._prefix, self._retries.limited())

    def upload(self, key: str, source: Path) -> None:
        import obstore

        try:
            size = source.stat().st_size
            data = source.read_bytes() if size <= _PART_BYTES else None
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"{source} cannot be read") from exc
        if data is not None:
            self._call(
                key, "PUT", lambda store, path: obstore.put(store, path, data, use_multipart=False)
            )
            return
        self._call(
            key,
            "PUT",
            lambda store, path: obstore.put(store, path, source, chunk_size=_PART_BYTES),
            parts=True,
        )

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            self._call(
                key, "PUT", lambda store, path: obstore.put(store, path, data, mode="create")
            )
        except AlreadyExistsError:
            return False
        return True

    def read(self, key: str, limit: int) -> bytes:
        import obstore

        def read(store: Any, path: str) -> bytes:
            response = obstore.get(store, path)
            size = response.meta["size"]
            if size > limit:
                raise StorageError(
                    f"{self._key_url(key)} has {size} bytes, more than the limit of {limit}"
                )
            return bytes(response.bytes())

        return self._call(key, "GET", read)

    def download(self, key: str, target: Path, size: int) -> None:
        import obstore

        found_size = self._call(key, "HEAD", lambda store, path: obstore.head(store, path)["size"])

        def read(start: int, length: int) -> bytes:
            def get(store: Any, path: str) -> bytes:
                return bytes(obstore.get_range(store, path, start=start, length=length))

            return self._call(key, "GET", get)

        download_in_chunks(target, size, found_size, read, self._key_url(key))

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        if prefix:
            check_key(prefix.rstrip("/"), self.url)
        root = f"{self._prefix}/" if self._prefix else ""
        while page := self._list_page(prefix, after):
            for path, size in page:
                key = path.removeprefix(root)
                # A server that repeats keys must not trap the caller in an endless listing.
                if key > after and key.startswith(prefix):
                    yield Entry(key, size)
            last = page[-1][0].removeprefix(root)
            if len(page) < _PAGE_SIZE or last <= after:
                return
            after = last

    def delete(self, keys: Iterable[str]) -> None:
        import obstore

        rest = iter(keys)
        while batch := [
            join_key(self._prefix, check_key(key, self.url)) for key in islice(rest, _PAGE_SIZE)
        ]:
            self._call("", "DELETE", lambda store, _: obstore.delete(store, batch))

    def exists(self, key: str) -> bool:
        import obstore

        try:
            self._call(key, "HEAD", obstore.head)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        self._retries.close()

    def _copy(self, prefix: str, retries: Retries) -> Self:
        copied = object.__new__(type(self))
        copied._bucket, copied._prefix = self._bucket, prefix
        copied._options, copied._client, copied._retries = self._options, self._client, retries
        return copied

    def _list_page(self, prefix: str, after: str) -> Page:
        import obstore

        path = join_key(self._prefix, prefix) if self._prefix or prefix else None
        offset = join_key(self._prefix, after) if after else None

        def read(store: Any, _: str) -> Page:
            pages = obstore.list(store, path, offset=offset, chunk_size=_PAGE_SIZE)
            return [(found["path"], found["size"]) for found in next(iter(pages), [])]

        return self._call(prefix, "LIST", read)

    def _key_url(self, key: str) -> str:
        return join_key(self.url, key)

    def _call(
        self, key: str, verb: str, function: Callable[[Any, str], T], *, parts: bool = False
    ) -> T:
        path = join_key(self._prefix, check_key(key.rstrip("/"), self.url)) if key else self._prefix
        operation = f"{verb} {self._key_url(key)}"
        was_denied = False

        def attempt(left_s: float) -> T:
            nonlocal was_denied
            store = self._client.get(left_s, parts=parts)
            try:
                return function(store, path)
            except BaseException as exc:
                if is_panic(exc):
                    raise StorageError(
                        f"{operation} cannot be sent: obstore has panicked. Options and credentials must "
                        "not contain control characters, such as a newline at the end"
                    ) from exc
                if not isinstance(exc, Exception):
                    raise
                is_renewed = self._client.discard()
                error = translate_error(exc, operation)
                # The credentials may have been renewed since the client was built: retry once.
                if isinstance(error, StorageDenied) and is_renewed and not was_denied:
                    was_denied = True
                    raise Transient(str(error)) from safe_cause(exc)
                if error is exc:
                    raise
                raise error from safe_cause(exc)

        return self._retries.call(attempt, operation)


class _Client:
    """obstore's client for one bucket, rebuilt when its credentials change; threads may share it."""

    def __init__(self, bucket: str, options: dict[str, Any], timeouts: Timeouts) -> None:
        self._bucket = bucket
        self._options = options
        self._timeouts = timeouts
        self._clients: dict[bool, Any] = {}
        self._credentials: dict[str, str] = {}
        self._lock = threading.Lock()
        self._pid = 0

    def get(self, left_s: float, *, parts: bool) -> Any:
        """Return a client whose requests end within ``left_s`` seconds.

        Args:
            left_s: The remaining time in seconds.
            parts: Whether the client sends a file in parts, and retries each of them itself.

        Raises:
            StorageError: The process was forked after the client was first used.
        """
        credentials = self._read_credentials()
        with self._lock:
            if self._pid not in (0, os.getpid()):
                raise StorageError(
                    f"{self._bucket} was used before this process was forked, and cannot be used in it; "
                    "start processes with 'spawn', or use the storage in the parent process only"
                )
            self._pid = os.getpid()
            if credentials != self._credentials:
                self._clients.clear()
                self._credentials = credentials
            # The timeouts of a client are fixed: one for little remaining time must not be kept.
            is_short = left_s < min(
                self._timeouts.read_timeout_s, self._timeouts.operation_timeout_s / 2
            )
            client = None if is_short else self._clients.get(parts)
            if client is None:
                client = self._build(min(left_s, self._timeouts.operation_timeout_s), parts=parts)
                if not is_short:
                    self._clients[parts] = client
            return client

    def discard(self) -> bool:
        """Discard the built clients. Return whether the credentials may have been renewed."""
        with self._lock:
            self._clients.clear()
            changed = self._read_credentials() != self._credentials
            return changed or "credential_provider" in self._options

    def _read_credentials(self) -> dict[str, str]:
        """Return the current values of the environment variables and of the secrets in the options."""
        # No environment variable has "=" in its name, so the names of options cannot clash with them.
        options = {f"={name}": str(value) for name, value in resolve(self._options).items()}
        return {
            name: os.environ[name] for name in os.environ if name.startswith(_VARIABLE_PREFIXES)
        } | options

    def _build(self, left_s: float, *, parts: bool) -> Any:
        from obstore.store import from_url

        settings = make_settings(_scheme(self._bucket), resolve(self._options), os.environ)
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=min(self._timeouts.connect_timeout_s, left_s)),
            "read_timeout": timedelta(seconds=min(self._timeouts.read_timeout_s, left_s)),
            "timeout": timedelta(seconds=left_s),
        } | settings.client
        # Retries repeats single requests, with new credentials. The parts of a large file can be repeated
        # only by obstore, which keeps track of them.
        retry_config: dict[str, Any] = {"max_retries": 0}
        if parts:
            retry_config = {
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=min(left_s, _PART_RETRY_S)),
            }
        try:
            make: Any = from_url  # Its overloads need the kind of store, which only the URL has.
            return make(
                self._bucket,
                config=settings.config,
                client_options=client,
                retry_config=retry_config,
                **settings.arguments,
            )
        except BaseException as exc:
            if not isinstance(exc, Exception) and not is_panic(exc):
                raise
            names = ", ".join(sorted(settings.config)) or "none"
            raise ConfigError(
                f"storage_options (given: {names}) do not fit {self._bucket}: {first_line(exc)}"
            ) from safe_cause(exc)


def _scheme(bucket: str) -> str:
    return bucket.partition("://")[0]


def _unpickle(
    cls: type[ObjectStorage],
    bucket: str,
    prefix: str,
    options: dict[str, Any],
    timeouts: Timeouts,
) -> ObjectStorage:
    return cls(bucket, options, timeouts=timeouts)._copy(prefix, Retries(timeouts))


def _split_url(url: str) -> tuple[str, str]:
    """Split a URL into the URL of the bucket and the prefix in the bucket."""
    try:
        import obstore as _  # noqa: F401 - only to check that obstore is installed
    except ImportError as exc:
        raise ConfigError(
            f"{redact_url(url)!r} needs the extra 'cloud': pip install 'asynctune[cloud]'"
        ) from exc
    parts = _parse_url(url)
    if parts.username or parts.password:
        raise ConfigError(
            f"a {parts.scheme}:// URL must not contain credentials; pass them by environment variables or "
            "storage_options"
        )
    prefix = parts.path.strip("/")
    if not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"the URL of a bucket must have the form {parts.scheme}://bucket/path, got {redact_url(url)!r}"
        )
    try:
        if prefix:
            check_key(prefix, url)
    except UnsafePath:
        raise ConfigError(
            f"the path in the URL of a bucket must consist of names with single slashes between them, none "
            f"of which is '.' or '..', as in {parts.scheme}://bucket/path, got {url!r}"
        ) from None
    return f"{parts.scheme}://{parts.netloc}", prefix


def _parse_url(url: str) -> SplitResult:
    if url.isprintable():  # urlsplit silently removes some unprintable characters.
        with suppress(ValueError):  # The text of this error quotes a part of the URL.
            return urlsplit(url)
    text = redact_users(url).partition("?")[0]
    raise ConfigError(f"{text!r} cannot be read as a URL; write {_scheme(url)}://bucket/path")
