"""JSON form of configurations that are not drawn from a space: plain values, tuples and secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynctune.secret import Secret
from asynctune.space.sampling import is_json

# The journal holds these keys. A dict that has one of them itself is not encoded.
_TUPLE, _SECRET = "//tuple", "//secret"


def encode_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a configuration as plain JSON for :func:`decode_config`; None if JSON cannot hold it."""
    try:
        encoded = _encode(config)
    except _NotPlain:
        return None
    return encoded if is_json(encoded) else None


def decode_config(encoded: Any) -> Any:
    """Return the value that :func:`encode_config` encoded."""
    if isinstance(encoded, list):
        return [decode_config(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if encoded.keys() == {_TUPLE}:
        return tuple(decode_config(item) for item in encoded[_TUPLE])
    if encoded.keys() == {_SECRET}:
        return Secret(encoded[_SECRET])
    return {key: decode_config(item) for key, item in encoded.items()}


class _NotPlain(Exception):
    """A configuration holds a value that JSON cannot hold."""


def _encode(value: Any) -> Any:
    if type(value) is Secret:
        return {_SECRET: value.reference}
    if type(value) is tuple:
        return {_TUPLE: [_encode(item) for item in value]}
    if type(value) is list:
        return [_encode(item) for item in value]
    if type(value) is dict:
        if _TUPLE in value or _SECRET in value:
            raise _NotPlain
        return {key: _encode(item) for key, item in value.items()}
    return value
