"""Result rows: the names of their keys, and how rows are normalised, flattened and written as JSON."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from asynctune.errors import NotSerializable
from asynctune.secret import ResolvedSecret, Secret, concealed, redacted

Row: TypeAlias = dict[str, Any]

DONE = "done"
SHOULD_CHECKPOINT = "should_checkpoint"
TRAINING_ITERATION = "training_iteration"
TIME_THIS_ITER_S = "time_this_iter_s"
TIME_TOTAL_S = "time_total_s"
TIMESTEPS_THIS_ITER = "timesteps_this_iter"
TIMESTEPS_TOTAL = "timesteps_total"
EPISODES_THIS_ITER = "episodes_this_iter"
EPISODES_TOTAL = "episodes_total"
EPISODE_REWARD_MEAN = "episode_reward_mean"
MEAN_LOSS = "mean_loss"
NEG_MEAN_LOSS = "neg_mean_loss"
MEAN_ACCURACY = "mean_accuracy"
TIME_SINCE_RESTORE = "time_since_restore"
TIMESTEPS_SINCE_RESTORE = "timesteps_since_restore"
ITERATIONS_SINCE_RESTORE = "iterations_since_restore"
EXPERIMENT_ID = "experiment_id"
EXPERIMENT_TAG = "experiment_tag"
TRIAL_ID = "trial_id"
HOSTNAME = "hostname"
NODE_IP = "node_ip"
PID = "pid"
DATE = "date"
TIMESTAMP = "timestamp"
CONFIG = "config"

RESULT_DUPLICATE = "__duplicate__"
"""Marks the return value of ``train()`` after a function has ended: its last row, no new one."""

AUTO_FILLED = frozenset(
    {
        DONE,
        TRAINING_ITERATION,
        TIME_THIS_ITER_S,
        TIME_TOTAL_S,
        TIMESTEPS_TOTAL,
        EPISODES_TOTAL,
        TIME_SINCE_RESTORE,
        TIMESTEPS_SINCE_RESTORE,
        ITERATIONS_SINCE_RESTORE,
        EXPERIMENT_ID,
        EXPERIMENT_TAG,
        TRIAL_ID,
        HOSTNAME,
        NODE_IP,
        PID,
        DATE,
        TIMESTAMP,
        CONFIG,
    }
)
"""The keys that asynctune fills in; users report all others."""

_MAX_DEPTH = 64
_MAX_ITEMS = 1_000
_MAX_CHARACTERS = 10_000


def normalise(row: Mapping[Any, Any], what: str = "result") -> Row:
    """Turn a reported mapping into plain JSON types.

    numpy scalars and 0-d arrays become Python numbers, tuples and arrays lists, number keys strings.
    NaN and infinities stay: :func:`strict_json` writes them as null.

    Args:
        row: The reported mapping.
        what: The name of the mapping in errors.

    Returns:
        A new dict; ``row`` stays unchanged.

    Raises:
        NotSerializable: JSON cannot hold a value; the message names its key.
    """
    return _plain_dict(row, what, ())


def jsonable(value: Any) -> Any:
    """Normalise any value, and replace each part that JSON cannot hold by its ``repr``.

    Used for configurations, which may hold objects and are written only for people to read.
    """
    return _plain(value, "", (), lenient=True)


def shown(config: Any) -> Any:
    """Return a configuration as :func:`jsonable` does, with large values cut, since each row shows it.

    A list keeps its first 1,000 items, a text its first 10,000 characters; an array of more than 1,000
    numbers is replaced by its type and shape.
    """
    if isinstance(config, Mapping):
        return {_text(key): shown(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        kept = [shown(value) for value in config[:_MAX_ITEMS]]
        left = len(config) - len(kept)
        return [*kept, f"... and {left} more"] if left else kept
    if isinstance(config, str) and not isinstance(config, ResolvedSecret):
        if len(config) <= _MAX_CHARACTERS:
            return config
        # Redacted before the cut: half a secret would not be recognised.
        return redacted(config)[:_MAX_CHARACTERS] + "..."
    shape = getattr(config, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape) and (
        math.prod(shape) > _MAX_ITEMS
    ):  # fmt: skip
        kind = type(config)
        return f"<{kind.__module__}.{kind.__qualname__} of shape {'x'.join(map(str, shape))}>"
    return jsonable(config)


def without_secrets(row: Row) -> Row:
    """Return a row with references in place of the secret values of this context's trial."""
    hidden: Row = concealed(row, keep=AUTO_FILLED)
    return hidden


def copy_row(row: Row) -> Row:
    """Return a deep copy of a normalised row. Journal rows are shared; user code gets copies."""
    copied: Row = _copy(row)
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def encode(row: Mapping[str, Any]) -> bytes:
    """Return a normalised row as compact JSON, with Python's literals for NaN and infinities."""
    return json.dumps(row, separators=(",", ":")).encode()


def strict_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Return normalised data as strict JSON: NaN and infinities become null."""
    separators = (",", ": ") if indent else (",", ":")
    try:
        return json.dumps(
            value, allow_nan=False, indent=indent, sort_keys=sort_keys, separators=separators
        )
    except ValueError:
        return json.dumps(
            _finite(value),
            allow_nan=False,
            indent=indent,
            sort_keys=sort_keys,
            separators=separators,
        )


def flatten(row: Mapping[str, Any], delimiter: str = "/") -> Row:
    """Flatten nested dicts: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``. Lists stay whole."""
    return dict(_leaves(row, "", delimiter))


def _leaves(row: Mapping[str, Any], prefix: str, delimiter: str) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}{delimiter}", delimiter)
        else:
            yield f"{prefix}{key}", value


def metrics(row: Mapping[str, Any]) -> Row:
    """Return the flattened entries that the user reported, without the auto-filled ones."""
    return flatten({key: value for key, value in row.items() if key not in AUTO_FILLED})


def is_better(value: float, than: float, mode: str) -> bool:
    """Return whether one value of a metric is better than another.

    NaN is never better, and every number is better than NaN; so NaN can stand for "no value yet".

    Args:
        value: The value to judge.
        than: The value to compare with.
        mode: ``"min"`` or ``"max"``.
    """
    if math.isnan(than):
        return not math.isnan(value)
    return value < than if mode == "min" else value > than


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _plain(value: Any, what: str, path: tuple[Any, ...], *, lenient: bool = False) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is float or kind is str:
        return value
    if len(path) > _MAX_DEPTH:
        if lenient:
            return "..."
        raise NotSerializable(
            f"{_name(what, path[:3])} must be nested at most {_MAX_DEPTH} levels deep"
        )
    if isinstance(value, Mapping):
        if lenient:
            return {
                _text(key): _plain(item, what, (*path, key), lenient=True)
                for key, item in value.items()
            }
        return _plain_dict(value, what, path)
    if isinstance(value, list | tuple):
        return [
            _plain(item, what, (*path, index), lenient=lenient) for index, item in enumerate(value)
        ]
    if isinstance(value, Secret | ResolvedSecret):
        return repr(value)
    for base in (bool, int, float, str):  # enums and other subclasses
        if isinstance(value, base):
            return base.__call__(value) if base is not str else str.__str__(value)
    # numpy, torch and jax agree on tolist(): a scalar gives a number, an array nested lists.
    to_list = getattr(value, "tolist", None)
    if callable(to_list) and not isinstance(value, type):
        try:
            listed = to_list()
        except Exception:  # the object is no array
            listed = value
        if type(listed) is not kind:
            return _plain(listed, what, path, lenient=lenient)
    if isinstance(value, numbers.Real):
        return float(value)
    if lenient:
        return _safe_repr(value)
    raise NotSerializable(
        f"{_name(what, path)} must be a number, a string, None, or a list or dict of these, got a "
        f"{kind.__module__}.{kind.__qualname__}; save objects in a checkpoint"
    )


def _plain_dict(value: Mapping[Any, Any], what: str, path: tuple[Any, ...]) -> Row:
    plain = {}
    for key, item in value.items():
        name = _key(key, what, path)
        if name in plain:
            raise NotSerializable(
                f"{_name(what, path)} must have each key once, got {name!r} as str and as number"
            )
        plain[name] = _plain(item, what, (*path, key))
    return plain


def _key(key: Any, what: str, path: tuple[Any, ...] = ()) -> str:
    if type(key) is str:
        return key
    if isinstance(key, ResolvedSecret):
        return repr(key)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int | float) or hasattr(key, "tolist"):
        return str(key)
    raise NotSerializable(
        f"{_name(what, path)} must have strings as keys, got the key {_safe_repr(key)} of type "
        f"{type(key).__qualname__}"
    )


def _text(key: Any) -> str:
    return repr(key) if isinstance(key, ResolvedSecret) else str(key)


def _name(what: str, path: tuple[Any, ...]) -> str:
    return what + "".join(f"[{part!r}]" for part in path)


def _safe_repr(value: object) -> str:
    # Not _checks.safe_repr, which cuts the text: a secret has to be redacted before the cut.
    try:
        text = redacted(repr(value))
    except Exception as exc:  # the repr of a user's class may raise anything
        text = f"<{type(value).__qualname__}, whose repr raised {type(exc).__name__}>"
    return text if len(text) <= 200 else text[:197] + "..."
