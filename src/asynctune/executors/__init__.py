"""Executors: where trials train. Each lends actors, the awaitable mirror of a Trainable.

Loaded when first used: the worker's side lies in this package too, and needs none of the driver's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.executors.base import Actor, Executor, Step
    from asynctune.executors.inline import InlineExecutor
    from asynctune.executors.process import ProcessExecutor

_MODULE_OF = {
    "Actor": "base",
    "Executor": "base",
    "InlineExecutor": "inline",
    "ProcessExecutor": "process",
    "Step": "base",
}

__all__ = ["Actor", "Executor", "InlineExecutor", "ProcessExecutor", "Step"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'asynctune.executors' has no attribute {name!r}")
    return getattr(importlib.import_module(f"asynctune.executors.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
