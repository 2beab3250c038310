"""The plan of a run: the arguments, and what the run resolves from several of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from asynctune._checks import naming_argument
from asynctune.experiment.reader import seed_of
from asynctune.experiment.remote.journal import RemoteJournal
from asynctune.experiment.status import Resume
from asynctune.runner.plan.locations import new_name, resolve_locations
from asynctune.runner.plan.options import Options
from asynctune.schedulers import TrialScheduler
from asynctune.space.space import Space
from asynctune.storage import Storage
from asynctune.suggest import Searcher


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it starts.

    Args:
        options: The arguments, checked and converted.
        space: The space of ``config``.
        scheduler: The scheduler, bound to the objective.
        searcher: The searcher, bound to the space and the objective.
        seed: The seed, drawn if none was passed.
        name: The name of the experiment.
        directory: The local directory of the experiment.
        remote: The storage that keeps a copy of the experiment, None if there is none.
    """

    options: Options
    space: Space
    scheduler: TrialScheduler
    searcher: Searcher
    seed: int
    name: str
    directory: str
    remote: Storage | None


def make_plan(
    trainable_name: str,
    arguments: Mapping[str, Any],
    opened: Callable[[Storage], object] | None = None,
) -> Plan:
    """Check the arguments of a run and resolve them. Blocks while a storage is asked for the seed.

    Args:
        trainable_name: The name of the trainable.
        arguments: The keyword arguments of ``run``.
        opened: Called with the storage before the first request to it, so that the caller can close the
            storage meanwhile.

    Returns:
        The plan. Scheduler and searcher belong to this run from now on.

    Raises:
        ConfigError: An argument is wrong; the message names the argument and says what would be right.
        TypeError: An argument is unknown.
    """
    known = [field.name for field in fields(Options)]
    for name in arguments:
        if name not in known:
            raise TypeError(f"run() has no argument {name!r}; it has {', '.join(known)}")
    options = Options(**arguments)
    with naming_argument("config"):
        space = Space({} if options.config is None else options.config)
    name = options.name if options.name is not None else new_name(trainable_name)
    parent, remote = resolve_locations(options, name)
    directory = os.path.join(parent, name)
    if remote is not None and opened is not None:
        opened(remote)
    seed = _seed(options, directory, remote)
    # Last of all: both belong to this run from here on.
    with naming_argument("scheduler"):
        scheduler = options.scheduler.bind(options.metric, options.mode)
    scheduler.begin(seed)
    with naming_argument("search_alg"):
        options.search_alg.bind(space, options.metric, options.mode, seed)
    return Plan(
        options=options,
        space=space,
        scheduler=scheduler,
        searcher=options.search_alg,
        seed=seed,
        name=name,
        directory=directory,
        remote=remote,
    )


def _seed(options: Options, directory: str, remote: Storage | None) -> int:
    """Return the seed of the run: the one passed, that of a resumed experiment, or a new one."""
    seed = options.seed
    if seed is None and options.resume is not Resume.NEW:
        seed = seed_of(directory)
        if seed is None and remote is not None:
            seed = RemoteJournal(remote).seed()
    return secrets.randbits(48) if seed is None else seed
