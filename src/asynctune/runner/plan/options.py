"""The arguments of ``run``, each declared once: type, default, check and description."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from asynctune.callbacks.base import Callback
from asynctune.errors import ConfigError
from asynctune.executors.base import Executor
from asynctune.experiment.status import Resume
from asynctune.experiment.trial import Trial
from asynctune.loggers import Logger
from asynctune.resources import Resources
from asynctune.result import Row
from asynctune.runner.plan import argument
from asynctune.runner.plan.argument import Argument, Seconds, Unchanged
from asynctune.runner.plan.retry import OnFailure
from asynctune.schedulers import TrialScheduler
from asynctune.schedulers.stoppers.base import (
    CriteriaStopper,
    FunctionStopper,
    NeverStops,
    Stopper,
)
from asynctune.storage import Storage
from asynctune.suggest import BasicVariantGenerator, Searcher

Path: TypeAlias = str | os.PathLike[str]
Place: TypeAlias = Path | Storage | None


@dataclass(frozen=True, kw_only=True)  # without slots: each field is a descriptor
class Options:
    """The arguments of a run, checked and converted one by one, and then with each other.

    A new argument is one more field here, and the code that reads the field.

    Raises:
        ConfigError: An argument is wrong; the message names the argument and says what would be right.
    """

    config: Unchanged[Mapping[str, Any] | None] = Argument(
        None,
        argument.as_given,
        "A dict with search markers anywhere inside (:func:`uniform`, :func:`choice`, "
        ":func:`grid_search`, ...).",
    )
    metric: Unchanged[str | None] = Argument(
        None, argument.optional(argument.key), "The name of the objective in the results."
    )
    mode: Argument[Literal["min", "max"] | None, str | None] = Argument(
        None,
        argument.optional(argument.mode),
        'The direction of the objective, ``"min"`` or ``"max"``.',
    )
    num_samples: Unchanged[int] = Argument(
        1,
        argument.num_samples,
        "The number of repetitions of the grid, each with new samples or suggestions; -1: until a "
        "budget or stopper ends the run.",
    )
    stop: Argument[Mapping[str, float] | Callable[[str, Row], bool] | Stopper | None, Stopper] = (
        Argument(
            None,
            argument.stopper,
            'When a trial stops: bounds by metric (``{"training_iteration": 10}``, reached at '
            "``>=``), a function ``(trial_id, result) -> bool``, or a :class:`Stopper`.",
        )
    )
    scheduler: Argument[TrialScheduler | None, TrialScheduler] = Argument(
        None,
        argument.scheduler,
        "The object that decides after each result how the trial goes on; by default every trial "
        "runs to its end.",
    )
    search_alg: Argument[Searcher | None, Searcher] = Argument(
        None,
        argument.searcher,
        "A :class:`~asynctune.suggest.Searcher` that suggests the values of samplers; by default "
        "they are drawn at random.",
    )
    resources_per_trial: Argument[Mapping[str, Any] | Resources | None, Resources | None] = (
        Argument(
            None,
            argument.optional(argument.resources),
            'The resources that each trial holds, such as ``{"cpu": 2, "gpu": 0.5}``; by default '
            "those of ``Trainable.default_resource_request(config)``, else one CPU.",
        )
    )
    max_concurrent_trials: Unchanged[int | None] = Argument(
        None, argument.optional(argument.integer(1)), "An upper bound beside the resources."
    )
    time_budget_s: Argument[Seconds | None, float] = Argument(
        None,
        argument.seconds(),
        "Seconds for the whole run, previous runs of the experiment included.",
    )
    trial_timeout_s: Argument[Seconds | None, float] = Argument(
        None, argument.seconds(), "Seconds for one attempt of a trial."
    )
    step_timeout_s: Argument[Seconds | None, float] = Argument(
        None, argument.seconds(), "Seconds for one ``train()`` call."
    )
    hook_timeout_s: Argument[Seconds | None, float] = Argument(
        600.0,
        argument.seconds(),
        "Seconds for each ``_setup``, ``_save``, ``_restore`` and export. This limit is hard, like "
        "the others: the run kills the worker.",
    )
    grace_s: Argument[Seconds, float] = Argument(
        10.0,
        argument.seconds(zero=True),
        "Seconds that a stopped trial may clean up before the run kills its worker.",
    )
    name: Unchanged[str | None] = Argument(
        None,
        argument.optional(argument.experiment_name),
        "The name of the experiment; by default a new one. The name of an existing experiment is "
        "an error, unless the run resumes it.",
    )
    storage_path: Unchanged[Place] = Argument(
        None,
        argument.as_given,
        "The folder of results; by default ``$ASYNCTUNE_RESULTS_DIR``, else "
        "``~/asynctune_results``. A remote one, such as ``s3://bucket/path``, is an "
        "``upload_dir``.",
    )
    local_dir: Unchanged[Path | None] = Argument(
        None,
        argument.as_given,
        "Another name of ``storage_path``; beside a remote ``storage_path``, the folder of the local copy.",
    )
    upload_dir: Unchanged[Place] = Argument(
        None,
        argument.as_given,
        "The storage that keeps a copy of the experiment: ``s3://bucket/path``, ``gs://``, "
        "``az://``, a directory, or a :class:`~asynctune.storage.Storage`. The run uploads "
        "journal, checkpoints and logs in the background; training never waits for an upload. "
        "``resume`` then works on any machine, from the storage alone. A remote ``storage_path`` "
        "means the same.",
    )
    storage_options: Unchanged[Mapping[str, Any] | None] = Argument(
        None,
        argument.optional(argument.mapping),
        "How to reach the storage: ``endpoint``, ``region``, keys, and the limits of time "
        "``connect_timeout_s`` (5), ``read_timeout_s`` (30), ``operation_timeout_s`` (300). "
        "Missing ones come from the usual environment variables. Values may be a :class:`Secret`.",
    )
    upload_interval_s: Argument[Seconds, float] = Argument(
        5.0, argument.seconds(), "The greatest age in seconds of a result that is not yet uploaded."
    )
    checkpoint_freq: Unchanged[int] = Argument(
        0,
        argument.integer(0),
        "The number of iterations from one checkpoint to the next; 0: no checkpoints.",
    )
    checkpoint_at_end: Unchanged[bool] = Argument(
        False, argument.flag, "Whether to save a trial that has ended."
    )
    keep_checkpoints_num: Unchanged[int | None] = Argument(
        None,
        argument.optional(argument.integer(1)),
        "The number of checkpoints of a trial to keep, beside the newest; by default all.",
    )
    checkpoint_score_attr: Unchanged[str | None] = Argument(
        None,
        argument.optional(argument.score_attr),
        'The metric that ranks checkpoints; with ``"min-"`` in front of it low values are better.',
    )
    export_formats: Argument[str | Sequence[str] | None, tuple[str, ...]] = Argument(
        None,
        argument.export_formats,
        "The formats that ``export_model`` writes when a trial has ended.",
    )
    max_failures: Unchanged[int] = Argument(
        0,
        argument.integer(-1),
        "The number of times that a failed trial is retried, from its newest checkpoint; -1: always.",
    )
    fail_fast: Unchanged[bool] = Argument(
        False, argument.flag, "Whether the first failure ends the run."
    )
    raise_on_failed_trial: Unchanged[bool] = Argument(
        True, argument.flag, "Whether a failed trial makes ``run`` raise at the end."
    )
    on_failure: Unchanged[OnFailure | None] = Argument(
        None,
        argument.optional(argument.function("trial", "error", allow_async=True)),
        "Called after each failed attempt as ``on_failure(trial, error)``; may be ``async def``. "
        "The function may return a :class:`Retry`; None leaves the decision to ``max_failures``.",
    )
    restore: Argument[Path | None, str | None] = Argument(
        None, argument.optional(argument.checkpoint), "A checkpoint that every trial begins from."
    )
    resume: Argument[bool | Literal["AUTO", "errored"] | None, Resume] = Argument(
        False,
        argument.resume,
        "Whether to continue the experiment ``name``: ``True`` if it exists (else an error), "
        '``"AUTO"`` if it exists (else it is started), ``"errored"`` like True, and failed trials '
        "are retried. Pass trainable and ``config`` again. Trials that ended stay so; those that "
        "were cut short go on from their last checkpoint. ``num_samples``, ``stop`` and "
        "``time_budget_s`` may be raised.",
    )
    durability: Argument[Literal["process", "power"], str] = Argument(
        "process",
        argument.one_of("process", "power"),
        'The failure that a result survives as soon as the run shows it: ``"process"``: the death '
        'of this process; ``"power"``: the death of the machine.',
    )
    executor: Unchanged[Executor | None] = Argument(
        None,
        argument.optional(argument.executor),
        "The executor that trains the trials; by default a :class:`ProcessExecutor` for this run.",
    )
    loggers: Argument[Sequence[type[Logger]] | None, tuple[type[Logger], ...]] = Argument(
        None,
        argument.loggers,
        "The logger classes; by default ``JsonLogger`` and ``CSVLogger``. ``[]``: none.",
    )
    callbacks: Argument[Sequence[Callback] | None, tuple[Callback, ...]] = Argument(
        None, argument.callbacks, "Instances of :class:`Callback`."
    )
    verbose: Unchanged[int] = Argument(
        1, argument.integer(0), "0: silent; 1: a line for each trial that has ended."
    )
    log_to_driver: Unchanged[bool] = Argument(
        False, argument.flag, "Whether to show the output of the trials."
    )
    trial_name_creator: Unchanged[Callable[[Trial], str] | None] = Argument(
        None,
        argument.optional(argument.function("trial", allow_class=True)),
        "A function that makes the label of a trial; directories are named by trial id.",
    )
    seed: Unchanged[int | None] = Argument(
        None,
        argument.optional(argument.integer()),
        "The seed of the grid and of every sample; by default drawn, and recorded in the journal.",
    )
    deterministic: Unchanged[bool] = Argument(
        False,
        argument.flag,
        "Whether a seeded searcher suggests the same again with the same seed, although trials run "
        "in parallel: each suggestion then knows whole trials, in order, and only those that lie "
        "as many back as can run at once (set ``max_concurrent_trials`` for more than one "
        "machine). A slot may wait for a slow trial.",
    )
    sync_to_driver: Unchanged[Any] = Argument(
        None, argument.as_given, "Accepted for the sake of older code; workers write in place."
    )

    def __post_init__(self) -> None:
        if self.metric is not None and self.mode is None:
            raise ConfigError(f"mode must be 'min' or 'max' with metric={self.metric!r}, got None")
        if self.mode is not None and self.metric is None:
            raise ConfigError(
                f"metric must be the name of a metric with mode={self.mode!r}, got None"
            )
        if self.num_samples == -1 and not self._has_end:
            raise ConfigError(
                "num_samples must be a positive int, got -1 (unlimited), and nothing would end the "
                "run; pass time_budget_s, or a Stopper with stop_all as stop"
            )
        if self.fail_fast and self.max_failures:
            raise ConfigError(
                f"fail_fast must be False with max_failures={self.max_failures}, got True; fail_fast "
                "ends the run at the first failure, max_failures retries"
            )
        if self.resume is not Resume.NEW and self.name is None:
            raise ConfigError(
                f"name must be the name of an experiment with resume={self.resume.argument!r}, got None"
            )

    @property
    def _has_end(self) -> bool:
        """Whether something can end a run that has no last sample."""
        # The exact classes, since a class that is derived from one of these may end the run.
        never_end = type(self.stop) in (NeverStops, CriteriaStopper, FunctionStopper)
        # A searcher may end the run by itself, but for the one that only counts samples.
        may_finish = type(self.search_alg) is not BasicVariantGenerator
        return may_finish or not never_end or not math.isinf(self.time_budget_s)
