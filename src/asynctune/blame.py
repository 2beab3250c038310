"""What the errors about arguments are made of: values and exceptions as text, and whose fault it was.

Objects of the user's may raise anything when they are looked at, and an error about one is to be raised
all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asynctune.errors import ConfigError, TuneError


def shown(value: object) -> str:
    """Return at most 200 characters of a repr, whatever the repr does."""
    try:
        return repr(value)[:200]
    except Exception as exc:
        return f"<{type(value).__qualname__}, whose repr raised {type(exc).__name__}>"


def described(error: BaseException) -> str:
    """Return the kind and text of an exception, whatever its ``str`` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as exc:
        return f"{type(error).__name__} (whose str() raised {type(exc).__name__})"


@contextmanager
def about(argument: str) -> Iterator[None]:
    """Let the error of whatever goes wrong in the block name an argument.

    Args:
        argument: Its name.

    Raises:
        ConfigError: Anything was raised in the block; errors of ours stay what they are.
    """
    try:
        yield
    except TuneError as exc:
        if argument in str(exc) or not isinstance(exc, ConfigError):
            raise
        raise type(exc)(f"{argument}: {exc}") from exc.__cause__
    except Exception as exc:
        raise ConfigError(f"{argument} cannot be used, since it raised {described(exc)}") from exc
