"""Population based training: poor trials take over the state of good ones, with new hyperparameters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asynctune._checks import (
    argument_error,
    check_bool,
    check_callable,
    check_fraction,
    check_key,
    check_number,
    safe_repr,
    safe_str,
)
from asynctune.errors import TuneError
from asynctune.experiment.trial import Trial
from asynctune.result import Row
from asynctune.schedulers._explore import (
    check_mutations,
    explore,
    pick_one,
)
from asynctune.schedulers.base import (
    Decision,
    Exploit,
    Free,
    TrialScheduler,
    Verdict,
    score_of,
    time_of,
)

_MAX_TIMES = 32
_MAX_REPEATS = 3


@dataclass(slots=True, eq=False)
class Member:
    """A trial of the population that has not ended.

    Args:
        trial: The trial.
        score: The score at the last perturbation, higher being better; None before the first.
        times: The times of the last perturbations, ascending, in units of ``time_attr``.
        must_yield: Whether the trial took over a state and has not made way for waiting trials since.
        last_exploit: The latest time at which the trial took over a state.
        num_repeats: The number of further exploits at or before that time.
    """

    trial: Trial
    score: float | None = None
    times: list[float] = field(default_factory=list)
    must_yield: bool = False
    last_exploit: float = -math.inf
    num_repeats: int = 0

    @property
    def last_time(self) -> float:
        """The time of the last perturbation, 0 before the first."""
        return self.times[-1] if self.times else 0.0

    def rewind(self, time: float) -> None:
        """Drop the perturbations at or after a time, since a retry repeats them."""
        while self.times and self.times[-1] >= time:
            self.times.pop()


class PopulationBasedTraining(TrialScheduler):
    """Lets poor trials of a population go on from the checkpoints of good ones (Jaderberg et al. 2017).

    A perturbation of a trial happens whenever the trial has advanced by ``perturbation_interval``. The
    trial is then compared with the scores of the other unfinished trials at their last perturbations. A
    trial of the upper quantile is saved. A trial of the lower quantile takes over the newest checkpoint of
    a random one of the upper quantile, and a configuration that
    :func:`~asynctune.schedulers._explore.explore` makes of the donor's. NaN is the worst score, and no
    trial takes over the state of a trial with NaN.

    If there are more trials than slots, the population takes turns: at its perturbation a trial pauses
    (which saves the trial, too) as long as others wait, and a trial that took over a state pauses at the
    result after the exploit. New trials come first, then the paused trial whose last perturbation is the
    longest ago. The scheduler learns that no new trial waits only when a slot was free and none came: so
    the first trial at its perturbation always pauses, if only for that moment.

    Args:
        time_attr: The key of the results in which the interval is measured; its values grow.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        perturbation_interval: The time between two perturbations of a trial, in units of ``time_attr``.
        hyperparam_mutations: The values to mutate, by key of the config: a list of values in their order, a
            sampler such as ``tune.loguniform(1e-4, 1e-1)``, a function without arguments that draws a
            value, or a dict of these. Values stay within the bounds of samplers; functions have no bounds.
        quantile_fraction: The fraction of the population in the upper quantile, and in the lower; from 0
            to 0.5. With 0 no trial takes over a state.
        resample_probability: The probability that a value is drawn anew rather than moved.
        custom_explore_fn: A function that is called with the new configuration after the mutations, and
            returns it, changed or not.
        log_config: Whether the run writes ``pbt_global.txt`` and ``pbt_policy_<trial_id>.txt``.
        perturbation_factors: The two factors that numbers are multiplied by, each as likely as the other.

    Raises:
        ConfigError: An argument is wrong, or there is nothing to mutate.
    """

    needs_metric: ClassVar[bool] = True

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        hyperparam_mutations: Mapping[Any, Any] | None = None,
        *,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.25,
        custom_explore_fn: Callable[[dict[Any, Any]], dict[Any, Any]] | None = None,
        log_config: bool = True,
        perturbation_factors: Sequence[float] = (1.2, 0.8),
    ) -> None:
        super().__init__(metric, mode)
        name = type(self).__name__
        self.time_attr = check_key(name, "time_attr", time_attr)
        self.perturbation_interval = check_number(
            name, "perturbation_interval", perturbation_interval, above=0
        )
        self.quantile_fraction = float(
            check_number(name, "quantile_fraction", quantile_fraction, least=0, most=0.5)
        )
        self.resample_probability = check_fraction(
            name, "resample_probability", resample_probability
        )
        self.log_config = check_bool(name, "log_config", log_config)
        self.perturbation_factors = _check_factors(name, perturbation_factors)
        if custom_explore_fn is not None:
            check_callable(name, "custom_explore_fn", custom_explore_fn, "config", allow_class=True)
        self._custom_explore_fn = custom_explore_fn
        self.hyperparam_mutations = check_mutations(
            f"hyperparam_mutations of {name}",
            {} if hyperparam_mutations is None else hyperparam_mutations,
        )
        if not self.hyperparam_mutations and custom_explore_fn is None:
            what = "a dict of at least one value to mutate, unless custom_explore_fn is given"
            raise argument_error(name, "hyperparam_mutations", what, hyperparam_mutations)
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        return True

    def begin(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._members: dict[str, Member] = {}
        self._paused: dict[str, None] = {}
        self._may_have_new_trials = True
        self._num_perturbations = 0
        self._num_exploits = 0

    def on_trial_add(self, trial: Trial) -> None:
        self._member(trial)
        self._may_have_new_trials = True

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        member = self._member(trial)
        self._paused.pop(trial.trial_id, None)
        member.rewind(time)
        is_due = time - member.last_time >= self.perturbation_interval
        self._observe_result(member, time, score, is_due=is_due)
        if not is_due:
            return self._yield_or_continue(member)
        self._num_perturbations += 1
        member.score = score
        member.times.append(time)
        del member.times[:-_MAX_TIMES]
        member.must_yield = False
        lower, upper = self._quantiles()
        if member in lower:
            exploit = self._exploit(member, time, upper)
            if exploit is not None:
                return exploit
        if self._others_wait:
            return self._pause(member)
        return Decision.SAVE if member in upper else Decision.CONTINUE

    def on_trial_resume(self, trial: Trial) -> None:
        self._paused.pop(trial.trial_id, None)
        self._member(trial).must_yield = False
        self._may_have_new_trials = False  # a new trial would have got the slot first

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        self._remove_member(trial)

    def on_trial_error(self, trial: Trial) -> None:
        self._remove_member(trial)

    def on_trial_remove(self, trial: Trial) -> None:
        self._remove_member(trial)

    def choose(self, free: Free) -> str | None:
        if free.fresh or not free.paused:
            return None
        return min(free.paused, key=self._last_time)

    def debug_string(self) -> str:
        scores = {
            name: member.score for name, member in self._members.items() if member.score is not None
        }
        text = (
            f"{type(self).__name__}: {self._num_exploits} exploits at {self._num_perturbations} "
            f"perturbations; {len(self._members)} trials have not ended, {len(self._paused)} of them wait"
        )
        if scores:
            sign = 1 if self.mode == "max" else -1
            best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
            text += (
                f"\n{self.metric}: best {sign * scores[best]:.6g} ({best}), "
                f"worst {sign * scores[worst]:.6g} ({worst})"
            )
        return text

    # -- hooks for subclasses ----------------------------------------------------------------------

    def _observe_result(self, member: Member, time: float, score: float, *, is_due: bool) -> None:
        """Observe a result, before ``member`` is updated.

        Args:
            member: The trial that reported.
            time: The time of the result, in units of ``time_attr``.
            score: The score, higher being better.
            is_due: Whether the interval is over, so that a perturbation follows.
        """

    def _new_config(self, donor: Member) -> dict[Any, Any]:
        """Return a new configuration for a trial that takes over the donor's state."""
        return explore(
            donor.trial.config,
            self.hyperparam_mutations,
            self._rng,
            self.resample_probability,
            self.perturbation_factors,
        )

    def _on_exploit(self, member: Member, donor: Member, config: dict[Any, Any]) -> None:
        """Observe that a trial will go on from the state of a donor with a new configuration."""

    # -- helpers -----------------------------------------------------------------------------------

    @property
    def _others_wait(self) -> bool:
        return self._may_have_new_trials or bool(self._paused)

    def _member(self, trial: Trial) -> Member:
        return self._members.setdefault(trial.trial_id, Member(trial))

    def _remove_member(self, trial: Trial) -> None:
        self._members.pop(trial.trial_id, None)
        self._paused.pop(trial.trial_id, None)

    def _last_time(self, trial_id: str) -> float:
        member = self._members.get(trial_id)
        return member.last_time if member is not None else 0.0

    def _pause(self, member: Member) -> Decision:
        self._paused[member.trial.trial_id] = None
        return Decision.PAUSE

    def _yield_or_continue(self, member: Member) -> Decision:
        if member.must_yield and self._others_wait:
            return self._pause(member)
        member.must_yield = False
        return Decision.CONTINUE

    def _quantiles(self) -> tuple[list[Member], list[Member]]:
        """Return the lower and the upper quantile, worst first; NaN is never in the upper."""
        scored = [member for member in self._members.values() if member.score is not None]
        scored.sort(key=lambda member: member.score or 0.0)
        count = min(math.ceil(len(scored) * self.quantile_fraction), len(scored) // 2)
        upper = scored[len(scored) - count :]
        return scored[:count], [member for member in upper if member.score != -math.inf]

    def _exploit(self, member: Member, time: float, upper: list[Member]) -> Exploit | None:
        """Let a trial take over a state. Return None if no state is available."""
        donors = [donor for donor in upper if donor.trial.checkpoint is not None]
        if not donors:
            return None
        # A donor whose newest checkpoint is old can send the trial back to before this very time, again and
        # again. The limit ends this: the donor may need the trial's slot to save a newer checkpoint.
        member.num_repeats = member.num_repeats + 1 if time <= member.last_exploit else 0
        if member.num_repeats > _MAX_REPEATS:
            return None
        member.last_exploit = max(member.last_exploit, time)
        donor = pick_one(donors, self._rng)
        config = self._apply_custom_explore(self._new_config(donor))
        self._on_exploit(member, donor, config)
        member.times = list(donor.times)  # the rows of the trial continue those of the donor
        member.must_yield = True
        self._num_exploits += 1
        return Exploit(donor.trial.trial_id, config)

    def _apply_custom_explore(self, config: dict[Any, Any]) -> dict[Any, Any]:
        if self._custom_explore_fn is None:
            return config
        name = f"custom_explore_fn of {type(self).__name__}"
        try:
            returned = self._custom_explore_fn(config)
        except Exception as exc:
            raise TuneError(f"{name} raised {safe_str(exc)}") from exc
        if not isinstance(returned, Mapping):
            raise TuneError(
                f"{name} must return the configuration, a dict, got {safe_repr(returned)}"
            )
        return dict(returned)


def _check_factors(owner: str, value: Any) -> tuple[float, float]:
    name = "perturbation_factors"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise argument_error(owner, name, "two numbers above 0 such as (1.2, 0.8)", value)
    first, second = (check_number(owner, name, factor, above=0) for factor in value)
    return first, second
