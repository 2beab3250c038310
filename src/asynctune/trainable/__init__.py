"""What users write, and everything that runs where it trains; ``worker`` is the worker process.

:class:`Trainable` is loaded when it is first used: a function that only reports needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.trainable.base import Trainable

__all__ = ["Trainable"]


def __getattr__(name: str) -> Any:
    if name != "Trainable":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asynctune.trainable.base import Trainable

    return Trainable


def __dir__() -> list[str]:
    return __all__
