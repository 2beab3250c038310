"""What obstore has raised, in our terms: refused, failed for good, or worth another attempt."""

from __future__ import annotations

import re

from asynctune.errors import StorageDenied, StorageError
from asynctune.storage._retries import Doubtful, Transient

_RETRIED = frozenset({408, 409, 425, 429})
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_UNREADABLE = re.compile(
    r"Got invalid [\w ]{1,40}(response|request)|Header missing from response|non-partial response"
    r"|Unable to extract metadata from headers"
)
_USER = re.compile(r"(?<=://)[^\s/]*@")
_ELSEWHERE = (
    "the server sends requests for this bucket elsewhere, as it does when the region is wrong; see "
    "region and endpoint in storage_options, or AWS_REGION"
)


def translated(error: Exception, what: str) -> Exception:
    """Say in our terms what obstore has raised; the same object where it says it well.

    Args:
        error: What was raised.
        what: The call and its place, as the subject of a sentence.
    """
    from obstore import exceptions

    if isinstance(error, FileNotFoundError | exceptions.AlreadyExistsError | StorageError):
        return error
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    code = _CODE.search(text)
    answer = f"{status}{f' {code[1]}' if code else ''}"
    denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if denied or status in (401, 403):
        return StorageDenied(
            f"{what} was refused ({answer}); see that the credentials are right and may do this"
        )
    if status == 301 or "redirect without LOCATION" in text:
        return StorageError(f"{what} failed: {_ELSEWHERE}")
    if status == 400 and code and code[1] == "AuthorizationHeaderMalformed":
        return StorageError(f"{what} failed: the server answered {answer}; is the region right?")
    if 300 <= status < 500 and status not in _RETRIED:
        return StorageError(f"{what} failed: the server answered {answer}")
    if status == 501:
        return StorageError(f"{what} failed: the server answered {answer}; it has no such call")
    if isinstance(error, exceptions.BaseError):
        return _without_status(error, text, what) if not status else Transient(
            f"the server answered {answer}"
        )  # fmt: skip
    return StorageError(f"{what} failed: {first_line(error)}")


def _without_status(error: Exception, text: str, what: str) -> Exception:
    """Tell apart what failed before there was an answer, and what came instead of one."""
    line = first_line(error)
    if "kind: Builder" in text:
        return StorageError(f"{what} cannot be sent: {line}; see storage_options")
    if "error following redirect" in line:
        return StorageError(f"{what} failed: the server sends it in circles; see the endpoint")
    if "kind: Timeout" in text:
        return Transient("the server did not answer in time")
    if "kind: Connect" in text:
        return Transient("no connection could be made")
    if _UNREADABLE.search(line):  # a proxy's page, or no object store. An answer that was cut, too
        return Doubtful(
            f"the answer is none of an object store ({line}); see the endpoint, and proxies before it"
        )
    return Transient(line)


def first_line(error: BaseException) -> str:
    """Return what may be shown of an error: its first line, without users and passwords in URLs."""
    return without_users(str(error).split("\n", 1)[0])[:300]


def without_users(text: str) -> str:
    """Return a text with the user information of each URL in it replaced."""
    return _USER.sub("...@", text)


def cause(error: BaseException) -> BaseException | None:
    """Return an error as the cause of another; None if a traceback would show what it should not."""
    return error if without_users(str(error)) == str(error) else None


def gave_up(error: BaseException) -> bool:
    """Tell whether obstore's library has met what it had thought impossible."""
    return type(error).__name__ == "PanicException"  # which is no Exception
