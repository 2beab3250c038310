"""Parameters, studies and samplers of Optuna, as the searchers of this package need them."""

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
_NUM_SEEDS = 2**32  # numpy takes seeds below this


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a study.

    Args:
        distribution: The distribution that Optuna samples from.
        axis: The axis that maps Optuna's numbers to values of the config; None if Optuna's values go into
            the config as they are.
    """

    distribution: BaseDistribution
    axis: Axis | None

    def value(self, raw: Any) -> Any:
        """Return the value for the config, given Optuna's."""
        return raw if self.axis is None else self.axis.value(raw)

    def raw(self, value: Any) -> Any:
        """Return Optuna's value, given that of a config.

        Raises:
            ValueError: ``value`` is not a value of this parameter; the text says which are.
        """
        return self.plain(value) if self.axis is None else self.axis.raw(value)

    def plain(self, value: Any) -> Any:
        """Convert a value to the plain one that goes into a config.

        Raises:
            ValueError: ``value`` is not a value of this parameter; the text says which are, as in
                ``"must be a number"``.
        """
        if self.axis is not None:
            return self.axis.plain(value)
        from optuna.trial import create_trial

        try:  # Optuna checks the values of a trial that is created whole
            create_trial(params={"x": value}, distributions={"x": self.distribution}, value=0.0)
        except (ValueError, TypeError) as exc:
            raise ValueError(f"must be a value of {self.distribution}") from exc
        return value


def load_optuna(owner: str) -> Any:
    """Return the module ``optuna``.

    Args:
        owner: The name of the searcher, for the error.

    Raises:
        ConfigError: Optuna cannot be imported.
    """
    try:
        import optuna
    except ImportError as exc:
        raise ConfigError(
            f"{owner} needs Optuna, which cannot be imported ({exc}); run pip install asynctune[optuna]"
        ) from exc
    return optuna


def parameters_to_search(
    owner: str, own: dict[str, Parameter], samplers: Mapping[str, Domain]
) -> dict[str, Parameter]:
    """Return the parameters of a searcher: its own, or else those of the samplers in the config.

    Args:
        owner: The name of the searcher, for errors.
        own: The parameters of its argument ``space``, empty without one.
        samplers: The samplers of the config, by path.

    Raises:
        ConfigError: Neither holds a parameter.
    """
    parameters = own or parameters_of(owner, samplers)
    if not parameters:
        raise ConfigError(
            f"{owner} has nothing to search: the config has no sampler such as asynctune.uniform(0, 1); "
            "add one, or pass space"
        )
    return parameters


def parameters_of(owner: str, space: Any) -> dict[str, Parameter]:
    """Return the parameters of a space of samplers or Optuna distributions, by path.

    Args:
        owner: The name of the searcher, for errors.
        space: The dict, nested or by path.

    Raises:
        ConfigError: ``space`` is not such a dict.
    """
    from optuna.distributions import BaseDistribution

    if not isinstance(space, Mapping):
        raise ConfigError(
            f"space of {owner} must be a dict of samplers or Optuna distributions (of OptunaSearch, also a "
            f"function of an Optuna trial), got {safe_repr(space)}"
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
                f"space of {owner} must hold samplers or Optuna distributions, got {safe_repr(item)} at "
                f"{path!r}"
            )
    return found


def quiet_study(sampler: BaseSampler, modes: Sequence[str]) -> Study:
    """Create a study in memory, without the line that Optuna logs about a new study."""
    import optuna
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection

    directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
    storage = InMemoryStorage()
    logger = logging.getLogger(InMemoryStorage.__module__)
    logger.addFilter(_is_not_about_study)
    try:
        storage.create_new_study([directions[mode] for mode in modes], _STUDY)
    finally:
        logger.removeFilter(_is_not_about_study)
    return optuna.Study(_STUDY, storage, sampler)


def quiet_sampler(make: Callable[[], BaseSampler]) -> BaseSampler:
    """Create a sampler, without Optuna's warning that some of its arguments are experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make()


def sampler_seed(seed: int) -> int:
    """Return a seed in the range that Optuna's samplers take; one that is in range stays the same."""
    return seed % _NUM_SEEDS


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if (
        axis.kind is Kind.POSITION
    ):  # positions, since Optuna warns of categories that are not scalars
        return CategoricalDistribution(range(int(axis.high) + 1))
    if axis.kind is Kind.INT:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _is_not_about_study(record: logging.LogRecord) -> bool:
    return not record.getMessage().endswith(f": {_STUDY}")
