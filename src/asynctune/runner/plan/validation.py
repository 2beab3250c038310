"""From the arguments of a run to its plan: all that can be known to be wrong is refused here."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from typing import Any

from asynctune._checks import naming_argument, safe_repr
from asynctune.callbacks.base import Callback
from asynctune.errors import ConfigError
from asynctune.executors.base import Executor
from asynctune.experiment.reader import seed_of
from asynctune.experiment.remote.journal import RemoteJournal
from asynctune.experiment.retention import Retention
from asynctune.experiment.status import Resume
from asynctune.loggers import DEFAULT_LOGGERS, Logger
from asynctune.resources import Resources
from asynctune.runner.plan.locations import experiment_name, resolve_locations
from asynctune.runner.plan.options import Options, Plan
from asynctune.runner.plan.retry import check_on_failure
from asynctune.schedulers import FIFOScheduler, TrialScheduler
from asynctune.schedulers.stoppers.base import Stopper, make_stopper
from asynctune.space.space import Space
from asynctune.storage import Storage
from asynctune.storage.checkpoints.directory import find_root
from asynctune.suggest import BasicVariantGenerator, Searcher


def make_plan(
    trainable_name: str,
    arguments: Mapping[str, Any],
    opened: Callable[[Storage], object] | None = None,
) -> Plan:
    """Check all arguments and resolve them. Blocks, for a while if a storage is asked for the seed.

    Args:
        trainable_name: The name of the trainable.
        arguments: Those of ``run``.
        opened: Given the storage before it is asked anything, so that it can be closed meanwhile.

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
    _check_kinds(options)
    _check_numbers(options)
    with naming_argument("checkpoint_score_attr"):
        Retention(options.keep_checkpoints_num, options.checkpoint_score_attr)
        if options.checkpoint_score_attr == "min-":
            raise ConfigError("'min-' is no metric's name; one is wanted behind it")
    resources = None
    if options.resources_per_trial is not None:
        with naming_argument("resources_per_trial"):
            resources = Resources.from_mapping(options.resources_per_trial, "resources_per_trial")
    scheduler = options.scheduler if options.scheduler is not None else FIFOScheduler()
    if not isinstance(scheduler, TrialScheduler):
        raise ConfigError(
            f"scheduler is {safe_repr(scheduler)}; an instance of a scheduler is wanted"
        )
    searcher = options.search_alg if options.search_alg is not None else BasicVariantGenerator()
    if not isinstance(searcher, Searcher):
        raise ConfigError(
            f"search_alg is {safe_repr(searcher)}; an instance of a searcher is wanted"
        )
    with naming_argument("config"):
        space = Space({} if options.config is None else options.config)
    with naming_argument("stop"):
        stopper = make_stopper(options.stop)
    formats = options.export_formats
    name = experiment_name(options.name, trainable_name)
    parent, remote = resolve_locations(options, name)
    if remote is not None and opened is not None:
        opened(remote)
    resume = _resume(options)
    seed = options.seed
    if seed is None and resume is not Resume.NEW:
        seed = seed_of(os.path.join(parent, name))
        if seed is None and remote is not None:
            seed = RemoteJournal(remote).seed()
    if seed is None:
        seed = secrets.randbits(48)
    # Last of all: they are this run's from here on.
    with naming_argument("scheduler"):
        scheduler = scheduler.bind(options.metric, options.mode)
    scheduler.begin(seed)
    with naming_argument("search_alg"):
        searcher.bind(space, options.metric, options.mode, seed)
    return Plan(
        options=options,
        space=space,
        stopper=stopper,
        scheduler=scheduler,
        searcher=searcher,
        resources=resources,
        seed=seed,
        name=name,
        directory=os.path.join(parent, name),
        remote=remote,
        upload_interval_s=_seconds("upload_interval_s", options.upload_interval_s),
        loggers=_loggers(options.loggers),
        time_budget_s=_seconds("time_budget_s", options.time_budget_s),
        trial_timeout_s=_seconds("trial_timeout_s", options.trial_timeout_s),
        step_timeout_s=_seconds("step_timeout_s", options.step_timeout_s),
        hook_timeout_s=_seconds("hook_timeout_s", options.hook_timeout_s),
        grace_s=_seconds("grace_s", options.grace_s, zero=True),
        export_formats=(formats,) if isinstance(formats, str) else tuple(formats or ()),
        restore=os.path.abspath(options.restore) if options.restore is not None else None,
        resume=resume,
    )


def _check_objective(options: Options) -> None:
    metric, mode = options.metric, options.mode
    if mode is not None and not (isinstance(mode, str) and mode in ("min", "max")):
        raise ConfigError(f"mode is {safe_repr(mode)}; 'min' or 'max' is wanted")
    if metric is not None and not (isinstance(metric, str) and metric):
        raise ConfigError(f"metric is {safe_repr(metric)}; the name of a metric is wanted")
    if options.metric is not None and options.mode is None:
        raise ConfigError(f"metric is {options.metric!r} but mode is not given; 'min' or 'max'?")
    if options.mode is not None and options.metric is None:
        raise ConfigError(f"mode is {options.mode!r} but metric is not given; which one?")


def _check_numbers(options: Options) -> None:
    _whole("num_samples", options.num_samples, at_least=-1)
    if options.num_samples == 0:
        raise ConfigError("num_samples is 0; 1 or more is wanted, or -1 for no end")
    ends = options.time_budget_s is not None or isinstance(options.stop, Stopper)
    if options.num_samples == -1 and not ends and options.search_alg is None:
        raise ConfigError(
            "num_samples is -1, and nothing would end the run; give time_budget_s, or a Stopper "
            "with stop_all as stop"
        )
    _whole("max_concurrent_trials", options.max_concurrent_trials, at_least=1, optional=True)
    _whole("keep_checkpoints_num", options.keep_checkpoints_num, at_least=1, optional=True)
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
    kind: Any = options.durability
    if not (isinstance(kind, str) and kind in ("process", "power")):
        raise ConfigError(f"durability is {safe_repr(kind)}; 'process' or 'power' is wanted")
    if options.executor is not None and not isinstance(options.executor, Executor):
        raise ConfigError(
            f"executor is {safe_repr(options.executor)}; an instance of an executor is wanted, such as "
            "ProcessExecutor() or InlineExecutor()"
        )
    flags = (
        "checkpoint_at_end", "fail_fast", "raise_on_failed_trial", "log_to_driver", "deterministic",
    )  # fmt: skip
    for name in flags:
        if not isinstance(getattr(options, name), bool):
            text = safe_repr(getattr(options, name))
            raise ConfigError(f"{name} is {text}; True or False is wanted")
    formats: Any = options.export_formats
    names = [formats] if isinstance(formats, str) else () if formats is None else formats
    if not _is_list(names) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"export_formats is {safe_repr(formats)}; a list of names is wanted")
    restore: Any = options.restore
    if restore is not None:
        if not isinstance(restore, str | os.PathLike):
            raise ConfigError(
                f"restore is {safe_repr(restore)}; the path of a checkpoint is wanted"
            )
        with naming_argument("restore"):
            find_root(restore)
    callbacks: Any = options.callbacks if options.callbacks is not None else ()
    if not _is_list(callbacks):
        raise ConfigError(f"callbacks is {safe_repr(callbacks)}; a list of them is wanted")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks has {safe_repr(callback)}; instances of tune.Callback are wanted"
            )
    with naming_argument("on_failure"):
        check_on_failure(options.on_failure)
    _check_name_creator(options.trial_name_creator)


def _check_name_creator(creator: Any) -> None:
    if creator is None:
        return
    if not callable(creator):
        raise ConfigError(
            f"trial_name_creator is {safe_repr(creator)}; a function of a trial is wanted"
        )
    try:
        inspect.signature(creator).bind(None)
    except TypeError as exc:
        raise ConfigError(f"trial_name_creator cannot be called with (trial): {exc}") from exc
    except ValueError:  # a builtin without a signature
        pass


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray)


def _whole(name: str, value: Any, *, at_least: int | None = None, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} is {safe_repr(value)}; an int is wanted")
    if value.bit_length() > 1024:
        raise ConfigError(f"{name} is an int of {value.bit_length()} bits; 1024 are enough")
    if at_least is not None and value < at_least:
        raise ConfigError(f"{name} is {value}; {at_least} or more is wanted")


def _resume(options: Options) -> Resume:
    known = {False: Resume.NEW, None: Resume.NEW, True: Resume.MUST_EXIST} | {
        str(mode): mode for mode in (Resume.IF_EXISTS, Resume.ERRORED)
    }
    given = options.resume
    if not isinstance(given, bool | str | None) or given not in known:
        raise ConfigError(
            f"resume is {safe_repr(given)}; True, False, 'AUTO' or 'errored' is wanted"
        )
    mode = known[given]
    if mode is not Resume.NEW and options.name is None:
        raise ConfigError(f"resume is {given!r} but name is not given; which experiment?")
    return mode


def _seconds(name: str, value: Any, *, zero: bool = False) -> float:
    if value is None:
        return math.inf
    if isinstance(value, timedelta):
        value = value.total_seconds()
    seconds = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with suppress(OverflowError):
            seconds = float(value)
    if math.isnan(seconds):
        raise ConfigError(f"{name} is {safe_repr(value)}; seconds or a timedelta are wanted")
    if seconds < 0 or (seconds == 0 and not zero):
        raise ConfigError(f"{name} is {value}; it has to be {'0 or more' if zero else 'above 0'}")
    return seconds


def _loggers(given: Any) -> tuple[type[Logger], ...]:
    if given is None:
        return DEFAULT_LOGGERS
    if not _is_list(given):
        raise ConfigError(f"loggers is {safe_repr(given)}; a list of Logger classes is wanted")
    for logger in given:
        if not (inspect.isclass(logger) and issubclass(logger, Logger)):
            raise ConfigError(
                f"loggers has {safe_repr(logger)}; classes derived from Logger are wanted"
            )
    return tuple(given)
