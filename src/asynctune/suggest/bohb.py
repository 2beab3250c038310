"""BOHB: the Bayesian half of S. Falkner, A. Klein, F. Hutter, "BOHB" (ICML 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from asynctune._checks import as_float, check_fraction, check_int, check_key, check_seed
from asynctune.errors import MetricMissing
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.space.space import Space
from asynctune.suggest._optuna_study import (
    load_optuna,
    parameters_of,
    parameters_to_search,
    quiet_sampler,
    quiet_study,
    sampler_seed,
)
from asynctune.suggest._points import Points
from asynctune.suggest._values import by_path, generator
from asynctune.suggest.base import Duplicates, Searcher, Suggestion

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution


class BOHBSearch(Searcher):
    """Models the objective at each budget, and suggests by the model of the largest budget that has one.

    A budget is a value of ``time_attr``; each trial's result at a budget is an observation. The models are
    those of Optuna's ``TPESampler`` in its multivariate form; ``pip install asynctune[optuna]``. Use this
    searcher with ``HyperBandForBOHB``, or any scheduler that stops trials early.

    Args:
        space: The space to search, by default the samplers of the config: a dict, by path or nested, of
            samplers or Optuna distributions.
        time_attr: The key of the results that measures the progress of a trial.
        min_points: The number of observations that a budget needs for a model; by default three more than
            the number of parameters, as in the paper.
        random_fraction: The fraction of suggestions that are drawn at random although a model exists.
        seed: The seed of everything random; by default that of the run.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        points_to_evaluate: The configurations to try first, as dicts; values that they leave out are drawn.
        duplicates: The policy for repeated suggestions, see :class:`Searcher`.

    Raises:
        ConfigError: An argument is wrong, or Optuna is not installed.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | None = None,
        *,
        time_attr: str = TRAINING_ITERATION,
        min_points: int | None = None,
        random_fraction: float = 1 / 3,
        seed: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        duplicates: Duplicates = "allow",
    ) -> None:
        super().__init__(metric, mode, duplicates=duplicates)
        name = type(self).__name__
        load_optuna(name)
        self._parameters = {} if space is None else parameters_of(name, space)
        self._time_attr = check_key(name, "time_attr", time_attr)
        self._min_points = (
            None if min_points is None else check_int(name, "min_points", min_points, 1)
        )
        self._random_fraction = check_fraction(name, "random_fraction", random_fraction)
        self._seed = check_seed(name, seed)
        self._points = Points(name, points_to_evaluate)
        self._numbers: dict[str, int] = {}  # trial -> the number of its newest suggestion
        self._suggested: list[dict[str, Any]] = []
        # Budget -> number of the suggestion -> value.
        self._observed: dict[float, dict[int, float]] = {}
        self._models: dict[float, _Model] = {}

    @property
    def repeats(self) -> bool:
        """Always True."""
        return True

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        super().bind(space, metric, mode, seed)
        name = type(self).__name__
        self._parameters = parameters_to_search(name, self._parameters, space.samplers)
        self._points.bind({path: p.plain for path, p in self._parameters.items()})
        self._distributions = {path: p.distribution for path, p in self._parameters.items()}
        self._seed = seed if self._seed is None else self._seed
        if self._min_points is None:
            self._min_points = len(self._parameters) + 3
        self._rng = generator(self._seed, name)
        self._random = self._model(None)

    def suggest(self, trial_id: str) -> Suggestion:
        point = self._points.take()
        budget = self._largest_budget()
        number = len(self._suggested)
        if self._rng.random() < self._random_fraction or budget is None or point:
            fixed = {path: self._parameters[path].raw(value) for path, value in point.items()}
            raws = self._random.ask(number, fixed)
            self._random.abandon(number)
        else:
            model = self._models.get(budget)
            if model is None:
                model = self._models[budget] = self._model(budget)
            model.learn(self._observed[budget], self._suggested)
            raws = model.ask(number)
        self._assign(trial_id, raws)
        return {path: p.value(raws[path]) for path, p in self._parameters.items()} | point

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        values = dict(by_path(values, lambda path, _: path in self._parameters))
        self._points.skip_tried(values)
        self._abandon(self._numbers.pop(trial_id, -1))
        try:
            raws = {path: p.raw(values[path]) for path, p in self._parameters.items()}
        except (KeyError, ValueError):  # a model learns from whole configurations only
            return
        self._assign(trial_id, raws)

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        assert self.metric is not None
        number = self._numbers.get(trial_id)
        score, budget = map(as_float, (result.get(self.metric), result.get(self._time_attr)))
        if number is None or score is None or budget is None or not math.isfinite(budget):
            return
        worst = math.inf if self.mode == "min" else -math.inf
        value = score if math.isfinite(score) else worst
        # The first observation stays, since a retry repeats the rows after its checkpoint.
        self._observed.setdefault(budget, {}).setdefault(number, value)

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        number = self._numbers.get(trial_id)
        if number is None:
            return
        if result:
            self.on_trial_result(trial_id, result)
        self._abandon(number)
        if result and not error and not self._observed:
            assert self.metric is not None
            found = as_float(result.get(self.metric)) is not None
            missing = self._time_attr if found else self.metric
            raise MetricMissing(missing, result, type(self).__name__)

    def _assign(self, trial_id: str, raws: dict[str, Any]) -> None:
        """Give a trial a new suggestion, and abandon its old one."""
        self._abandon(self._numbers.get(trial_id, -1))
        self._numbers[trial_id] = len(self._suggested)
        self._suggested.append(raws)

    def _abandon(self, number: int) -> None:
        """Remove a suggestion from the models of the budgets that its trial did not reach."""
        for budget, model in self._models.items():
            if number not in self._observed.get(budget, ()):
                model.abandon(number)

    def _largest_budget(self) -> float | None:
        assert self._min_points is not None
        enough = (b for b, seen in self._observed.items() if len(seen) >= self._min_points)
        return max(enough, default=None)

    def _model(self, budget: float | None) -> _Model:
        """Create the model of a budget; for None, one that draws at random."""
        from optuna.samplers import RandomSampler, TPESampler

        assert self.mode is not None
        assert self._seed is not None
        if budget is None:
            study = quiet_study(RandomSampler(seed=sampler_seed(self._seed)), [self.mode])
            return _Model(study, self._distributions)
        seed = generator(self._seed, budget).getrandbits(32)
        sampler = quiet_sampler(
            lambda: TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)
        )
        return _Model(quiet_study(sampler, [self.mode]), self._distributions)


@dataclass(slots=True)
class _Model:
    """The model of one budget.

    Args:
        study: The study that holds the observations.
        distributions: The distributions of the parameters by path.
        num_learnt: The number of the budget's observations in the study.
        open: The model's suggestions without an observation, by number; the sampler keeps away from them.
    """

    study: Study
    distributions: Mapping[str, BaseDistribution]
    num_learnt: int = 0
    open: dict[int, Trial] = field(default_factory=dict)

    def learn(self, observed: Mapping[int, float], suggested: Sequence[Mapping[str, Any]]) -> None:
        """Add the new observations to the study.

        Args:
            observed: All values of the budget by the number of their suggestion, oldest first.
            suggested: The parameters of all suggestions, by number.
        """
        from optuna.trial import create_trial

        for number, value in islice(observed.items(), self.num_learnt, None):
            trial = self.open.pop(number, None)
            if trial is not None:
                self.study.tell(trial, value)
                continue
            self.study.add_trial(
                create_trial(
                    params=dict(suggested[number]),
                    distributions=dict(self.distributions),
                    value=value,
                )
            )
        self.num_learnt = len(observed)

    def ask(self, number: int, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the parameters of a new suggestion.

        Args:
            number: The number of the suggestion.
            fixed: The parameters that are given.
        """
        if fixed:
            self.study.enqueue_trial(dict(fixed))
        trial = self.study.ask(dict(self.distributions))
        self.open[number] = trial
        return trial.params

    def abandon(self, number: int) -> None:
        """Mark a suggestion as failed, if it is still open: no observation will follow."""
        from optuna.trial import TrialState

        trial = self.open.pop(number, None)
        if trial is not None:
            self.study.tell(trial, state=TrialState.FAIL)
