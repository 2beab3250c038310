"""Executors: where trials train. An executor leases actors, each the awaitable handle of a Trainable.

A new kind of executor is a subclass of :class:`Executor` and one of :class:`Actor`; :class:`TrainableHost`
serves the requests of an actor where its trainable lives. The names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctune.executors.actor import Actor, ActorSpec, ShutdownResult, Step
    from asynctune.executors.base import Executor
    from asynctune.executors.host import TrainableHost
    from asynctune.executors.inline import InlineExecutor
    from asynctune.executors.pool import ResourcePool, Share
    from asynctune.executors.process import ProcessExecutor
    from asynctune.executors.serialization import SerializedTrainable, dump_config, serialize
    from asynctune.trainable.worker.calls import Answer, AnswerKind

_MODULE_OF = {
    "Actor": "actor",
    "ActorSpec": "actor",
    "Answer": "actor",
    "AnswerKind": "actor",
    "Executor": "base",
    "InlineExecutor": "inline",
    "ProcessExecutor": "process",
    "ResourcePool": "pool",
    "SerializedTrainable": "serialization",
    "Share": "pool",
    "ShutdownResult": "actor",
    "Step": "actor",
    "TrainableHost": "host",
    "dump_config": "serialization",
    "serialize": "serialization",
}

__all__ = [
    "Actor",
    "ActorSpec",
    "Answer",
    "AnswerKind",
    "Executor",
    "InlineExecutor",
    "ProcessExecutor",
    "ResourcePool",
    "SerializedTrainable",
    "Share",
    "ShutdownResult",
    "Step",
    "TrainableHost",
    "dump_config",
    "serialize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
