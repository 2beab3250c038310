"""``run`` and ``start``: from arguments to an experiment that is going on."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import fields
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_args, get_type_hints

import anyio.to_thread

from asynctune._checks import function_name
from asynctune._threads import run_uninterrupted
from asynctune.executors.process import ProcessExecutor
from asynctune.executors.serialization import check_trainable
from asynctune.experiment.analysis import ExperimentAnalysis
from asynctune.experiment.opening import OpenExperiment, open_experiment
from asynctune.runner.handle import Experiment, Starting
from asynctune.runner.plan.options import Options
from asynctune.runner.plan.plan import make_plan
from asynctune.runner.plan.preflight import Preflight
from asynctune.runner.plan.run_started import start_record
from asynctune.runner.runner import Runner
from asynctune.storage import Storage

P = ParamSpec("P")
T = TypeVar("T")


def _takes(
    options: Callable[P, Options],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Return a decorator that gives a function the arguments of :class:`Options`, beside the trainable.

    Type checkers read the parameters from the fields of the class. ``help`` and notebooks read them from
    the signature and the docstring, which the decorator completes.
    """

    def decorate(function: Callable[..., T]) -> Callable[Concatenate[Any, P], T]:
        hints = get_type_hints(options)
        parameters = [inspect.Parameter("trainable", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        described = []
        for field in fields(Options):
            argument = vars(Options)[field.name]
            given, _ = get_args(hints[field.name])
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=argument.default,
                    annotation=given,
                )
            )
            text = f"{field.name}: {argument.doc}"
            described.append(
                textwrap.fill(text, 100, initial_indent=" " * 4, subsequent_indent=" " * 8)
            )
        head, returns, tail = inspect.cleandoc(function.__doc__ or "").partition("\n\nReturns:")
        function.__doc__ = "\n".join((head, *described)) + returns + tail
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[Any, P], T]", function)

    return decorate


@_takes(Options)
async def run(trainable: Any, **arguments: Any) -> ExperimentAnalysis:
    """Tune: run trials of a trainable with configurations drawn from a space, and await their end.

    Cancelling the task that awaits this function stops every trial, lets it clean up for ``grace_s``, kills
    what is left, writes the final state, and raises ``CancelledError``. A second cancellation ends the
    grace. When this function returns or raises, nothing that it started is alive.

    Args:
        trainable: A :class:`Trainable` subclass, or a function of ``(config)`` or ``(config,
            reporter)``: ``def``, ``async def``, a generator that yields dicts, a partial, a bound
            method.

    Returns:
        The analysis.

    Raises:
        ConfigError: An argument is wrong; nothing was started.
        SpecMismatch: The resumed experiment has another space, metric, mode or seed.
        ExperimentLocked: Another driver runs this experiment, or has taken the experiment over elsewhere.
        ExperimentCorrupt: The journal of the resumed experiment is damaged.
        StorageError: The journal cannot be written; all results that were shown are in the journal, and the
            experiment can be resumed. Or some uploads failed; the local directory is complete, and so is
            ``analysis`` of the error.
        TrialError: A trial failed: the error of the first one, with ``failures`` and ``analysis``.
        MetricMissing: A result lacks a metric that an argument names.
    """
    async with start(trainable, **arguments) as experiment:
        return await experiment


@_takes(Options)
def start(trainable: Any, **arguments: Any) -> Starting:
    """Start a run and return a live handle on the run.

    ::

        async with tune.start(train, config=space) as experiment:  # leaving waits; an exception cancels
            async for result in experiment: ...
        experiment = await tune.start(train, config=space)  # runs on; the handle owns the run

    Args:
        trainable: As for :func:`run`.

    Returns:
        An object to enter or to await; either gives the :class:`Experiment`.
    """
    return Starting(lambda: _launch(trainable, arguments))


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
                resume=plan.options.resume,
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
