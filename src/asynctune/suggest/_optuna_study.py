"""What searchers need of Optuna: the one place where its parameters, studies and samplers are made."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError
from asynctune.space.domains import Domain
from asynctune.suggest._axes import Axis, Kind, axes_of
from asynctune.suggest._values import by_path

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

_STUDY = "asynctune"
_SEEDS = 2**32  # what numpy takes


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a study.

    Args:
        distribution: What Optuna knows of it.
        axis: What it stands for; None: its own values.
    """

    distribution: BaseDistribution
    axis: Axis | None

    def value(self, raw: Any) -> Any:
        """Return what goes into a config."""
        return raw if self.axis is None else self.axis.value(raw)

    def raw(self, value: Any) -> Any:
        """Return what Optuna calls a value.

        Raises:
            ValueError: It is no value of this parameter.
        """
        return self.plain(value) if self.axis is None else self.axis.raw(value)

    def plain(self, value: Any) -> Any:
        """Return a value as it goes into a config.

        Raises:
            ValueError: It is no value of this parameter.
        """
        if self.axis is not None:
            return self.axis.plain(value)
        from optuna.trial import create_trial

        try:
            create_trial(params={"it": value}, distributions={"it": self.distribution}, value=0.0)
        except (ValueError, TypeError) as exc:
            raise ValueError(f"a value of {self.distribution} is wanted") from exc
        return value


def load_optuna(owner: str) -> Any:
    """Return the module.

    Args:
        owner: Who needs it.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError as exc:
        raise ConfigError(
            f"{owner} needs Optuna, which cannot be imported ({exc}); pip install asynctune[optuna]"
        ) from exc
    return optuna


def parameters_of(owner: str, space: Any) -> dict[str, Parameter]:
    """Return the parameters of a space of samplers or Optuna distributions, by path.

    Args:
        owner: The searcher, for errors.
        space: The dict, nested or by path.

    Raises:
        ConfigError: It is no such dict.
    """
    from optuna.distributions import BaseDistribution

    if not isinstance(space, Mapping):
        raise ConfigError(
            f"space of {owner} is {safe_repr(space)}; a dict of samplers, or a function of an Optuna trial "
            "is wanted"
        )
    found = {}
    for path, item in by_path(space, lambda _, __: False):
        if isinstance(item, BaseDistribution):
            found[path] = Parameter(item, None)
        elif isinstance(item, Domain):
            axis = axes_of(owner, {path: item})[path]
            found[path] = Parameter(_distribution(axis), axis)
        else:
            raise ConfigError(
                f"space of {owner} has {safe_repr(item)} at {path!r}; a sampler or an Optuna distribution "
                "is wanted"
            )
    return found


def quiet_study(sampler: BaseSampler, modes: Sequence[str]) -> Study:
    """Make a study in memory, without the line that Optuna logs about it."""
    import optuna
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection

    directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
    storage = InMemoryStorage()
    logger = logging.getLogger(InMemoryStorage.__module__)
    logger.addFilter(_says_nothing_of_it)
    try:
        storage.create_new_study([directions[mode] for mode in modes], _STUDY)
    finally:
        logger.removeFilter(_says_nothing_of_it)
    return optuna.Study(_STUDY, storage, sampler)


def quiet_sampler(make: Callable[[], BaseSampler]) -> BaseSampler:
    """Make a sampler without the warning that some of its arguments are experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make()


def sampler_seed(seed: int) -> int:
    """Return a seed as Optuna's samplers take it: the very same, if it can be."""
    return seed % _SEEDS


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.kind is Kind.POSITION:  # values that are no plain scalars would draw a warning
        return CategoricalDistribution(range(int(axis.high) + 1))
    if axis.kind is Kind.INT:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _says_nothing_of_it(record: logging.LogRecord) -> bool:
    return not record.getMessage().endswith(f": {_STUDY}")
