"""The arguments of ``run`` and ``start``: types, defaults, and all that can be known to be wrong."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, TypedDict

from asynctune.callback import Callback
from asynctune.checkpoint import find_root
from asynctune.checkpoints import CheckpointManager
from asynctune.errors import ConfigError, UnsafePath
from asynctune.executors.base import Executor
from asynctune.hosting import results_dir
from asynctune.loggers import CSVLogger, JsonLogger, Logger
from asynctune.resources import Resources
from asynctune.result import Row
from asynctune.retry import OnFailure, check_on_failure
from asynctune.schedulers import FIFOScheduler, TrialScheduler
from asynctune.space import Space
from asynctune.stopper import Stopper, make_stopper
from asynctune.trial import Trial

Seconds = float | timedelta


class Resume(StrEnum):
    """Which experiment a run works on."""

    NEW = "new"
    """One that does not exist."""
    MUST_EXIST = "True"
    IF_EXISTS = "AUTO"
    ERRORED = "errored"
    """One that exists; its failed trials are tried again."""


class Arguments(TypedDict, total=False):
    """The keyword arguments of :func:`asynctune.run`, for type checkers."""

    config: Mapping[str, Any] | None
    metric: str | None
    mode: Literal["min", "max"] | None
    num_samples: int
    stop: Mapping[str, float] | Callable[[str, Row], bool] | Stopper | None
    scheduler: TrialScheduler | None
    resources_per_trial: Mapping[str, Any] | Resources | None
    max_concurrent_trials: int | None
    time_budget_s: Seconds | None
    trial_timeout_s: Seconds | None
    step_timeout_s: Seconds | None
    hook_timeout_s: Seconds
    grace_s: Seconds
    name: str | None
    storage_path: str | os.PathLike[str] | None
    local_dir: str | os.PathLike[str] | None
    checkpoint_freq: int
    checkpoint_at_end: bool
    keep_checkpoints_num: int | None
    checkpoint_score_attr: str | None
    export_formats: str | Sequence[str] | None
    max_failures: int
    fail_fast: bool
    raise_on_failed_trial: bool
    on_failure: OnFailure | None
    restore: str | os.PathLike[str] | None
    resume: bool | Literal["AUTO", "errored"]
    durability: Literal["process", "power"]
    executor: Executor | None
    loggers: Sequence[type[Logger]] | None
    callbacks: Sequence[Callback] | None
    verbose: int
    log_to_driver: bool
    trial_name_creator: Callable[[Trial], str] | None
    seed: int | None
    sync_to_driver: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of a run, checked. See :func:`asynctune.run` for what each means."""

    config: Mapping[str, Any] | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    num_samples: int = 1
    stop: Any = None
    scheduler: TrialScheduler | None = None
    resources_per_trial: Mapping[str, Any] | Resources | None = None
    max_concurrent_trials: int | None = None
    time_budget_s: Seconds | None = None
    trial_timeout_s: Seconds | None = None
    step_timeout_s: Seconds | None = None
    hook_timeout_s: Seconds = 600.0
    grace_s: Seconds = 10.0
    name: str | None = None
    storage_path: str | os.PathLike[str] | None = None
    local_dir: str | os.PathLike[str] | None = None
    checkpoint_freq: int = 0
    checkpoint_at_end: bool = False
    keep_checkpoints_num: int | None = None
    checkpoint_score_attr: str | None = None
    export_formats: str | Sequence[str] | None = None
    max_failures: int = 0
    fail_fast: bool = False
    raise_on_failed_trial: bool = True
    on_failure: OnFailure | None = None
    restore: str | os.PathLike[str] | None = None
    resume: bool | Literal["AUTO", "errored"] = False
    durability: Literal["process", "power"] = "process"
    executor: Executor | None = None
    loggers: Sequence[type[Logger]] | None = None
    callbacks: Sequence[Callback] | None = None
    verbose: int = 1
    log_to_driver: bool = False
    trial_name_creator: Callable[[Trial], str] | None = None
    seed: int | None = None
    sync_to_driver: Any = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as it will be done: options resolved into the objects that do the work.

    Args:
        options: The arguments.
        space: The space of ``config``.
        stopper: What ``stop`` means.
        scheduler: The scheduler, bound to the objective.
        resources: What each trial gets, None: what its configuration requests.
        seed: The seed, drawn if none was given.
        name: The experiment.
        directory: Where it will be.
        loggers: The loggers of each trial.
        time_budget_s: Limits in seconds, ``math.inf`` for none.
        trial_timeout_s: As above.
        step_timeout_s: As above.
        hook_timeout_s: As above.
        grace_s: How long a stopped trial may clean up.
        export_formats: What ``export_model`` is asked for.
        restore: The checkpoint that every trial begins from, or None.
        resume: Which experiment it works on.
    """

    options: Options
    space: Space
    stopper: Stopper
    scheduler: TrialScheduler
    resources: Resources | None
    seed: int
    name: str
    directory: str
    loggers: tuple[type[Logger], ...]
    time_budget_s: float
    trial_timeout_s: float
    step_timeout_s: float
    hook_timeout_s: float
    grace_s: float
    export_formats: tuple[str, ...]
    restore: str | None
    resume: Resume


def make_plan(trainable_name: str, arguments: Mapping[str, Any]) -> Plan:
    """Check all arguments and resolve them.

    Raises:
        ConfigError: The message names the argument and what would be right.
        TypeError: An argument is unknown.
    """
    known = [field.name for field in fields(Options)]
    for name in arguments:
        if name not in known:
            raise TypeError(f"run() has no argument {name!r}; it has {', '.join(known)}")
    options = Options(**arguments)
    _check_objective(options)
    _check_numbers(options)
    _check_kinds(options)
    if options.config is not None and not isinstance(options.config, Mapping):
        raise ConfigError(f"config is {options.config!r}; a dict is wanted")
    CheckpointManager(options.keep_checkpoints_num, options.checkpoint_score_attr)
    resources = None
    if options.resources_per_trial is not None:
        resources = Resources.from_mapping(options.resources_per_trial, "resources_per_trial")
    scheduler = options.scheduler if options.scheduler is not None else FIFOScheduler()
    if not isinstance(scheduler, TrialScheduler):
        raise ConfigError(f"scheduler is {scheduler!r}; an instance of a scheduler is wanted")
    formats = options.export_formats
    name, parent = _place(options, trainable_name)
    return Plan(
        options=options,
        space=Space(options.config or {}),
        stopper=make_stopper(options.stop),
        scheduler=scheduler.bind(options.metric, options.mode),
        resources=resources,
        seed=options.seed if options.seed is not None else secrets.randbits(48),
        name=name,
        directory=os.path.join(parent, name),
        loggers=_loggers(options.loggers),
        time_budget_s=_seconds("time_budget_s", options.time_budget_s),
        trial_timeout_s=_seconds("trial_timeout_s", options.trial_timeout_s),
        step_timeout_s=_seconds("step_timeout_s", options.step_timeout_s),
        hook_timeout_s=_seconds("hook_timeout_s", options.hook_timeout_s),
        grace_s=_seconds("grace_s", options.grace_s, zero=True),
        export_formats=(formats,) if isinstance(formats, str) else tuple(formats or ()),
        restore=os.path.abspath(options.restore) if options.restore is not None else None,
        resume=_resume(options),
    )


def _check_objective(options: Options) -> None:
    if options.mode not in (None, "min", "max"):
        raise ConfigError(f"mode is {options.mode!r}; 'min' or 'max' is wanted")
    if options.metric is not None and not isinstance(options.metric, str):
        raise ConfigError(f"metric is {options.metric!r}; the name of a metric is wanted")
    if options.metric is not None and options.mode is None:
        raise ConfigError(f"metric is {options.metric!r} but mode is not given; 'min' or 'max'?")
    if options.mode is not None and options.metric is None:
        raise ConfigError(f"mode is {options.mode!r} but metric is not given; which one?")


def _check_numbers(options: Options) -> None:
    _whole("num_samples", options.num_samples, at_least=-1)
    if options.num_samples == 0:
        raise ConfigError("num_samples is 0; 1 or more is wanted, or -1 for no end")
    if options.num_samples == -1 and options.time_budget_s is None and not isinstance(
        options.stop, Stopper
    ):  # fmt: skip
        raise ConfigError(
            "num_samples is -1, and nothing would end the run; give time_budget_s, or a Stopper "
            "with stop_all as stop"
        )
    _whole("max_concurrent_trials", options.max_concurrent_trials, at_least=1, optional=True)
    _whole("checkpoint_freq", options.checkpoint_freq, at_least=0)
    _whole("max_failures", options.max_failures, at_least=-1)
    _whole("verbose", options.verbose, at_least=0)
    _whole("seed", options.seed, optional=True)
    if options.fail_fast and options.max_failures:
        raise ConfigError(
            f"fail_fast ends the run at the first failure, and max_failures={options.max_failures} "
            "tries again; give one of them"
        )


def _check_kinds(options: Options) -> None:
    if options.durability not in ("process", "power"):
        raise ConfigError(f"durability is {options.durability!r}; 'process' or 'power' is wanted")
    if options.executor is not None and not isinstance(options.executor, Executor):
        raise ConfigError(
            f"executor is {options.executor!r}; an instance of an executor is wanted, such as "
            "ProcessExecutor() or InlineExecutor()"
        )
    for name in ("checkpoint_at_end", "fail_fast", "raise_on_failed_trial", "log_to_driver"):
        if not isinstance(getattr(options, name), bool):
            raise ConfigError(f"{name} is {getattr(options, name)!r}; True or False is wanted")
    formats = options.export_formats
    listed = isinstance(formats, Sequence) and all(isinstance(f, str) for f in formats)
    if formats is not None and not listed:  # a str is a sequence of those, too
        raise ConfigError(f"export_formats is {formats!r}; a list of names is wanted")
    if options.restore is not None:
        if not isinstance(options.restore, str | os.PathLike):
            raise ConfigError(f"restore is {options.restore!r}; the path of a checkpoint is wanted")
        try:
            find_root(options.restore)
        except FileNotFoundError as exc:
            raise ConfigError(f"restore: {exc}") from exc
    if not isinstance(options.callbacks or (), Sequence):
        raise ConfigError(f"callbacks is {options.callbacks!r}; a list of them is wanted")
    for callback in options.callbacks or ():
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks has {callback!r}; instances of tune.Callback are wanted")
    check_on_failure(options.on_failure)
    creator = options.trial_name_creator
    if creator is not None and not callable(creator):
        raise ConfigError(f"trial_name_creator is {creator!r}; a function of a trial is wanted")


def _whole(name: str, value: Any, *, at_least: int | None = None, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; an int is wanted")
    if at_least is not None and value < at_least:
        raise ConfigError(f"{name} is {value}; {at_least} or more is wanted")


def _resume(options: Options) -> Resume:
    known = {False: Resume.NEW, None: Resume.NEW, True: Resume.MUST_EXIST} | {
        str(mode): mode for mode in (Resume.IF_EXISTS, Resume.ERRORED)
    }
    given = options.resume
    if not isinstance(given, bool | str | None) or given not in known:
        raise ConfigError(f"resume is {given!r}; True, False, 'AUTO' or 'errored' is wanted")
    mode = known[given]
    if mode is not Resume.NEW and options.name is None:
        raise ConfigError(f"resume is {given!r} but name is not given; which experiment?")
    return mode


def _seconds(name: str, value: Any, *, zero: bool = False) -> float:
    if value is None:
        return math.inf
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise ConfigError(f"{name} is {value!r}; seconds or a timedelta are wanted")
    if value < 0 or (value == 0 and not zero):
        raise ConfigError(f"{name} is {value}; it has to be {'0 or more' if zero else 'above 0'}")
    return float(value)


def _loggers(given: Any) -> tuple[type[Logger], ...]:
    if given is None:
        return (JsonLogger, CSVLogger)
    if isinstance(given, str | type) or not isinstance(given, Sequence):
        raise ConfigError(f"loggers is {given!r}; a list of Logger classes is wanted")
    for logger in given:
        if not (inspect.isclass(logger) and issubclass(logger, Logger)):
            raise ConfigError(f"loggers has {logger!r}; classes derived from Logger are wanted")
    return tuple(given)


def _place(options: Options, trainable_name: str) -> tuple[str, str]:
    if options.storage_path is not None and options.local_dir is not None:
        raise ConfigError("storage_path and local_dir are two names of one thing; give one of them")
    given = options.storage_path if options.storage_path is not None else options.local_dir
    if given is None:
        parent = results_dir()
    elif not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise ConfigError(f"storage_path is {given!r}; a path is wanted")
    elif re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(given)):
        if not os.fspath(given).startswith("file://"):
            raise ConfigError(
                f"storage_path is {os.fspath(given)!r}; this version writes to local directories only"
            )
        parent = os.path.abspath(os.fspath(given).removeprefix("file://"))
    else:
        parent = os.path.abspath(os.path.expanduser(given))
    name = options.name
    if name is None:
        label = re.sub(r"[^A-Za-z0-9_-]", "-", trainable_name)[:60]
        moment = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        return f"{label}_{moment}_{secrets.token_hex(3)}", parent
    if not isinstance(name, str):
        raise ConfigError(f"name is {name!r}; a string is wanted")
    check_name(name)
    return name, parent


def check_name(name: str) -> None:
    """Refuse a name that is not one plain directory's.

    Raises:
        UnsafePath: The message says what is wrong with it.
    """
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise UnsafePath(
            f"name is {name!r}, which would leave the results folder; a plain name without slashes "
            "is wanted (the folder is storage_path)"
        )
    if len(name.encode("utf-8", "surrogatepass")) > 200 or not name.isprintable():
        raise UnsafePath(f"name is {name!r}; at most 200 bytes of printable characters are wanted")
