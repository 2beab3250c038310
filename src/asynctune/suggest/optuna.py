"""Search by Optuna: any of its samplers, asked and told one trial at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asynctune._checks import as_float, check_key, check_seed, function_name, safe_repr, safe_str
from asynctune.errors import ConfigError, MetricMissing, TuneError
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.space.space import Space
from asynctune.suggest._optuna_study import (
    Parameter,
    load_optuna,
    parameters_of,
    quiet_sampler,
    quiet_study,
    sampler_seed,
)
from asynctune.suggest._points import Points
from asynctune.suggest._values import by_path
from asynctune.suggest.base import FINISHED, Duplicates, Searcher, Suggestion

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler

_EVALUATED = "evaluated before"


class OptunaSearch(Searcher):
    """Asks a sampler of Optuna, in memory; ``pip install asynctune[optuna]``.

    The names of Optuna's parameters are the paths of the space. A ``choice`` is known to it by the
    positions of its elements, what is quantised by ``k`` of ``k * q``, a normal distribution by the
    probability of what is below. Other values, such as elements of a choice that are samplers in turn,
    are drawn at random.

    Each result is reported to Optuna at its ``training_iteration``, and a trial's last value is what it
    comes to, whoever ended it. A trial that failed, or ended with NaN, fails in Optuna too.

    Args:
        space: What to search, if not the samplers of the config: a dict, by path or nested, of samplers
            or Optuna distributions; or a function of an Optuna trial, which calls its ``suggest_...``
            methods and returns None or a dict of other values (a define-by-run space).
        sampler: An instance of a sampler, used as it is, for one run; by default ``TPESampler``. A
            resume repeats its suggestions if it has a seed of its own.
        seed: The seed of the default sampler; by default that of the run.
        points_to_evaluate: What to try first, as dicts; what they leave out is suggested.
        evaluated_rewards: What came of each of these points, if that is known (for several objectives a
            list each): then they are told to the sampler and not tried.
        metric: The objective; or several, for a sampler such as ``NSGAIISampler``.
        mode: ``"min"`` or ``"max"``; for several objectives a list.
        duplicates: See :class:`Searcher`.

    Raises:
        ConfigError: An argument is wrong, or Optuna is not installed.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | Callable[[Trial], Mapping[str, Any] | None] | None = None,
        *,
        sampler: BaseSampler | None = None,
        seed: int | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        evaluated_rewards: Sequence[Any] | None = None,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        duplicates: Duplicates = "allow",
    ) -> None:
        name = type(self).__name__
        self._optuna = load_optuna(name)
        self.metrics: tuple[str, ...] = ()
        self._modes: tuple[str, ...] = ()
        if isinstance(metric, list | tuple):
            self._modes, self.metrics = _several(name, metric, mode), tuple(metric)
            metric, mode = self.metrics[0], self._modes[0]  # what the base class knows of it
        super().__init__(metric, mode, duplicates=duplicates)  # type: ignore[arg-type]
        if not self.metrics and self.metric is not None and self.mode is not None:
            self.metrics, self._modes = (self.metric,), (self.mode,)
        self._function = space if callable(space) else None
        self._parameters: dict[str, Parameter] = {}
        if space is not None and self._function is None:
            self._parameters = parameters_of(name, space)
        self._sampler = _checked_sampler(name, sampler, seed)
        self._seed = check_seed(name, seed)
        count = max(1, len(self.metrics))
        self._points = Points(name, points_to_evaluate, evaluated_rewards, count)
        self._live: dict[str, _Live] = {}
        self._seen_metric = False
        self._finished = False

    @property
    def repeats(self) -> bool:
        """If its sampler has a seed and is quick."""
        return not self.is_slow and (self._sampler is None or _is_seeded(self._sampler))

    @property
    def is_slow(self) -> bool:
        """Gaussian processes are."""
        return isinstance(self._sampler, self._optuna.samplers.GPSampler)

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        super().bind(space, metric, mode, seed)
        name = type(self).__name__
        if not self.metrics:
            assert self.metric is not None
            assert self.mode is not None
            self.metrics, self._modes = (self.metric,), (self.mode,)
        if self._function is None and not self._parameters:
            self._parameters = parameters_of(name, space.samplers)
        if self._function is None and not self._parameters:
            raise ConfigError(
                f"{name} has nothing to search: the config has no sampler such as "
                "asynctune.uniform(0, 1); put one there, or give a space"
            )
        known = {path: parameter.plain for path, parameter in self._parameters.items()}
        self._points.bind(None if self._function else known)
        seed = seed if self._seed is None else self._seed
        sampler = self._sampler or _tpe(seed, conditional=self._function is not None)
        self._study = quiet_study(sampler, self._modes)

    def suggest(self, trial_id: str) -> Suggestion:
        self._tell_evaluated()
        if self._finished:
            return FINISHED
        point = self._points.take()
        return self._ask(trial_id, self._raw(point)) | point

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self._tell_evaluated()
        values = dict(by_path(values, lambda path, _: path in self._parameters))
        if self._function is None:
            values = {path: item for path, item in values.items() if path in self._parameters}
        self._points.tried(values)
        self._end(trial_id, None)
        try:
            raw = self._raw(values)
        except ValueError:  # an element of a choice that was drawn from in turn is not found again
            return
        if raw.keys() < self._parameters.keys():
            return
        self._ask(trial_id, raw)
        if not raw.keys() >= self._live[trial_id].trial.params.keys():
            self._end(trial_id, None)  # some value of it is not known

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        live, scores = self._live.get(trial_id), self._scores(result)
        if live is None or scores is None:
            return
        live.last = scores
        step = as_float(result.get(TRAINING_ITERATION))
        if len(scores) > 1 or step is None or not 0 <= step < math.inf:
            return
        if int(step) not in live.steps:  # a retry repeats what followed the last checkpoint
            live.steps.add(int(step))
            live.trial.report(scores[0], int(step))

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        live = self._live.get(trial_id)
        if live is None:
            return
        scores = (self._scores(result) if result else None) or live.last
        self._end(trial_id, None if error else scores)
        if result and not error and not self._seen_metric:
            missing = next(m for m in self.metrics if as_float(result.get(m)) is None)
            raise MetricMissing(missing, result, type(self).__name__)

    def _tell_evaluated(self) -> None:
        """Tell what was evaluated before; not in :meth:`bind`, since it may take a while."""
        while self._points.evaluated:
            known = self._points.evaluated.pop(0)
            self._ask(_EVALUATED, self._raw(known.values))
            self._end(_EVALUATED, known.rewards)

    def _raw(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as Optuna knows them."""
        if self._function is not None:
            return dict(values)
        return {path: self._parameters[path].raw(value) for path, value in values.items()}

    def _ask(self, trial_id: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a trial of the study, with these parameters as they are; return its values."""
        self._end(trial_id, None)
        if fixed:
            self._study.enqueue_trial(dict(fixed))
        if self._function is None:
            distributions = {path: p.distribution for path, p in self._parameters.items()}
            trial = self._study.ask(distributions)
            self._live[trial_id] = _Live(trial)
            drawn = trial.params
            return {path: p.value(drawn[path]) for path, p in self._parameters.items()}
        trial = self._study.ask()
        self._live[trial_id] = _Live(trial)
        try:
            others = self._function(trial)
            return trial.params | dict(others or {})
        except Exception as exc:
            self._end(trial_id, None)
            raise TuneError(
                f"space of {type(self).__name__}: the function {function_name(self._function)} raised "
                f"{safe_str(exc)}; it is to return None or a dict"
            ) from exc

    def _end(self, trial_id: str, scores: tuple[float, ...] | None) -> None:
        """End a trial of the study, if it has not ended: with its values, or failed."""
        live = self._live.pop(trial_id, None)
        if live is None:
            return
        try:
            if scores is None or not all(map(_is_usable, scores, self._modes)):
                self._study.tell(live.trial, state=self._optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(live.trial, scores)
        except RuntimeError as exc:
            # How a sampler that has tried everything ends Study.optimize; the trial is told by then.
            if "Study.stop" not in str(exc):
                raise
            self._finished = True

    def _scores(self, result: Row) -> tuple[float, ...] | None:
        values = [as_float(result.get(name)) for name in self.metrics]
        scores = tuple(value for value in values if value is not None)
        if len(scores) < len(values):
            return None
        self._seen_metric = True
        return scores


@dataclass(slots=True)
class _Live:
    """A trial of the study that has not ended.

    Args:
        trial: The trial.
        last: Its last values.
        steps: Where something was reported.
    """

    trial: Trial
    last: tuple[float, ...] | None = None
    steps: set[int] = field(default_factory=set)


def _tpe(seed: int, *, conditional: bool) -> BaseSampler:
    from optuna.samplers import TPESampler

    if not conditional:
        return TPESampler(seed=sampler_seed(seed))
    # Parameters that only some trials have are modelled together by groups.
    return quiet_sampler(lambda: TPESampler(seed=sampler_seed(seed), multivariate=True, group=True))


def _checked_sampler(owner: str, sampler: Any, seed: Any) -> BaseSampler | None:
    from optuna.samplers import BaseSampler

    if sampler is None:
        return None
    if not isinstance(sampler, BaseSampler):
        raise ConfigError(
            f"sampler of {owner} is {safe_repr(sampler)}; an instance of an Optuna sampler is wanted, such "
            "as optuna.samplers.TPESampler(seed=0)"
        )
    if seed is not None:
        raise ConfigError(
            f"seed of {owner} is {safe_repr(seed)}, but the sampler is given and has "
            f"its own; give the seed "
            f"to that: {type(sampler).__name__}(seed=...)"
        )
    return sampler


def _is_seeded(sampler: BaseSampler) -> bool:
    """Whether each generator in a sampler had a seed; one that shows none is not trusted."""
    from optuna.samplers import BaseSampler

    parts = list(vars(sampler).values())
    states = [part for part in parts if type(part).__name__ == "LazyRandomState"]
    inner = [part for part in parts if isinstance(part, BaseSampler)]
    return (
        bool(states or inner)
        and all(getattr(state, "_rng", None) is not None for state in states)
        and all(map(_is_seeded, inner))
    )


def _several(owner: str, metrics: Sequence[Any], modes: Any) -> tuple[str, ...]:
    """Return the modes of several objectives."""
    for metric in metrics:
        check_key(owner, "metric", metric)
    if not metrics or len(set(metrics)) < len(metrics):
        raise ConfigError(
            f"metric of {owner} is {safe_repr(metrics)}; a list of different names is wanted"
        )
    fits = isinstance(modes, list | tuple) and len(modes) == len(metrics)
    if not fits or any(mode not in ("min", "max") for mode in modes):
        raise ConfigError(
            f"mode of {owner} is {safe_repr(modes)}; for {len(metrics)} metrics a list of as many of 'min' "
            "and 'max' is wanted"
        )
    return tuple(modes)


def _is_usable(score: float, mode: str) -> bool:
    """Whether Optuna may know a value: an infinitely good one is no better than NaN."""
    return not math.isnan(score) and score != (math.inf if mode == "max" else -math.inf)
