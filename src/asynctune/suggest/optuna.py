"""Search with Optuna's samplers, one trial at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asynctune._checks import (
    argument_error,
    as_float,
    check_key,
    check_seed,
    function_name,
    safe_str,
)
from asynctune.errors import MetricMissing, TuneError
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.space.space import Space
from asynctune.suggest._optuna_study import (
    Parameter,
    load_optuna,
    parameters_of,
    parameters_to_search,
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

_EVALUATED = "evaluated before"  # stands for the trial id of a point with known rewards


class OptunaSearch(Searcher):
    """Suggests with a sampler of Optuna, in memory; ``pip install asynctune[optuna]``.

    The names of Optuna's parameters are the paths of the space. Optuna sees a ``choice`` as the positions
    of its elements, a quantised sampler as ``k`` of ``k * q``, and a normal distribution as the probability
    below the value. Other values, such as samplers inside the elements of a choice, are drawn at random.

    Optuna gets each result at its ``training_iteration``, and the last value of a trial as the trial's
    value, however the trial ended. A trial that failed, or ended with NaN, fails in Optuna too.

    Args:
        space: The space to search, by default the samplers of the config: a dict, by path or nested, of
            samplers or Optuna distributions; or a function of an Optuna trial, which calls its
            ``suggest_...`` methods and returns None or a dict of other values (a define-by-run space).
        sampler: An instance of an Optuna sampler, used unchanged, for one run; by default ``TPESampler``. A
            resume repeats the suggestions of a sampler that has a seed.
        seed: The seed of the default sampler; by default that of the run.
        points_to_evaluate: The configurations to try first, as dicts; values that they leave out are
            suggested.
        evaluated_rewards: The rewards of these points, if known (for several objectives, a list each). The
            sampler gets points with rewards as finished trials, and the run does not try them.
        metric: The objective; or several, for a sampler such as ``NSGAIISampler``.
        mode: ``"min"`` or ``"max"``; for several objectives, a list of these.
        duplicates: The policy for repeated suggestions, see :class:`Searcher`.

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
            self._modes, self.metrics = _check_objectives(name, metric, mode), tuple(metric)
            metric, mode = self.metrics[0], self._modes[0]  # the base class takes a single one
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
        self._open: dict[str, _OpenTrial] = {}
        self._seen_metric = False
        self._finished = False

    @property
    def repeats(self) -> bool:
        """Whether the sampler has a seed and is quick."""
        return not self.is_slow and (self._sampler is None or _is_seeded(self._sampler))

    @property
    def is_slow(self) -> bool:
        """Whether the sampler fits a Gaussian process."""
        return isinstance(self._sampler, self._optuna.samplers.GPSampler)

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        super().bind(space, metric, mode, seed)
        name = type(self).__name__
        if not self.metrics:
            assert self.metric is not None
            assert self.mode is not None
            self.metrics, self._modes = (self.metric,), (self.mode,)
        if self._function is None:
            self._parameters = parameters_to_search(name, self._parameters, space.samplers)
        plain = {path: parameter.plain for path, parameter in self._parameters.items()}
        self._points.bind(None if self._function else plain)
        seed = seed if self._seed is None else self._seed
        sampler = self._sampler or _tpe(seed, conditional=self._function is not None)
        self._study = quiet_study(sampler, self._modes)

    def suggest(self, trial_id: str) -> Suggestion:
        self._add_evaluated()
        if self._finished:
            return FINISHED
        point = self._points.take()
        return self._ask(trial_id, self._raw(point)) | point

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        self._add_evaluated()
        values = dict(by_path(values, lambda path, _: path in self._parameters))
        if self._function is None:
            values = {path: item for path, item in values.items() if path in self._parameters}
        self._points.skip_tried(values)
        self._end(trial_id, None)
        try:
            raw = self._raw(values)
        except ValueError:  # an element of a choice that holds samplers changes when they draw
            return
        if raw.keys() < self._parameters.keys():
            return
        self._ask(trial_id, raw)
        if not raw.keys() >= self._open[trial_id].trial.params.keys():
            # Optuna has drawn a parameter whose value in the trial is not known.
            self._end(trial_id, None)

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        open_trial, scores = self._open.get(trial_id), self._scores(result)
        if open_trial is None or scores is None:
            return
        open_trial.last = scores
        step = as_float(result.get(TRAINING_ITERATION))
        if len(scores) > 1 or step is None or not 0 <= step < math.inf:
            return
        if int(step) not in open_trial.steps:  # a retry repeats the rows after its checkpoint
            open_trial.steps.add(int(step))
            open_trial.trial.report(scores[0], int(step))

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        open_trial = self._open.get(trial_id)
        if open_trial is None:
            return
        scores = (self._scores(result) if result else None) or open_trial.last
        self._end(trial_id, None if error else scores)
        if result and not error and not self._seen_metric:
            missing = next(m for m in self.metrics if as_float(result.get(m)) is None)
            raise MetricMissing(missing, result, type(self).__name__)

    def _add_evaluated(self) -> None:
        """Add the points with known rewards to the study."""
        # Not in bind(), which the start of a run waits for: many points take long.
        while self._points.evaluated:
            point = self._points.evaluated.pop(0)
            self._ask(_EVALUATED, self._raw(point.values))
            self._end(_EVALUATED, point.rewards)

    def _raw(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Convert values by path to Optuna's."""
        if self._function is not None:
            return dict(values)
        return {path: self._parameters[path].raw(value) for path, value in values.items()}

    def _ask(self, trial_id: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a trial of the study, and return its values.

        Args:
            trial_id: The id of our trial.
            fixed: The parameters, in Optuna's values, that are given.

        Raises:
            TuneError: The user's function of a trial raised.
        """
        self._end(trial_id, None)
        if fixed:
            self._study.enqueue_trial(dict(fixed))
        if self._function is None:
            distributions = {path: p.distribution for path, p in self._parameters.items()}
            trial = self._study.ask(distributions)
            self._open[trial_id] = _OpenTrial(trial)
            drawn = trial.params
            return {path: p.value(drawn[path]) for path, p in self._parameters.items()}
        trial = self._study.ask()
        self._open[trial_id] = _OpenTrial(trial)
        try:
            others = self._function(trial)
            return trial.params | dict(others or {})
        except Exception as exc:
            self._end(trial_id, None)
            raise TuneError(
                f"space of {type(self).__name__}: the function {function_name(self._function)} raised "
                f"{safe_str(exc)}; the function must return None or a dict"
            ) from exc

    def _end(self, trial_id: str, scores: tuple[float, ...] | None) -> None:
        """End a trial of the study, if one is open: with values, or as failed for None."""
        open_trial = self._open.pop(trial_id, None)
        if open_trial is None:
            return
        try:
            if scores is None or not all(map(_is_usable, scores, self._modes)):
                self._study.tell(open_trial.trial, state=self._optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(open_trial.trial, scores)
        except RuntimeError as exc:
            # A sampler that has tried everything calls Study.stop, which raises outside Study.optimize.
            # The study has recorded the end of the trial by then.
            if "Study.stop" not in str(exc):
                raise
            self._finished = True

    def _scores(self, result: Row) -> tuple[float, ...] | None:
        """Return the values of the objectives in a row, None if one is missing."""
        values = [as_float(result.get(name)) for name in self.metrics]
        scores = tuple(value for value in values if value is not None)
        if len(scores) < len(values):
            return None
        self._seen_metric = True
        return scores


@dataclass(slots=True)
class _OpenTrial:
    """A trial of the study that has not ended.

    Args:
        trial: Optuna's trial.
        last: The last values of the objectives, None before the first.
        steps: The iterations that Optuna has got a value for.
    """

    trial: Trial
    last: tuple[float, ...] | None = None
    steps: set[int] = field(default_factory=set)


def _tpe(seed: int, *, conditional: bool) -> BaseSampler:
    from optuna.samplers import TPESampler

    if not conditional:
        return TPESampler(seed=sampler_seed(seed))
    # group=True models parameters that only some trials have, group by group.
    return quiet_sampler(lambda: TPESampler(seed=sampler_seed(seed), multivariate=True, group=True))


def _checked_sampler(owner: str, sampler: Any, seed: Any) -> BaseSampler | None:
    from optuna.samplers import BaseSampler

    if sampler is None:
        return None
    if not isinstance(sampler, BaseSampler):
        what = "an instance of an Optuna sampler such as optuna.samplers.TPESampler(seed=0)"
        raise argument_error(owner, "sampler", what, sampler)
    if seed is not None:
        hint = f"give the seed to the sampler: {type(sampler).__name__}(seed=...)"
        raise argument_error(owner, "seed", "None where sampler is given", seed, hint)
    return sampler


def _is_seeded(sampler: BaseSampler) -> bool:
    """Return whether every random generator of a sampler has a seed.

    False for a sampler in which no generator is found, such as one of the user.
    """
    from optuna.samplers import BaseSampler

    parts = list(vars(sampler).values())
    states = [part for part in parts if type(part).__name__ == "LazyRandomState"]
    inner = [part for part in parts if isinstance(part, BaseSampler)]
    return (
        bool(states or inner)
        and all(getattr(state, "_rng", None) is not None for state in states)
        and all(map(_is_seeded, inner))
    )


def _check_objectives(owner: str, metrics: Sequence[Any], modes: Any) -> tuple[str, ...]:
    """Check several objectives, and return their modes."""
    for metric in metrics:
        check_key(owner, "metric", metric)
    if not metrics or len(set(metrics)) < len(metrics):
        raise argument_error(owner, "metric", "a list of different keys of the results", metrics)
    fits = isinstance(modes, list | tuple) and len(modes) == len(metrics)
    if not fits or any(mode not in ("min", "max") for mode in modes):
        what = f"a list of 'min' and 'max', one for each of the {len(metrics)} metrics"
        raise argument_error(owner, "mode", what, modes)
    return tuple(modes)


def _is_usable(score: float, mode: str) -> bool:
    """Return whether Optuna may learn from a value, which is as wrong if infinitely good as if NaN."""
    return not math.isnan(score) and score != (math.inf if mode == "max" else -math.inf)
