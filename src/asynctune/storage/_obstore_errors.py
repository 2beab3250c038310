"""Translate the exceptions of obstore: denied, failed for good, or worth a retry."""

from __future__ import annotations

import re

from asynctune.errors import StorageDenied, StorageError
from asynctune.storage._retries import Doubtful, Transient

_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_UNREADABLE_RESPONSE = re.compile(
    r"Got invalid [\w ]{1,40}(response|request)|Header missing from response|non-partial response"
    r"|Unable to extract metadata from headers"
)
_USER = re.compile(r"(?<=://)[^\s/]*@")
_REDIRECTED = (
    "the server redirects requests for this bucket, as it does when the region is wrong; check region "
    "and endpoint in storage_options, or AWS_REGION"
)


def translate_error(error: Exception, operation: str) -> Exception:
    """Return the exception to raise for one of obstore's; the same object where none fits better.

    Args:
        error: The exception of obstore.
        operation: The call and its URL, as the subject of the message.
    """
    from obstore import exceptions

    if isinstance(error, FileNotFoundError | exceptions.AlreadyExistsError | StorageError):
        return error
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    code = _CODE.search(text)
    response = f"{status}{f' {code[1]}' if code else ''}"
    denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if denied or status in (401, 403):
        return StorageDenied(
            f"{operation} was refused ({response}); check that the credentials are valid and permit this"
        )
    if status == 301 or "redirect without LOCATION" in text:
        return StorageError(f"{operation} failed: {_REDIRECTED}")
    if status == 400 and code and code[1] == "AuthorizationHeaderMalformed":
        return StorageError(f"{operation} failed: the server answered {response}; check the region")
    if 300 <= status < 500 and status not in _RETRIED_STATUS:
        return StorageError(f"{operation} failed: the server answered {response}")
    if status == 501:
        return StorageError(
            f"{operation} failed: the server answered {response}; the server does not implement this call"
        )
    if isinstance(error, exceptions.BaseError):
        return _translate_without_status(error, text, operation) if not status else Transient(
            f"the server answered {response}"
        )  # fmt: skip
    return StorageError(f"{operation} failed: {first_line(error)}")


def _translate_without_status(error: Exception, text: str, operation: str) -> Exception:
    """Translate an exception without an HTTP status: no response, or an unreadable one."""
    line = first_line(error)
    if "kind: Builder" in text:
        return StorageError(f"{operation} cannot be sent: {line}; check storage_options")
    if "error following redirect" in line:
        return StorageError(
            f"{operation} failed: the server redirects in circles; check the endpoint"
        )
    if "kind: Timeout" in text:
        return Transient("the server did not answer in time")
    if "kind: Connect" in text:
        return Transient("no connection could be made")
    # The page of a proxy or of another server will come again; a response that was cut will not.
    if _UNREADABLE_RESPONSE.search(line):
        return Doubtful(
            f"the response is not that of an object store ({line}); check the endpoint and its proxies"
        )
    return Transient(line)


def first_line(error: BaseException) -> str:
    """Return the first line of an error, at most 300 characters, without users and passwords in URLs."""
    return redact_users(str(error).split("\n", 1)[0])[:300]


def redact_users(text: str) -> str:
    """Return a text with the user and password of each URL in it replaced by ``...``."""
    return _USER.sub("...@", text)


def safe_cause(error: BaseException) -> BaseException | None:
    """Return an error as the cause of another; None if its text, shown in tracebacks, has credentials."""
    return error if redact_users(str(error)) == str(error) else None


def is_panic(error: BaseException) -> bool:
    """Return whether obstore's Rust code has panicked."""
    # PanicException cannot be imported, and is no subclass of Exception.
    return type(error).__name__ == "PanicException"
