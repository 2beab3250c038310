"""The arguments of ``run`` and ``start``, their types and defaults, and the plan that is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypedDict

from asynctune.callbacks.base import Callback
from asynctune.executors.base import Executor
from asynctune.experiment.status import Resume
from asynctune.experiment.trial import Trial
from asynctune.loggers import Logger
from asynctune.resources import Resources
from asynctune.result import Row
from asynctune.runner.plan.retry import OnFailure
from asynctune.schedulers import TrialScheduler
from asynctune.schedulers.stoppers.base import Stopper
from asynctune.space.space import Space
from asynctune.storage import Storage
from asynctune.suggest import Searcher

Seconds = float | timedelta


class Arguments(TypedDict, total=False):
    """The keyword arguments of :func:`asynctune.run`, for type checkers."""

    config: Mapping[str, Any] | None
    metric: str | None
    mode: Literal["min", "max"] | None
    num_samples: int
    stop: Mapping[str, float] | Callable[[str, Row], bool] | Stopper | None
    scheduler: TrialScheduler | None
    search_alg: Searcher | None
    resources_per_trial: Mapping[str, Any] | Resources | None
    max_concurrent_trials: int | None
    time_budget_s: Seconds | None
    trial_timeout_s: Seconds | None
    step_timeout_s: Seconds | None
    hook_timeout_s: Seconds
    grace_s: Seconds
    name: str | None
    storage_path: str | os.PathLike[str] | Storage | None
    local_dir: str | os.PathLike[str] | None
    upload_dir: str | os.PathLike[str] | Storage | None
    storage_options: Mapping[str, Any] | None
    upload_interval_s: Seconds
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
    deterministic: bool
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
    search_alg: Searcher | None = None
    resources_per_trial: Mapping[str, Any] | Resources | None = None
    max_concurrent_trials: int | None = None
    time_budget_s: Seconds | None = None
    trial_timeout_s: Seconds | None = None
    step_timeout_s: Seconds | None = None
    hook_timeout_s: Seconds = 600.0
    grace_s: Seconds = 10.0
    name: str | None = None
    storage_path: str | os.PathLike[str] | Storage | None = None
    local_dir: str | os.PathLike[str] | None = None
    upload_dir: str | os.PathLike[str] | Storage | None = None
    storage_options: Mapping[str, Any] | None = None
    upload_interval_s: Seconds = 5.0
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
    deterministic: bool = False
    sync_to_driver: Any = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as it will be done: options resolved into the objects that do the work.

    Args:
        options: The arguments.
        space: The space of ``config``.
        stopper: What ``stop`` means.
        scheduler: The scheduler, bound to the objective.
        searcher: The searcher, bound to the space and the objective.
        resources: What each trial gets, None: what its configuration requests.
        seed: The seed, drawn if none was given.
        name: The experiment.
        directory: Where it will be.
        remote: Where it is kept beside that, None for nowhere.
        upload_interval_s: How often the journal is uploaded.
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
    searcher: Searcher
    resources: Resources | None
    seed: int
    name: str
    directory: str
    remote: Storage | None
    upload_interval_s: float
    loggers: tuple[type[Logger], ...]
    time_budget_s: float
    trial_timeout_s: float
    step_timeout_s: float
    hook_timeout_s: float
    grace_s: float
    export_formats: tuple[str, ...]
    restore: str | None
    resume: Resume
