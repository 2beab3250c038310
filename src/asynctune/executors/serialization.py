"""How a trainable travels: pickled once, by value where it cannot be imported."""

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
    """A trainable, ready to travel.

    Args:
        cls: The Trainable class, that of a function included.
        name: Its name.
        code: The pickle, empty where it stays in this process.
        digest: What tells it from others: two functions of one name are two.
        sources: The lines of source that no file holds, by the name that tracebacks call them.
    """

    cls: type[Trainable]
    name: str
    code: bytes = b""
    digest: str = ""
    sources: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_async(self) -> bool:
        """Whether it wants to live on an event loop."""
        return is_async(self.cls)

    @property
    def is_durable(self) -> bool:
        """Whether it keeps its checkpoints in a storage itself."""
        return issubclass(self.cls, DurableTrainable)


def _reduced_code(code: CodeType) -> tuple[Any, ...]:
    build, arguments = cloudpickle.CloudPickler.dispatch_table[CodeType](code)[:2]
    return named_code, (build, arguments, code.co_filename)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Keeps the names of files, without which a traceback from a worker shows no line of the code.

    cloudpickle from 3.1.3 on writes ``<dynamic-code>`` in their place, so that what it writes depends on
    the code alone.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        {CodeType: _reduced_code}, cloudpickle.CloudPickler.dispatch_table
    )


def dumps(value: Any) -> bytes:
    """Pickle by value what a worker cannot import."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def serialize(trainable: Any, *, pickled: bool) -> SerializedTrainable:
    """Look at a trainable and, if asked to, pickle it.

    Raises:
        ConfigError: It is no trainable; the message says what would be.
        NotSerializable: It does not pickle; the message names the variable that is to blame.
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
    """Refuse what is no trainable.

    Raises:
        ConfigError: The message says what was given, and what is wanted.
    """
    wanted = "a Trainable subclass or a function of (config) or (config, reporter) is wanted"
    if inspect.iscoroutine(trainable) or inspect.isgenerator(trainable):
        trainable.close()
        raise ConfigError(
            f"the trainable is what calling {trainable.__qualname__}() gave; pass the function itself"
        )
    if isinstance(trainable, Trainable):
        raise ConfigError(
            f"the trainable is an instance of {type(trainable).__qualname__}; pass the class"
        )
    if isinstance(trainable, type):
        if not issubclass(trainable, Trainable):
            raise ConfigError(f"the trainable {trainable.__qualname__} is no Trainable; {wanted}")
        if not defines_hook(trainable, "_train"):
            seed = [
                n for n in ("_setup", "_save", "_restore", "_stop") if defines_hook(trainable, n)
            ]
            mixed = f"; since it uses {seed[0]}, step is not looked at" if seed and hasattr(
                trainable, "step"
            ) else ""  # fmt: skip
            raise ConfigError(f"{trainable.__qualname__} defines neither _train nor step{mixed}")
    elif not callable(trainable):
        raise ConfigError(f"the trainable is {safe_repr(trainable)}; {wanted}")


def remote_dir_of(
    serialized: SerializedTrainable, where: str | os.PathLike[str] | Storage | None
) -> RemoteDir | None:
    """Return where a trainable outside of a run keeps its checkpoints, None if it is not a durable one.

    Raises:
        ConfigError: It is one, and no place is given, or the other way round.
    """
    if serialized.is_durable != (where is not None):
        what = "needs one" if where is None else "is none, and has no use for it"
        raise ConfigError(
            f"remote_checkpoint_dir is for a DurableTrainable; {serialized.name} {what}"
        )
    return None if where is None else RemoteDir(open_storage(where), Writer())


def dump_build_arguments(config: Any, remote: RemoteDir | None) -> bytes:
    """Pickle what a trainable is built with, one after the other.

    Args:
        config: The configuration.
        remote: Where a durable trainable keeps its checkpoints, None for others.

    Raises:
        NotSerializable: The message names what cannot travel.
    """
    data = dump_config(config)
    return data if remote is None else data + dump_config(remote, "upload_dir")


def dump_config(config: Any, what: str = "config") -> bytes:
    """Pickle a configuration.

    Args:
        config: The configuration.
        what: How an error calls it.

    Raises:
        NotSerializable: The message names the key.
    """
    try:
        data: bytes = dumps(config)
    except Exception as exc:
        path = _unpicklable_path(config, what) or what
        raise NotSerializable(
            f"{path} cannot be sent to a worker ({safe_str(exc)}); put in what it is made from instead"
        ) from exc
    return data


def culprit(function: Any) -> str:
    """Name what keeps a function or class from being pickled."""
    for name, value in _parts(function):
        if not _pickles(value):
            inner = _unpicklable_path(value, name) or name
            return (
                f"{inner}, a {type(value).__module__}.{type(value).__qualname__}, does not pickle"
            )
    return "it does not pickle"


def _parts(thing: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """List what a function takes with it: bound arguments, closures, defaults, globals."""
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
        with contextlib.suppress(ValueError):  # it has no value yet, or no more
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
    """Collect source that no file holds, such as a notebook's cells."""
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
    """Pickle the arguments of a call; nothing for none."""
    if not args:
        return b""
    # What is of __main__ travels by value: in the worker that module is another.
    try:
        data: bytes = dumps(args)
    except Exception:
        for arg in args:
            dump_config(arg, "config" if method == "reset_config" else f"what {method}() was given")
        raise
    return data
