"""Object stores (S3, GS, Azure and what speaks like them) through obstore.

Its synchronous calls, from threads: its asynchronous ones can end the interpreter by SIGABRT at exit (0.12,
CPython 3.11). And never in a child that was forked after a call: there they hang, so they are refused.
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
from asynctune.storage._download import write_pieces
from asynctune.storage._obstore_errors import cause, first_line, gave_up, translated, without_users
from asynctune.storage._obstore_settings import settings_of
from asynctune.storage._retries import Retries, Transient
from asynctune.storage.base import Entry, Timeouts, joined, plain_key, without_secrets
from asynctune.storage.filesystem import storage_error

T = TypeVar("T")
Page: TypeAlias = list[tuple[str, int]]

_WHOLE = 8 << 20
"""Files up to this size are sent in one request, larger ones in parts of it."""
_PAGE = 1000
_PART_RETRY_S = 20.0
_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_", "MSI_", "IDENTITY_")


class ObjectStorage:
    """A prefix in a bucket.

    The client is built when it is first needed, again when the credentials of the environment have
    changed, and for every repeated attempt.

    Args:
        url: ``s3://bucket/prefix``, ``gs://...``, ``az://...`` or ``abfs://...``.
        options: What obstore calls the configuration of the store (``endpoint``, ``region``,
            ``access_key_id``, ...), beside ``client_options``, a dict, and ``credential_provider``, a
            function. A value may be a :class:`~asynctune.Secret`. What is not given comes from the usual
            environment variables, such as ``AWS_ENDPOINT_URL``.
        timeouts: Limits of time.

    Raises:
        ConfigError: The URL or an option is none, or the extra ``cloud`` is not installed.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._bucket, self._prefix = _split(url)
        self._options = dict(options or {})
        settings_of(_scheme(self._bucket), self._options, {})  # which refuses what it should
        self._client = _Client(self._bucket, self._options, timeouts or Timeouts())
        self._retries = Retries(timeouts or Timeouts())

    def __repr__(self) -> str:
        return f"ObjectStorage({self.url!r})"  # the options may hold credentials

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by the URL: an experiment's name may have what a URL would read as something else.
        timeouts = self._retries.timeouts
        return _again, (type(self), self._bucket, self._prefix, self._options, timeouts)

    @property
    def url(self) -> str:
        return joined(self._bucket, self._prefix) if self._prefix else self._bucket

    def below(self, prefix: str) -> Self:
        return self._copy(joined(self._prefix, plain_key(prefix, self.url)), self._retries.part())

    def limited(self) -> Self:
        return self._copy(self._prefix, self._retries.limited())

    def upload(self, key: str, source: Path) -> None:
        import obstore

        try:
            size = source.stat().st_size
            data = source.read_bytes() if size <= _WHOLE else None
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
            key, "PUT", lambda store, path: obstore.put(store, path, source, chunk_size=_WHOLE), parts=True
        )  # fmt: skip

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
            found = obstore.get(store, path)
            size = found.meta["size"]
            if size > limit:
                raise StorageError(
                    f"{self._named(key)} has {size} bytes; at most {limit} are wanted"
                )
            return bytes(found.bytes())

        return self._call(key, "GET", read)

    def download(self, key: str, target: Path, size: int) -> None:
        import obstore

        found = self._call(key, "HEAD", lambda store, path: obstore.head(store, path)["size"])

        def read(start: int, length: int) -> bytes:
            def get(store: Any, path: str) -> bytes:
                return bytes(obstore.get_range(store, path, start=start, length=length))

            return self._call(key, "GET", get)

        write_pieces(target, size, found, read, self._named(key))

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        if prefix:
            plain_key(prefix.rstrip("/"), self.url)
        root = f"{self._prefix}/" if self._prefix else ""
        while page := self._page_behind(prefix, after):
            for path, size in page:
                key = path.removeprefix(root)
                # Nobody who lists is to be led round in circles by what a server says.
                if key > after and key.startswith(prefix):
                    yield Entry(key, size)
            last = page[-1][0].removeprefix(root)
            if len(page) < _PAGE or last <= after:
                return
            after = last

    def delete(self, keys: Iterable[str]) -> None:
        import obstore

        rest = iter(keys)
        while batch := [
            joined(self._prefix, plain_key(key, self.url)) for key in islice(rest, _PAGE)
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

    def _page_behind(self, prefix: str, after: str) -> Page:
        import obstore

        path = joined(self._prefix, prefix) if self._prefix or prefix else None
        offset = joined(self._prefix, after) if after else None

        def read(store: Any, _: str) -> Page:
            pages = obstore.list(store, path, offset=offset, chunk_size=_PAGE)
            return [(found["path"], found["size"]) for found in next(iter(pages), [])]

        return self._call(prefix, "LIST", read)

    def _named(self, key: str) -> str:
        return joined(self.url, key)

    def _call(
        self, key: str, verb: str, function: Callable[[Any, str], T], *, parts: bool = False
    ) -> T:
        path = joined(self._prefix, plain_key(key.rstrip("/"), self.url)) if key else self._prefix
        what = f"{verb} {self._named(key)}"
        refused = False

        def attempt(left_s: float) -> T:
            nonlocal refused
            store = self._client.get(left_s, parts=parts)
            try:
                return function(store, path)
            except BaseException as exc:
                if gave_up(exc):
                    raise StorageError(
                        f"{what} cannot be sent: obstore gave up. Options and credentials may have no "
                        "control characters, such as a newline at the end"
                    ) from exc
                if not isinstance(exc, Exception):
                    raise
                again = self._client.forget()
                error = translated(exc, what)
                if isinstance(error, StorageDenied) and again and not refused:
                    refused = True  # the credentials were renewed since they were read
                    raise Transient(str(error)) from cause(exc)
                if error is exc:
                    raise
                raise error from cause(exc)

        return self._retries.call(attempt, what)


class _Client:
    """obstore's client for one bucket, as fresh as its credentials; threads may share it."""

    def __init__(self, bucket: str, options: dict[str, Any], timeouts: Timeouts) -> None:
        self._bucket = bucket
        self._options = options
        self._timeouts = timeouts
        self._built: dict[bool, Any] = {}
        self._credentials: dict[str, str] = {}
        self._lock = threading.Lock()
        self._pid = 0

    def get(self, left_s: float, *, parts: bool) -> Any:
        """Return a client whose requests end before ``left_s`` seconds have passed."""
        credentials = self._read_credentials()
        with self._lock:
            if self._pid not in (0, os.getpid()):
                raise StorageError(
                    f"{self._bucket} was used before this process was forked, and cannot be used in it; "
                    "start processes with 'spawn', or leave storage to the parent"
                )
            self._pid = os.getpid()
            if credentials != self._credentials:
                self._built.clear()
                self._credentials = credentials
            hurried = left_s < min(
                self._timeouts.read_timeout_s, self._timeouts.operation_timeout_s / 2
            )
            client = None if hurried else self._built.get(parts)
            if client is None:
                client = self._build(min(left_s, self._timeouts.operation_timeout_s), parts=parts)
                if not hurried:
                    self._built[parts] = client
            return client

    def forget(self) -> bool:
        """Build anew the next time; tell whether the credentials have changed since."""
        with self._lock:
            self._built.clear()
            changed = self._read_credentials() != self._credentials
            return changed or "credential_provider" in self._options

    def _read_credentials(self) -> dict[str, str]:
        """Return what may have been renewed: variables, and what secrets among the options refer to."""
        options = {f"={name}": str(value) for name, value in resolve(self._options).items()}
        return {
            name: os.environ[name] for name in os.environ if name.startswith(_PREFIXES)
        } | options

    def _build(self, left_s: float, *, parts: bool) -> Any:
        from obstore.store import from_url

        settings = settings_of(_scheme(self._bucket), resolve(self._options), os.environ)
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=min(self._timeouts.connect_timeout_s, left_s)),
            "read_timeout": timedelta(seconds=min(self._timeouts.read_timeout_s, left_s)),
            "timeout": timedelta(seconds=left_s),
        } | settings.client
        # One request is repeated by us, with new credentials. Of a large file it is the parts that are
        # repeated, and only obstore knows them.
        again: dict[str, Any] = {"max_retries": 0}
        if parts:
            again = {
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=min(left_s, _PART_RETRY_S)),
            }
        try:
            make: Any = from_url  # its overloads tell stores apart; here the URL does
            return make(
                self._bucket,
                config=settings.config,
                client_options=client,
                retry_config=again,
                **settings.others,
            )
        except BaseException as exc:
            if not isinstance(exc, Exception) and not gave_up(exc):
                raise
            names = ", ".join(sorted(settings.config)) or "none"
            raise ConfigError(
                f"storage_options (given: {names}) do not fit {self._bucket}: {first_line(exc)}"
            ) from cause(exc)


def _scheme(bucket: str) -> str:
    return bucket.partition("://")[0]


def _again(
    cls: type[ObjectStorage],
    bucket: str,
    prefix: str,
    options: dict[str, Any],
    timeouts: Timeouts,
) -> ObjectStorage:
    return cls(bucket, options, timeouts=timeouts)._copy(prefix, Retries(timeouts))


def _split(url: str) -> tuple[str, str]:
    """Split a URL into that of the bucket and the prefix in it."""
    try:
        import obstore as _  # noqa: F401 - whether it is there is the question
    except ImportError as exc:
        raise ConfigError(
            f"{without_secrets(url)!r} needs the extra 'cloud': pip install 'asynctune[cloud]'"
        ) from exc
    parts = _parts(url)
    if parts.username or parts.password:
        raise ConfigError(
            f"a {parts.scheme}:// URL has credentials in it; leave them to the environment, or to "
            "storage_options"
        )
    prefix = parts.path.strip("/")
    if not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"{without_secrets(url)!r} is no place in a bucket; {parts.scheme}://bucket/path is wanted"
        )
    try:
        if prefix:
            plain_key(prefix, url)
    except UnsafePath:
        raise ConfigError(
            f"{url!r} has no plain path behind the bucket; names with single slashes between them are "
            f"wanted, none of which is '.' or '..', as in {parts.scheme}://bucket/path"
        ) from None
    return f"{parts.scheme}://{parts.netloc}", prefix


def _parts(url: str) -> SplitResult:
    if url.isprintable():  # urlsplit leaves out in silence some of what is not
        with suppress(ValueError):  # whose text has a part of the URL
            return urlsplit(url)
    text = without_users(url).partition("?")[0]
    raise ConfigError(f"{text!r} cannot be read as a URL; {_scheme(url)}://bucket/path is wanted")
