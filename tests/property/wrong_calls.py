"""Calls of ``tune.run`` as hypothesis draws them: right ones, and right ones with something wrong."""

from __future__ import annotations

import fractions
import functools
import math
import pathlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any

import numpy as np
from call_parts import (
    HUGE,
    MINUS_HUGE,
    NAMES,
    Able,
    BrokenPath,
    Call,
    CannotSave,
    CannotTrain,
    HelpRaises,
    Hostile,
    HostileMapping,
    Made,
    NoTrainable,
    RequestOfInstance,
    RequestRaises,
    RequestsByItself,
    RequestsNonsense,
    RequestsTooMuch,
    Wrong,
    asynchronous,
    closes_over,
    closes_over_nothing_yet,
    function,
    generates,
    junk,
    names,
    no_argument,
    three_arguments,
    with_reporter,
)
from hypothesis import strategies as st
from wrong_spaces import (
    cannot_travel,
    good_configs,
    two_markers,
    wrong_makers,
    wrong_nodes,
    wrong_samplers,
)

import asynctune as tune
from asynctune.errors import ExecutorError, StorageError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.loggers import CSVLogger, JsonLogger, Logger
from asynctune.resources import Resources
from asynctune.runner.plan.options import Options
from asynctune.schedulers import FIFOScheduler, TrialScheduler
from asynctune.space.space import Space
from asynctune.suggest import BasicVariantGenerator, Searcher

KNOWN = frozenset(option.name for option in fields(Options))
A_FILE, A_CHECKPOINT = "there/file", "there/checkpoint_1"
"""What the directory has in which the calls are made."""


def is_whole(value, least=None):
    return type(value) is int and value.bit_length() <= 1024 and (least is None or value >= least)


def is_time(value, zero=False):
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool | complex) or not isinstance(
        value, int | float | fractions.Fraction | np.number
    ):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return value >= 0 if zero else value > 0


def is_none(value):
    return value is None


def is_bool(value):
    return type(value) is bool


def is_empty(value):
    return value is None or (type(value) in (list, tuple) and not value)


RIGHT: dict[str, Callable[[Any], bool]] = {
    "config": is_none,
    "num_samples": lambda value: is_whole(value, 1),
    "stop": lambda value: value is None or value is print,
    "scheduler": is_none,
    "search_alg": is_none,
    "deterministic": is_bool,
    "resources_per_trial": is_none,
    "max_concurrent_trials": lambda value: value is None or is_whole(value, 1),
    "time_budget_s": lambda value: value is None or is_time(value),
    "trial_timeout_s": lambda value: value is None or is_time(value),
    "step_timeout_s": lambda value: value is None or is_time(value),
    "hook_timeout_s": lambda value: value is None or is_time(value),
    "grace_s": lambda value: value is None or is_time(value, zero=True),
    "name": lambda value: value is None or isinstance(value, str),
    "storage_path": lambda value: value is None or isinstance(value, str | pathlib.Path),
    "local_dir": lambda value: value is None or isinstance(value, str | pathlib.Path),
    "upload_dir": lambda value: value is None or isinstance(value, str | pathlib.Path),
    "storage_options": lambda value: value is None or (type(value) is dict and not value),
    "upload_interval_s": lambda value: value is None or is_time(value),
    "checkpoint_freq": lambda value: is_whole(value, 0),
    "checkpoint_at_end": is_bool,
    "keep_checkpoints_num": lambda value: value is None or is_whole(value, 1),
    "checkpoint_score_attr": lambda value: value is None or (isinstance(value, str) and value != ""),
    "export_formats": lambda value: is_empty(value) or isinstance(value, str) or (
        type(value) in (list, tuple) and all(isinstance(item, str) for item in value)
    ),
    "max_failures": lambda value: is_whole(value, -1),
    "fail_fast": is_bool,
    "raise_on_failed_trial": is_bool,
    "on_failure": lambda value: value is None or value is print,
    "restore": is_none,
    "resume": lambda value: value is None or type(value) is bool,
    "durability": lambda value: False,
    "executor": is_none,
    "loggers": is_empty,
    "callbacks": is_empty,
    "verbose": lambda value: is_whole(value, 0),
    "log_to_driver": is_bool,
    "trial_name_creator": lambda value: value is None or callable(value),
    "seed": lambda value: value is None or is_whole(value),
}  # fmt: skip
"""Which junk is right for an argument. Of ``metric`` and ``mode`` each wants the other."""

PARTNERS: dict[str, Mapping[str, Any]] = {
    "metric": {"mode": "min"},
    "mode": {"metric": "loss"},
    "resume": {"name": "mine"},
    "storage_path": {},
    "local_dir": {},
}


def junk_argument(name: str) -> st.SearchStrategy[Wrong]:
    """Give junk for an argument that does not take it."""
    right = RIGHT[name]
    without = {"storage_path": ("local_dir",), "local_dir": ("storage_path",)}.get(name, ())
    return junk.filter(lambda value: not right(value)).map(
        lambda value: Wrong({**PARTNERS.get(name, {}), name: value}, (name,), without)
    )


# Arguments that are wrong in ways of their own


def used_scheduler() -> TrialScheduler:
    return FIFOScheduler().bind(None, None)


def used_searcher() -> Searcher:
    searcher = BasicVariantGenerator()
    searcher.bind(Space({}), None, None, 0)
    return searcher


async def asynchronous_stop(trial_id, result):
    return True


def wrong(name: str, /, *values: Any, **also: Any) -> list[Wrong]:
    return [Wrong({name: value, **also}, (name,)) for value in values]


SPECIAL = [
    *wrong("trainable", None, ..., 42, "function", no_argument, three_arguments,
               lambda reporter: None, NoTrainable(),
           Made("Able()", lambda: Able.__new__(Able)), Made("asynchronous({})",
           lambda: asynchronous({})),
           Made("generates({})", lambda: generates({})), functools.partial(function, 1),
           functools.partial(three_arguments)),
    *(Wrong({"trainable": kind}, (kind.__name__,)) for kind in (CannotTrain, NoTrainable, int, dict,
          max)),
    *(Wrong({"trainable": kind}, (kind.__name__,), ("resources_per_trial",))
      for kind in (RequestsNonsense, RequestRaises, RequestOfInstance, HelpRaises)),
    Wrong({"trainable": RequestsTooMuch}, ("RequestsTooMuch",), ("resources_per_trial",),
          where="process"),
    Wrong({"trainable": RequestsByItself, "resources_per_trial": {"cpu": 1}}, ("resources_per_trial",)),
    Wrong({"trainable": HelpRaises, "resources_per_trial": {"cpu": 10_000}}, ("resources_per_trial",
          "HelpRaises")),
    *(Wrong({"trainable": CannotSave, name: value}, ("CannotSave",), ("export_formats",))
      for name, value in (("checkpoint_freq", 1), ("checkpoint_at_end", True))),
    *(Wrong({"trainable": kind, "export_formats": ["h5"]}, ("export_formats",)) for kind in (function,
          CannotSave)),
    Wrong({"trainable": Made("closes over a lock", lambda: closes_over(threading.Lock()))},
          ("'value'",), where="process"),
    Wrong({"trainable": Made("empty cell", closes_over_nothing_yet)}, ("'lock'",), where="process"),
    Wrong({"trainable": Made("method of a lock", lambda: functools.partial(function,
          threading.Lock()))}, ("trainable",)),
    Wrong({"metric": "loss"}, ("mode",), ("mode",)), Wrong({"mode": "min"}, ("metric",), ("metric",)),
    *wrong("mode", "MIN", "minimum", "", Made("Hostile()", Hostile), metric="loss"),
    *wrong("metric", "", 3, Made("Hostile()", Hostile), mode="min"),
    Wrong({"num_samples": -1}, ("num_samples",), ("time_budget_s", "stop")),
    Wrong({"fail_fast": True, "max_failures": 2}, ("fail_fast",)),
    Wrong({"storage_path": "a", "local_dir": "b"}, ("storage_path",)),
    *(Wrong({name: value}, (name,), tuple({"storage_path", "local_dir"} - {name}))
      for name in ("storage_path", "local_dir")
      for value in ("", "a\0b", "\ud800/a", "s3://", "gs:///a", "http://host/a", "s3://a/../b",
      "s3://a:b@c/d", "file:///a\0", "file://host/a",
                    Made("Hostile()", Hostile), Made("a broken path", BrokenPath))),
    *(Wrong({name: value}, ("storage_path", "x" * 300), tuple({"storage_path", "local_dir"} - {name}),
          StorageError)
      for name in ("storage_path", "local_dir") for value in (A_FILE, f"{A_FILE}/in/it", "x" * 300,
      "/dev/null/a")),
    *wrong("upload_dir", "", "a\0b", "\ud800/a", "s3://", "ftp://a/b", "s3://a/b//c", "file://host/a", 3,
           {}, ["s3://a/b"], Made("Hostile()", Hostile), Made("a broken path", BrokenPath)),
    *wrong("storage_options", {"region": "a"}, {1: 2}, "region", [("region", "a")]),
    *wrong("storage_options", {"region": "a"}, {1: 2}, {"read_timeout_s": 0}, {"connect_timeout_s": "a"},
           {"operation_timeout_s": float("nan")}, upload_dir="far"),
    *wrong("storage_options", {1: 2}, {"no_such": "a"}, upload_dir="s3://bucket/a"),
    Wrong({"storage_path": "s3://a/b", "upload_dir": "s3://a/c"}, ("upload_dir",), ("local_dir",)),
    *wrong("name", *(name for name in NAMES if name in ("", ".", "..", "\\",
               "CON/") or not name.isprintable() or
                     "/" in name or len(name) > 200), "é" * 101),
    *wrong("restore", "nowhere", A_FILE, "a\0b", "\ud800", "x" * 300, "x/" * 3000,
               Made("a broken path", BrokenPath)),
    *wrong("resume", "auto", "True", "AUTO ", "", 1, 0, name="mine"),
    Wrong({"resume": True, "name": "nowhere"}, ("resume",)), Wrong({"resume": "errored",
          "name": "nowhere"}, ("resume",)),
    *(Wrong({"resume": how}, ("resume",), ("name",)) for how in (True, "AUTO", "errored")),
    *wrong("stop", {"loss": "low"}, {"loss": math.nan}, {"loss": None}, {"a": {"b": 1}}, {3: 1},
               {None: 1}, {"a": 1j},
           {"a": HUGE}, {"a": Made("Hostile()", Hostile)}, Made("HostileMapping()",
           lambda: HostileMapping(a=1)),
           lambda result: True, asynchronous_stop, tune.Stopper, no_argument),
    *wrong("scheduler", FIFOScheduler, "fifo", TrialScheduler, Made("a used one", used_scheduler)),
    Wrong({"scheduler": Made("of mode max!", lambda: FIFOScheduler("loss", "max!"))}, ("mode",)),
    *wrong("search_alg", BasicVariantGenerator, "random", Searcher, tune.uniform(0, 1),
           Made("a used one", used_searcher)),
    Wrong({"search_alg": Made("without an objective", Searcher)}, ("search_alg", "objective"),
          without=("metric", "mode")),
    Wrong({"search_alg": Made("of mode max!", lambda: Searcher("loss", "max!"))}, ("mode",)),
    *wrong("resources_per_trial", {"cpu": -1}, {"cpu": math.nan}, {"cpu": math.inf}, {"cpu": HUGE},
               {"cpu": 10**400},
           {"cpu": "1"}, {"cpu": None}, {"gpu": 1.5}, {"gpu": True}, {"cpu": 0.001},
           {"extra_cpu": -1}, {"cpus": 1}, {3: 1},
           {None: 1}, {"custom_resources": 3}, {"custom_resources": {"disk": -1}},
           {"custom_resources": {3: "a"}},
           {"cpu": Made("Hostile()", Hostile)}, {"custom_resources": Made("HostileMapping()",
           lambda: HostileMapping(a=1))},
           {"a\0b": 1}, {"\ud800": 1}),
    *(Wrong({"resources_per_trial": asked}, ("resources_per_trial",), where="process")
      for asked in ({"cpu": 10_000}, {"gpu": 64}, {"extra_cpu": 1e6},
      {"custom_resources": {"disk": 1}}, {"cpu": 1e300},
                    {"custom_resources": {"\ud800": 1}}, Resources(cpu=999))),
    Wrong({"resources_per_trial": Made("Resources(cpu=-1)", lambda: Resources(cpu=-1))}, ("cpu",)),
    *wrong("checkpoint_score_attr", "", "min-", 3), *wrong("keep_checkpoints_num", 0, -1, True, 1.0,
               MINUS_HUGE),
    *wrong("on_failure", tune.Retry, no_argument, lambda trial: None, 3, Made("Retry()", tune.Retry)),
    *(Wrong({"on_failure": Made(f"lambda, default {given}", functools.partial(tune.Retry, **given))},
          ("Retry", "of Resources must be "))
      for given in ({"delay": -1}, {"delay": math.nan}, {"delay": "1"}, {"delay": math.inf},
      {"delay": timedelta(-1)},
                    {"resources": {"cpu": -1}}, {"resources": {"cpus": 1}}, {"resources": 3},
                    {"delay": 10**400})),
    *wrong("callbacks", tune.Callback, [tune.Callback], [print], "callbacks", Made("a callback",
               tune.Callback), {}, 0, "", b""),
    *wrong("loggers", [3], "json", JsonLogger, [Logger, None], Made("[a logger]", lambda: [object()]),
               {}, b"", ["JsonLogger"]),
    *wrong("trial_name_creator", "x", no_argument, lambda trial, more: "a"),
    *wrong("durability", "disk", "", None, "POWER"),
    *wrong("export_formats", b"", b"h5", 3, ["h5", 3], {"h5"}, "", [""], trainable=Able),
    Wrong({"executor": Made("one that is not open", lambda: ProcessExecutor(1))}, ("executor",),
          error=ExecutorError),
    Wrong({"executor": Made("one that is not open", InlineExecutor)}, ("executor",),
          error=ExecutorError),
    *wrong("executor", ProcessExecutor, "process", 2),
    Wrong({"executor": Made("ProcessExecutor(0)", lambda: ProcessExecutor(0))}, ("max_workers",)),
    *wrong("config", 3, "lr", [("lr", 1)], {"grid_search": [1]}, Made("HostileMapping()",
               lambda: HostileMapping(a=1))),
    Wrong({"config": Made("{Hostile(): 1}", lambda: {Hostile(): 1})}, ("config",)),
]  # fmt: skip


MISSPELT = ["num_smaples", "Config", "metrics", "search", "self", "options"]
unknown = (
    st.one_of(names, st.sampled_from(MISSPELT))
    .filter(lambda name: name not in KNOWN and name != "trainable")
    .map(lambda name: Wrong({name: 1}, (repr(name),), error=TypeError))
)

SPACES = [wrong_nodes, cannot_travel, wrong_samplers(), wrong_makers, two_markers]
JUNK = [junk_argument(name) for name in sorted(RIGHT)]
KINDS: list[tuple[int, st.SearchStrategy[Wrong]]] = [
    *((4, st.just(wrong)) for wrong in SPECIAL),
    *((24, kind) for kind in JUNK),
    *((250, kind) for kind in SPACES),
    (100, unknown),
]
"""All that can be wrong and how much of it to draw: what one strategy draws is much alike."""

# Right calls

times = st.one_of(
    st.none(), st.floats(60, 1e9), st.integers(60, 10**9), st.just(timedelta(hours=1))
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "config": good_configs,
    "num_samples": st.integers(1, 10**6),
    "stop": st.sampled_from([None, {}, {"training_iteration": 1}, {"a/b": math.inf}, lambda trial_id,
    result: True]),
    "scheduler": st.sampled_from([None, Made("FIFOScheduler()", FIFOScheduler)]),
    "resources_per_trial": st.sampled_from([None, {}, {"cpu": 1}, {"cpu": 0.5, "gpu": 0}, Resources()]),
    "max_concurrent_trials": st.none() | st.integers(1),
    "time_budget_s": times, "trial_timeout_s": times, "step_timeout_s": times, "hook_timeout_s": times,
    "grace_s": st.sampled_from([0, 0.5, 10, timedelta(seconds=1)]),
    "name": st.sampled_from(["mine", "with blank", "é", "~", "-", "%s{0}", "x" * 200]),
    "storage_path": st.sampled_from(["out", "out/deeper", pathlib.Path("out"),
    "~nobody-of-this-name/é"]),
    "local_dir": st.sampled_from(["out", "out/deeper"]),
    "checkpoint_freq": st.integers(0, 10**6),
    "checkpoint_at_end": st.booleans(),
    "keep_checkpoints_num": st.none() | st.integers(1, 99),
    "checkpoint_score_attr": st.sampled_from([None, "loss", "min-loss", "a/b"]),
    "max_failures": st.integers(-1, 9),
    "raise_on_failed_trial": st.booleans(),
    "on_failure": st.sampled_from([None, lambda trial, error: None]),
    "restore": st.sampled_from([None, A_CHECKPOINT]),
    "durability": st.sampled_from(["process", "power"]),
    "loggers": st.sampled_from([None, [], (), [JsonLogger], [CSVLogger, JsonLogger]]),
    "callbacks": st.sampled_from([None, [], (), Made("[Callback()]", lambda: [tune.Callback()])]),
    "verbose": st.just(0),
    "log_to_driver": st.booleans(),
    "deterministic": st.booleans(),
    "trial_name_creator": st.sampled_from([None, str, lambda trial: "\ud800/.."]),
    "seed": st.none() | st.integers(-(2**64), 2**64),
    "sync_to_driver": st.sampled_from([None, True, "rsync"]),
}  # fmt: skip
TRAINABLES = [function, with_reporter, generates, asynchronous, Able, functools.partial(with_reporter,
reporter=1),
              Made("a bound method", lambda: Able.__new__(Able).method)]  # fmt: skip
POOLS = ["process", "inline", "default"]


@st.composite
def right_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Draw arguments with which a call would be right."""
    chosen = draw(st.lists(st.sampled_from(sorted(GOOD)), unique=True, max_size=6))
    arguments: dict[str, Any] = {"trainable": draw(st.sampled_from(TRAINABLES))}
    arguments |= {name: draw(GOOD[name]) for name in chosen}
    if "storage_path" in arguments:
        arguments.pop("local_dir", None)
    if draw(st.booleans()):
        arguments["metric"] = draw(st.sampled_from(["loss", "a/b"]))
        arguments["mode"] = draw(st.sampled_from(["min", "max"]))
    if "name" in arguments and draw(st.booleans()):
        arguments["resume"] = draw(st.sampled_from([False, None, "AUTO"]))
    if arguments["trainable"] is Able and draw(st.booleans()):
        arguments["export_formats"] = draw(st.sampled_from(["h5", ["a", "b"], ()]))
    if "max_failures" not in arguments and draw(st.booleans()):
        arguments["fail_fast"] = draw(st.booleans())
    return arguments


pools = st.sampled_from(["process", "inline", "default"])
right_calls = st.builds(Call, right_arguments(), pools)
anything = st.one_of(*JUNK, *SPACES, st.sampled_from(SPECIAL))


@st.composite
def wrong_calls(draw: st.DrawFn, kind: st.SearchStrategy[Wrong]) -> Call:
    """Draw a call with this kind of wrong in it; in one of eight something else is wrong, too.

    Args:
        draw: Draws.
        kind: Gives what is wrong.
    """
    arguments, pool, found = draw(right_arguments()), draw(pools), [draw(kind)]
    if draw(st.integers(0, 7)) == 7:
        other, first = draw(anything), found[0]
        if not other.touches & first.touches:
            found.append(other)
    for wrong in found:
        arguments = {name: value for name, value in arguments.items() if name not in wrong.without}
        arguments |= wrong.arguments
    if pool == "inline" and any(wrong.where == "process" for wrong in found):
        pool = "process"
    return Call(arguments, pool, tuple(found))
