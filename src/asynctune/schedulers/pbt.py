"""Population based training: poor trials go on from the state of good ones, with other hyperparameters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asynctune._checks import check_bool, check_key, check_number, safe_repr, safe_str
from asynctune.errors import ConfigError, TuneError
from asynctune.experiment.trial import Trial
from asynctune.result import Row
from asynctune.schedulers._explore import (
    check_callable,
    check_mutations,
    explore,
    is_number,
    one_of,
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

_MOST_TIMES = 32
_MOST_TRIES = 3


@dataclass(slots=True, eq=False)
class Member:
    """A trial of the population that has not ended.

    Args:
        trial: The trial.
        score: Its score at its last perturbation, of which more is better; None before the first.
        times: When its last perturbations were, ascending, in units of ``time_attr``.
        yields: Whether it took over a state and has not made way since for those that wait.
        exploited_at: The latest time at which it took over a state.
        tries: How often it has done so since without coming further.
    """

    trial: Trial
    score: float | None = None
    times: list[float] = field(default_factory=list)
    yields: bool = False
    exploited_at: float = -math.inf
    tries: int = 0

    @property
    def last_time(self) -> float:
        """When its last perturbation was."""
        return self.times[-1] if self.times else 0.0

    def comes_to(self, time: float) -> None:
        """Forget the perturbations that were at or after a time: a retry has to come by them again."""
        while self.times and self.times[-1] >= time:
            self.times.pop()


class PopulationBasedTraining(TrialScheduler):
    """Lets poor trials of a population go on from the checkpoints of good ones (Jaderberg et al. 2017).

    Whenever a trial has come ``perturbation_interval`` further, it is compared with what the other
    unfinished trials had at their last perturbations. One of the upper quantile is saved. One of the
    lower quantile takes over the newest checkpoint of a random one of the upper, and a configuration
    made of that one's by :func:`~asynctune.schedulers._explore.explore`. NaN is the worst score, and
    nobody takes over from a trial with it.

    If there are more trials than slots, the population takes turns: at its perturbation a trial pauses
    (which saves it, too) as long as others wait, and one that took over a state pauses at the result
    after it. New trials come first, then the paused one whose last perturbation is the longest ago.
    That no new trial waits is known once a slot was free and none came: so the trial that is the first
    at its perturbation always pauses, if only for that moment.

    Args:
        time_attr: What the interval is measured in: a key of the results that grows.
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        perturbation_interval: How far a trial gets between two perturbations, in units of ``time_attr``.
        hyperparam_mutations: What is mutated, by key of the config: a list of values in their order, a
            sampler such as ``tune.loguniform(1e-4, 1e-1)``, a function without arguments that draws a
            value, or a dict of these. Values stay within the bounds of samplers; functions have none.
        quantile_fraction: How much of the population is the upper quantile, and how much the lower;
            from 0 to 0.5. With 0 nobody takes over anything.
        resample_probability: How probably a value is drawn anew rather than moved.
        custom_explore_fn: Called with the new configuration after the mutations; returns it, changed or
            not.
        log_config: Whether the run writes ``pbt_global.txt`` and ``pbt_policy_<trial_id>.txt``.
        perturbation_factors: What numbers are multiplied by, the one as likely as the other.

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
        self.quantile_fraction = _share(name, "quantile_fraction", quantile_fraction, 0.5)
        self.resample_probability = _share(name, "resample_probability", resample_probability, 1)
        self.log_config = check_bool(name, "log_config", log_config)
        self.perturbation_factors = _factors(name, perturbation_factors)
        if custom_explore_fn is not None:
            where, wanted = f"custom_explore_fn of {name}", "a plain function of a config is wanted"
            check_callable(where, custom_explore_fn, 1, wanted)
        self._custom_explore_fn = custom_explore_fn
        self.hyperparam_mutations = check_mutations(
            f"hyperparam_mutations of {name}",
            {} if hyperparam_mutations is None else hyperparam_mutations,
        )
        if not self.hyperparam_mutations and custom_explore_fn is None:
            raise ConfigError(
                f"hyperparam_mutations of {name} is empty; say what to mutate, or give custom_explore_fn"
            )
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        return True

    def begin(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._members: dict[str, Member] = {}
        self._paused: dict[str, None] = {}
        self._may_be_more = True
        self._num_perturbations = 0
        self._num_exploits = 0

    def on_trial_add(self, trial: Trial) -> None:
        self._member(trial)
        self._may_be_more = True

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        assert self.metric is not None
        assert self.mode is not None
        time = time_of(result, self.time_attr)
        score = score_of(result, self.metric, self.mode)
        member = self._member(trial)
        self._paused.pop(trial.trial_id, None)
        member.comes_to(time)
        is_due = time - member.last_time >= self.perturbation_interval
        self._saw(member, time, score, is_due=is_due)
        if not is_due:
            return self._made_way(member)
        self._num_perturbations += 1
        member.score = score
        member.times.append(time)
        del member.times[:-_MOST_TIMES]
        member.yields = False
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
        self._member(trial).yields = False
        self._may_be_more = False  # or a new one would have had the slot

    def on_trial_complete(self, trial: Trial, result: Row) -> None:
        self._leaves(trial)

    def on_trial_error(self, trial: Trial) -> None:
        self._leaves(trial)

    def on_trial_remove(self, trial: Trial) -> None:
        self._leaves(trial)

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

    # -- what subclasses change --------------------------------------------------------------------

    def _saw(self, member: Member, time: float, score: float, *, is_due: bool) -> None:
        """A trial reported; ``is_due``: its interval is over. ``member`` is as it was before."""

    def _mutated(self, donor: Member) -> dict[Any, Any]:
        """Return a new configuration for a trial that takes over this one's state."""
        return explore(
            donor.trial.config,
            self.hyperparam_mutations,
            self._rng,
            self.resample_probability,
            self.perturbation_factors,
        )

    def _took_over(self, member: Member, donor: Member, config: dict[Any, Any]) -> None:
        """A trial will go on from the state of another, with this configuration."""

    # -- small things ------------------------------------------------------------------------------

    @property
    def _others_wait(self) -> bool:
        return self._may_be_more or bool(self._paused)

    def _member(self, trial: Trial) -> Member:
        return self._members.setdefault(trial.trial_id, Member(trial))

    def _leaves(self, trial: Trial) -> None:
        self._members.pop(trial.trial_id, None)
        self._paused.pop(trial.trial_id, None)

    def _last_time(self, trial_id: str) -> float:
        member = self._members.get(trial_id)
        return member.last_time if member is not None else 0.0

    def _pause(self, member: Member) -> Decision:
        self._paused[member.trial.trial_id] = None
        return Decision.PAUSE

    def _made_way(self, member: Member) -> Decision:
        if member.yields and self._others_wait:
            return self._pause(member)
        member.yields = False
        return Decision.CONTINUE

    def _quantiles(self) -> tuple[list[Member], list[Member]]:
        """Return the lower and the upper quantile, worst first; NaN is never in the upper."""
        scored = [member for member in self._members.values() if member.score is not None]
        scored.sort(key=lambda member: member.score or 0.0)
        count = min(math.ceil(len(scored) * self.quantile_fraction), len(scored) // 2)
        upper = scored[len(scored) - count :]
        return scored[:count], [member for member in upper if member.score != -math.inf]

    def _exploit(self, member: Member, time: float, upper: list[Member]) -> Exploit | None:
        """Let a trial take over a state, if there is one for it."""
        donors = [donor for donor in upper if donor.trial.checkpoint is not None]
        if not donors:
            return None
        # A donor whose newest checkpoint is old can send it back to before this very time. It ends: the
        # donor may be waiting for the slot, to make a newer one.
        member.tries = member.tries + 1 if time <= member.exploited_at else 0
        if member.tries > _MOST_TRIES:
            return None
        member.exploited_at = max(member.exploited_at, time)
        donor = one_of(donors, self._rng)
        config = self._custom(self._mutated(donor))
        self._took_over(member, donor, config)
        member.times = list(donor.times)  # its rows go on where the donor's were
        member.yields = True
        self._num_exploits += 1
        return Exploit(donor.trial.trial_id, config)

    def _custom(self, config: dict[Any, Any]) -> dict[Any, Any]:
        if self._custom_explore_fn is None:
            return config
        name = f"custom_explore_fn of {type(self).__name__}"
        try:
            returned = self._custom_explore_fn(config)
        except Exception as exc:
            raise TuneError(f"{name} raised {safe_str(exc)}") from exc
        if not isinstance(returned, Mapping):
            raise TuneError(
                f"{name} returned {safe_repr(returned)}; it must return the configuration"
            )
        return dict(returned)


def _share(owner: str, name: str, value: Any, most: float) -> float:
    if is_number(value) and 0 <= value <= most:
        return float(value)
    raise ConfigError(
        f"{name} of {owner} is {safe_repr(value)}; a number from 0 to {most:g} is wanted"
    )


def _factors(owner: str, value: Any) -> tuple[float, float]:
    name = "perturbation_factors"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(
            f"{name} of {owner} is {safe_repr(value)}; two numbers above 0 such as (1.2, 0.8) are wanted"
        )
    first, second = (check_number(owner, name, factor, above=0) for factor in value)
    return first, second
