"""Checks of what schedulers and stoppers are given; each error names the class and the argument."""

from __future__ import annotations

import math
import numbers
from contextlib import suppress
from typing import Any, SupportsIndex

from asynctune.blame import shown
from asynctune.errors import ConfigError


def number(
    owner: str,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
) -> float:
    """Return an argument that is to be a finite number; an int stays one.

    Args:
        owner: The class that it is an argument of.
        name: Its name.
        value: What was given.
        above: What it is to be greater than.
        least: What it is to be at least.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with suppress(OverflowError):  # an int beyond what floats hold
            plain = float(value)
            if above < plain < math.inf and plain >= least:
                return int(value) if isinstance(value, numbers.Integral) else plain
    bounds = [
        f"{text} {bound:g}"
        for text, bound in (("greater than", above), ("of at least", least))
        if math.isfinite(bound)
    ]
    wanted = " ".join(["a finite number", *bounds])
    raise ConfigError(f"{name} of {owner} is {shown(value)}; {wanted} is wanted")


def whole(owner: str, name: str, value: Any, least: int, most: float = math.inf) -> int:
    """Return an argument that is to be an int within bounds."""
    if not isinstance(value, bool) and isinstance(value, SupportsIndex):
        with suppress(Exception):  # an array of several numbers
            plain = value.__index__()
            if least <= plain <= most:
                return plain
    bounds = f"of at least {least}" if math.isinf(most) else f"from {least} to {most:g}"
    raise ConfigError(f"{name} of {owner} is {shown(value)}; an int {bounds} is wanted")


def flag(owner: str, name: str, value: Any) -> bool:
    """Return an argument that is to be True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} of {owner} is {shown(value)}; True or False is wanted")


def key(owner: str, name: str, value: Any) -> str:
    """Return an argument that is to be the name of a key of the results."""
    if isinstance(value, str) and value:
        return value
    raise ConfigError(
        f"{name} of {owner} is {shown(value)}; the name of a key of the results is wanted"
    )


def direction(owner: str, name: str, value: Any) -> str:
    """Return an argument that is to be ``"min"`` or ``"max"``."""
    if isinstance(value, str) and value in ("min", "max"):
        return value
    raise ConfigError(f"{name} of {owner} is {shown(value)}; 'min' or 'max' is wanted")
