"""Serialization of trainables and configurations: code that workers cannot import is pickled by value."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import io
import linecache
import os
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, ClassVar

import cloudpickle

from asynctune._checks import safe_repr, safe_str
from asynctune.errors import ConfigError, NotSerializable
from asynctune.storage import Storage, open_storage
from asynctune.storage.checkpoints.commits import RemoteDir
from asynctune.storage.checkpoints.records import Writer
from asynctune.trainable.base import Trainable, defines_hook, is_async
from asynctune.trainable.durable import DurableTrainable
from asynctune.trainable.worker.calls import as_class, named_code

_MAX_SOURCES = 4 << 20


@dataclass(frozen=True, slots=True)
class SerializedTrainable:
    """A trainable, ready to be sent to a worker.

    Args:
        cls: The Trainable class; for a function, the class that wraps it.
        name: The name of the class or function.
        code: The pickle of the class or function; empty if the trainable stays in this process.
        digest: The hash of ``code``, which tells apart two functions of one name.
        sources: The lines of code that is in no file, such as a notebook's cells, by the file name that
            tracebacks show.
    """

    cls: type[Trainable]
    name: str
    code: bytes = b""
    digest: str = ""
    sources: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_async(self) -> bool:
        """Whether the trainable has asynchronous hooks, and runs on an event loop."""
        return is_async(self.cls)

    @property
    def is_durable(self) -> bool:
        """Whether the trainable is a DurableTrainable, which keeps its checkpoints in a remote storage."""
        return issubclass(self.cls, DurableTrainable)


def _reduced_code(code: CodeType) -> tuple[Any, ...]:
    build, arguments = cloudpickle.CloudPickler.dispatch_table[CodeType](code)[:2]
    return named_code, (build, arguments, code.co_filename)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Keeps the file names in code objects; without them a traceback from a worker shows no lines of code.

    From version 3.1.3 on, cloudpickle writes ``<dynamic-code>`` in their place, so that a pickle depends on
    the code alone.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        {CodeType: _reduced_code}, cloudpickle.CloudPickler.dispatch_table
    )


def dumps(value: Any) -> bytes:
    """Pickle an object; classes and functions that a worker cannot import are pickled by value."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def serialize(trainable: Any, *, pickled: bool) -> SerializedTrainable:
    """Check a trainable and, if requested, pickle it.

    Args:
        trainable: A Trainable class or a function.
        pickled: Whether to pickle it; otherwise the result serves this process only.

    Raises:
        ConfigError: The object is not a trainable.
        NotSerializable: The trainable cannot be pickled; the message names the variable at fault.
    """
    check_trainable(trainable)
    cls = as_class(trainable)
    if not pickled:
        return SerializedTrainable(cls, cls.__name__)
    try:
        code = dumps(trainable)
    except Exception as exc:
        raise NotSerializable(
            f"{cls.__name__} cannot be sent to a worker: {culprit(trainable)} "
            f"({safe_str(exc)}). Create such objects inside the function or in _setup(), or use "
            "InlineExecutor, which pickles nothing"
        ) from exc
    return SerializedTrainable(
        cls, cls.__name__, code, hashlib.sha256(code).hexdigest(), _sources()
    )


def check_trainable(trainable: Any) -> None:
    """Raise an error if an object is not a trainable.

    Raises:
        ConfigError: The object is neither a Trainable class nor a function.
    """
    expected = "a Trainable subclass or a function (config) or (config, reporter)"
    if inspect.iscoroutine(trainable) or inspect.isgenerator(trainable):
        trainable.close()
        raise ConfigError(
            f"trainable must be {expected}, got the result of {trainable.__qualname__}(); pass the "
            "function itself"
        )
    if isinstance(trainable, Trainable):
        raise ConfigError(
            f"trainable must be {expected}, got an instance of {type(trainable).__qualname__}; pass the "
            "class"
        )
    if isinstance(trainable, type):
        if not issubclass(trainable, Trainable):
            raise ConfigError(
                f"trainable must be {expected}, got the class {trainable.__qualname__}"
            )
        if not defines_hook(trainable, "_train"):
            seed = [
                n for n in ("_setup", "_save", "_restore", "_stop") if defines_hook(trainable, n)
            ]
            mixed = f"; its step is ignored, since it defines {seed[0]}" if seed and hasattr(
                trainable, "step"
            ) else ""  # fmt: skip
            raise ConfigError(f"{trainable.__qualname__} defines neither _train nor step{mixed}")
    elif not callable(trainable):
        raise ConfigError(f"trainable must be {expected}, got {safe_repr(trainable)}")


def remote_dir_of(
    serialized: SerializedTrainable, location: str | os.PathLike[str] | Storage | None
) -> RemoteDir | None:
    """Return the remote directory for the checkpoints of a trainable outside of a run.

    Args:
        serialized: The trainable.
        location: The URL, path or storage; None for a trainable that is not durable.

    Raises:
        ConfigError: A durable trainable has no location, or another trainable has one.
    """
    if serialized.is_durable and location is None:
        raise ConfigError(
            f"remote_checkpoint_dir must be given for {serialized.name}, which is a DurableTrainable"
        )
    if not serialized.is_durable and location is not None:
        raise ConfigError(
            f"remote_checkpoint_dir must be None for {serialized.name}, which is not a DurableTrainable"
        )
    return None if location is None else RemoteDir(open_storage(location), Writer())


def dump_build_arguments(config: Any, remote: RemoteDir | None) -> bytes:
    """Pickle the arguments of a trainable's constructor, one after the other.

    Args:
        config: The configuration.
        remote: The remote directory of a durable trainable; None for other trainables.

    Raises:
        NotSerializable: An argument cannot be pickled; the message names its part at fault.
    """
    data = dump_config(config)
    return data if remote is None else data + dump_config(remote, "upload_dir")


def dump_config(config: Any, what: str = "config") -> bytes:
    """Pickle a configuration.

    Args:
        config: The configuration, or another object.
        what: The name of the object for messages.

    Raises:
        NotSerializable: The object cannot be pickled; the message names the key at fault.
    """
    try:
        data: bytes = dumps(config)
    except Exception as exc:
        path = _unpicklable_path(config, what) or what
        raise NotSerializable(
            f"{path} cannot be sent to a worker ({safe_str(exc)}); pass the values from which the trial "
            "can create it"
        ) from exc
    return data


def culprit(function: Any) -> str:
    """Return a clause that names the variable which keeps a function or class from being pickled."""
    for name, value in _parts(function):
        if not _pickles(value):
            inner = _unpicklable_path(value, name) or name
            return (
                f"{inner}, a {type(value).__module__}.{type(value).__qualname__}, does not pickle"
            )
    return "it does not pickle"


def _parts(thing: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the objects that a pickle of a function or class includes, each with a name for messages.

    They are bound arguments, attributes, closures, defaults and globals.
    """
    while isinstance(thing, functools.partial):
        for index, value in enumerate(thing.args):
            yield f"argument {index} of the partial", value
        for name, value in thing.keywords.items():
            yield f"the argument {name!r} of the partial", value
        thing = thing.func
    if inspect.ismethod(thing):
        for name, value in getattr(thing.__self__, "__dict__", {}).items():
            yield f"the attribute self.{name}", value
        thing = thing.__func__
    if inspect.isclass(thing):
        yield from _parts_of_class(thing, depth)
    elif inspect.isfunction(thing):
        yield from _parts_of_function(thing, depth)
    else:
        for name, value in getattr(thing, "__dict__", {}).items():
            yield f"the attribute {name!r}", value


def _parts_of_class(cls: type[Any], depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if inspect.isfunction(value):
            yield from _parts(value, depth + 1)
        elif not name.startswith("__"):
            yield f"the class attribute {name!r}", value


def _parts_of_function(function: Any, depth: int) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # the variable is not assigned, or was deleted
            yield f"the closed-over variable {name!r}", cell.cell_contents
    for name in code.co_names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if inspect.isfunction(value) and depth < 3 and value is not function:
            yield from _parts(value, depth + 1)
        yield f"the global variable {name!r}", value
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty:
            yield f"the default of {name!r}", parameter.default


def _unpicklable_path(value: Any, path: str, depth: int = 0) -> str | None:
    """Return the path of the innermost item that cannot be pickled, or None if there is none."""
    if _pickles(value):
        return None
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    if depth < 10:
        for key, item in items:
            found = _unpicklable_path(item, f"{path}[{key!r}]", depth + 1)
            if found:
                return found
    return path


def _pickles(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _sources() -> dict[str, list[str]]:
    """Return the lines of code that is in no file, such as a notebook's cells, by file name."""
    found: dict[str, list[str]] = {}
    size = 0
    for name, entry in list(linecache.cache.items()):
        if len(entry) != 4 or not isinstance(name, str) or os.path.exists(name):
            continue
        lines = list(entry[2])
        size += sum(map(len, lines))
        if size > _MAX_SOURCES:
            break
        found[name] = lines
    return found


def dump_args(method: str, args: tuple[Any, ...]) -> bytes:
    """Pickle the arguments of a call. Without arguments the result is empty.

    Args:
        method: The name of the method, for messages.
        args: The arguments.

    Raises:
        NotSerializable: An argument cannot be pickled; the message names the key at fault.
    """
    if not args:
        return b""
    # With cloudpickle, since objects of __main__ travel by value: the worker's __main__ is another module.
    try:
        data: bytes = dumps(args)
    except Exception:
        for arg in args:
            dump_config(
                arg, "config" if method == "reset_config" else f"the argument of {method}()"
            )
        raise
    return data
