"""``run`` and ``start``: from arguments to an experiment that is going on."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack
from dataclasses import fields
from functools import partial
from typing import Any, Unpack

import anyio.to_thread

from asynctune._checks import function_name
from asynctune._threads import run_uninterrupted
from asynctune.executors.process import ProcessExecutor
from asynctune.executors.serialization import check_trainable
from asynctune.experiment.analysis import ExperimentAnalysis
from asynctune.experiment.opening import OpenExperiment, open_experiment
from asynctune.runner.handle import Experiment, Starting
from asynctune.runner.plan.options import Arguments, Options
from asynctune.runner.plan.preflight import Preflight
from asynctune.runner.plan.run_started import start_record
from asynctune.runner.plan.validation import make_plan
from asynctune.runner.runner import Runner
from asynctune.storage import Storage


async def run(trainable: Any, **arguments: Unpack[Arguments]) -> ExperimentAnalysis:
    """Tune: run trials of a trainable with configurations drawn from a space, and await their end.

    Cancelling the task that awaits this stops every trial, lets it clean up for ``grace_s``, kills
    what is left, writes the final state, and raises ``CancelledError``. A second cancellation ends the
    grace. However this returns, nothing that it started is alive.

    Args:
        trainable: A :class:`Trainable` subclass, or a function of ``(config)`` or ``(config,
            reporter)``: ``def``, ``async def``, a generator that yields dicts, a partial, a bound
            method.
        config: A dict with search markers anywhere inside (:func:`uniform`, :func:`choice`,
            :func:`grid_search`, ...).
        metric: The objective.
        mode: ``"min"`` or ``"max"``.
        num_samples: How often the grid is gone through, each time with other samples or suggestions; -1:
            until a budget or stopper ends the run.
        stop: When a trial stops: bounds by metric (``{"training_iteration": 10}``, reached at ``>=``),
            a function ``(trial_id, result) -> bool``, or a :class:`Stopper`.
        scheduler: Who decides after each result; by default every trial runs to its end.
        search_alg: A :class:`~asynctune.suggest.Searcher` that suggests the values of samplers; by default
            they are drawn at random.
        resources_per_trial: What each trial holds, such as ``{"cpu": 2, "gpu": 0.5}``; by default
            what ``Trainable.default_resource_request(config)`` says, else one CPU.
        max_concurrent_trials: An upper bound beside the resources.
        time_budget_s: Seconds for the whole run, what was worked before a resume included.
        trial_timeout_s: Seconds for one attempt of a trial.
        step_timeout_s: Seconds for one ``train()`` call.
        hook_timeout_s: Seconds for each ``_setup``, ``_save``, ``_restore`` and export. Like the other
            limits it is hard: the worker is killed.
        grace_s: Seconds that a stopped trial may clean up before its worker is killed.
        name: The experiment; by default a new name. An existing one is an error, unless it is resumed.
        storage_path: The folder of results; by default ``$ASYNCTUNE_RESULTS_DIR``, else
            ``~/asynctune_results``. A remote one, such as ``s3://bucket/path``, is an ``upload_dir``.
        local_dir: Another name of ``storage_path``; with a remote one, where it is written here.
        upload_dir: Where the experiment is kept beside its local directory: ``s3://bucket/path``,
            ``gs://``, ``az://``, a directory, or a :class:`~asynctune.storage.Storage`. The journal,
            checkpoints and logs are uploaded in the background; training never waits for that. Then
            ``resume`` works on any machine, from there alone. A remote ``storage_path`` means the same.
        storage_options: How it is reached: ``endpoint``, ``region``, keys, and the limits of time
            ``connect_timeout_s`` (5), ``read_timeout_s`` (30), ``operation_timeout_s`` (300). What is not
            given comes from the usual environment variables. Values may be a :class:`Secret`.
        upload_interval_s: How old a result may become before it is there, in seconds.
        checkpoint_freq: A checkpoint every so many iterations; 0: never.
        checkpoint_at_end: Whether a trial that has ended is saved.
        keep_checkpoints_num: How many of a trial's checkpoints are kept, beside the newest.
        checkpoint_score_attr: The metric that ranks them; ``"min-"`` in front: low is good.
        export_formats: What ``export_model`` is asked for when a trial has ended.
        max_failures: How often a failed trial is tried again, from its newest checkpoint; -1: always.
        fail_fast: Whether the first failure ends the run.
        raise_on_failed_trial: Whether a failed trial makes this raise at the end.
        on_failure: Asked after each failed attempt, as ``on_failure(trial, error)``; may be ``async
            def``. It may answer a :class:`Retry`; None leaves it to ``max_failures``.
        restore: A checkpoint that every trial begins from.
        resume: Go on with the experiment ``name``: ``True`` if there is one (else it is an error),
            ``"AUTO"`` if there is one (else it is started), ``"errored"`` like True, with its failed
            trials tried again. Trainable and ``config`` are passed again. Trials that ended stay so;
            those that were cut short go on from their last checkpoint. ``num_samples``, ``stop`` and
            ``time_budget_s`` (which counts all that was ever worked) may be raised.
        durability: ``"process"``: a result is shown when the death of this process cannot take it;
            ``"power"``: when the machine's cannot.
        executor: Where trials train; by default a :class:`ProcessExecutor` for this run.
        loggers: Logger classes; by default ``JsonLogger`` and ``CSVLogger``. ``[]``: none.
        callbacks: Instances of :class:`Callback`.
        verbose: 0: silent; 1: a line for each trial that has ended.
        log_to_driver: Whether what trials print is shown.
        trial_name_creator: Makes the label of a trial; directories are named by its id.
        seed: Fixes the grid and every sample; by default drawn, and written into the journal.
        deterministic: Whether the suggestions of a seeded searcher are the same again with the same seed,
            though trials run in parallel: each then knows the trials whole and in order, and only those
            that lie as many back as can run at once (set ``max_concurrent_trials`` for more than one
            machine). A slot may wait for a slow trial.
        sync_to_driver: Accepted for the sake of older code; workers write in place.

    Returns:
        The analysis.

    Raises:
        ConfigError: An argument is wrong; nothing was started.
        SpecMismatch: ``resume`` was given another space, metric, mode or seed.
        ExperimentLocked: Another driver runs this experiment, or has taken it over elsewhere.
        ExperimentCorrupt: The journal that is to be resumed from is damaged.
        StorageError: The journal cannot be written; what was shown is in it, and it can be resumed. Or
            not all could be uploaded; all is in the local directory, and in ``analysis`` of the error.
        TrialError: A trial failed: the first one's own error, with ``failures`` and ``analysis``.
        MetricMissing: A result lacks a metric that was asked for.
    """
    async with start(trainable, **arguments) as experiment:
        return await experiment


def start(trainable: Any, **arguments: Unpack[Arguments]) -> Starting:
    """Start a run and give a live handle on it.

    ::

        async with tune.start(train, config=space) as experiment:  # leaving waits; an exception cancels
            async for result in experiment: ...
        experiment = await tune.start(train, config=space)  # runs on; the handle owns it

    Args:
        trainable: As for :func:`run`.
        **arguments: As for :func:`run`.

    Returns:
        Something to enter, or to await; either gives the :class:`Experiment`.
    """
    return Starting(lambda: _launch(trainable, dict(arguments)))


async def _launch(trainable: Any, arguments: dict[str, Any]) -> Experiment:
    check_trainable(trainable)
    asked: list[Storage] = []

    def hurry() -> None:
        for storage in asked:
            storage.close()

    named = function_name(trainable)
    plan = await run_uninterrupted(
        make_plan, named, arguments, asked.append, undo=lambda _: None, hurry=hurry
    )
    async with AsyncExitStack() as owned:
        executor = plan.options.executor
        if executor is None:
            executor = await owned.enter_async_context(ProcessExecutor())
        executor.check_open()
        serialized = await anyio.to_thread.run_sync(executor.prepare, trainable)
        preflight = Preflight(plan, serialized, executor)
        await anyio.to_thread.run_sync(preflight.check)
        spec = await anyio.to_thread.run_sync(start_record, plan, serialized)
        opened = await run_uninterrupted(
            partial(
                open_experiment,
                plan.directory,
                spec,
                resume=plan.resume,
                durable=plan.options.durability == "power",
                remote=plan.remote,
            ),
            undo=OpenExperiment.close,
            hurry=hurry,
        )
        owned.callback(opened.close)
        runner = Runner(plan, opened, serialized, executor, preflight)
        if opened.history is not None:
            await anyio.to_thread.run_sync(runner.replay, opened.history)
        experiment = Experiment(runner, owned.pop_all())
    try:
        await runner.is_ready.wait()
    except BaseException:
        await experiment.aclose()
        raise
    return experiment


def _signature() -> inspect.Signature:
    """Show the arguments one by one to ``help`` and notebooks, though they are listed once."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [
        inspect.Parameter("trainable", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Any)
    ]
    shown += [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type)
        for field in fields(Options)
    ]
    return inspect.Signature(shown)


run.__signature__ = _signature()  # type: ignore[attr-defined]
start.__signature__ = _signature()  # type: ignore[attr-defined]
