"""Configurations that no space can draw again, as JSON can hold them: plain values, tuples and secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asynctune.secret import Secret
from asynctune.space.sampling import is_json

_TUPLE, _SECRET = "//tuple", "//secret"


def encode_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what :func:`decode_config` makes the same of, None if JSON cannot hold it."""
    try:
        found = _encoded(config)
    except _NotPlain:
        return None
    return found if is_json(found) else None


def decode_config(given: Any) -> Any:
    """Return what was encoded."""
    if isinstance(given, list):
        return [decode_config(item) for item in given]
    if not isinstance(given, dict):
        return given
    if given.keys() == {_TUPLE}:
        return tuple(decode_config(item) for item in given[_TUPLE])
    if given.keys() == {_SECRET}:
        return Secret(given[_SECRET])
    return {key: decode_config(item) for key, item in given.items()}


class _NotPlain(Exception):
    """There is something in it that JSON cannot hold."""


def _encoded(value: Any) -> Any:
    if type(value) is Secret:
        return {_SECRET: value.reference}
    if type(value) is tuple:
        return {_TUPLE: [_encoded(item) for item in value]}
    if type(value) is list:
        return [_encoded(item) for item in value]
    if type(value) is dict:
        if _TUPLE in value or _SECRET in value:
            raise _NotPlain
        return {key: _encoded(item) for key, item in value.items()}
    return value
