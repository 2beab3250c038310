"""Executors: where trials train. An executor lends actors, each the awaitable mirror of a Trainable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.executors.actor import Actor, Step
    from asynctune.executors.base import Executor
    from asynctune.executors.inline import InlineExecutor
    from asynctune.executors.process import ProcessExecutor

_MODULE_OF = {
    "Actor": "actor",
    "Executor": "base",
    "InlineExecutor": "inline",
    "ProcessExecutor": "process",
    "Step": "actor",
}

__all__ = [
    "Actor",
    "Executor",
    "InlineExecutor",
    "ProcessExecutor",
    "Step",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
