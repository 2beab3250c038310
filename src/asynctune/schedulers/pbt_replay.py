"""The schedule of hyperparameters that a population has found, for one trial that trains from the start."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asynctune._checks import check_key, safe_repr
from asynctune.errors import ConfigError
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._explore import copied
from asynctune.schedulers._policies import PolicyLine, read_policy
from asynctune.schedulers.base import Decision, Exploit, TrialScheduler, Verdict, time_of

_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class _Change:
    """From ``iteration`` on it is this configuration."""

    iteration: int
    config: Mapping[str, Any]


class PopulationBasedTrainingReplay(TrialScheduler):
    """Gives one trial the configurations, one after the other, that led to a trial of a population.

    ::

        replay = PopulationBasedTrainingReplay("results/pbt/pbt_policy_<trial_id>.txt")
        stop = {"training_iteration": 100}
        asyncio.run(tune.run(Net, config=replay.config, scheduler=replay, stop=stop))

    At each iteration at which the state of that trial passed to another configuration, this one saves
    its own state and goes on from it with that configuration. What is no JSON (an object in the config)
    is not in the file: put it into ``config``, and it stays there. The file is read at once, so where an
    event loop runs, make it in a thread.

    Args:
        policy_file: A file ``pbt_policy_<trial_id>.txt`` of an experiment with PBT or PB2.
        time_attr: What is compared with the iterations of the file.

    Attributes:
        config: The configuration with which the schedule begins.

    Raises:
        ConfigError: The file cannot be read, is empty or damaged.
    """

    def __init__(
        self, policy_file: str | os.PathLike[str], time_attr: str = TRAINING_ITERATION
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(policy_file, str | os.PathLike) or not os.fspath(policy_file):
            raise ConfigError(
                f"policy_file of {name} is {safe_repr(policy_file)}; the path of a "
                f"pbt_policy_<trial_id>.txt "
                "is wanted"
            )
        self.policy_file = str(os.fspath(policy_file))
        self.time_attr = check_key(name, "time_attr", time_attr)
        lines = read_policy(policy_file)
        if not lines:
            raise ConfigError(
                f"policy_file of {name} is {self.policy_file}, which is empty; give that of a trial which "
                "took over from another"
            )
        self.config: dict[str, Any] = copied(lines[0].donor_config)
        self._changes = _schedule(lines, f"policy_file of {name}, {self.policy_file}")
        self._iterations = [change.iteration for change in self._changes]
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        return True

    def begin(self, seed: int) -> None:
        self._trial_id: str | None = None
        self._given: Mapping[Any, Any] = {}
        self._on_message: list[tuple[float, int]] = []

    def on_trial_add(self, trial: Trial) -> None:
        if self._trial_id not in (None, trial.trial_id):
            raise ConfigError(
                f"{type(self).__name__} replays the schedule of one trial, but the run has a second one, "
                f"{trial.trial_id}; give it a config without a grid, and num_samples=1"
            )
        self._trial_id = trial.trial_id
        self._given = trial.config

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        time = time_of(result, self.time_attr)
        while self._on_message and self._on_message[-1][0] >= time:  # a retry comes by here again
            self._on_message.pop()
        done = self._on_message[-1][1] if self._on_message else 0
        due = bisect_right(self._iterations, time)
        if due <= done:
            return Decision.CONTINUE
        self._on_message.append((time, due))
        config = _changed(self._given, self.config, self._changes[due - 1].config)
        return Exploit(trial.trial_id, config)

    def debug_string(self) -> str:
        done = self._on_message[-1][1] if self._on_message else 0
        at = ", ".join(map(str, self._iterations[done : done + 10])) or "none"
        return (
            f"{type(self).__name__} of {self.policy_file}: {done} of {len(self._changes)} changes made; "
            f"the next at {self.time_attr} {at}"
        )


def _schedule(lines: list[PolicyLine], where: str) -> list[_Change]:
    changes: list[_Change] = []
    for number, line in enumerate(lines, 1):
        if line.donor_iteration is None:
            raise ConfigError(
                f"{where} does not say in line {number} at which iteration the donor was; so it cannot "
                "be replayed"
            )
        # A state may have passed on twice at the same iteration: what counts is with what it trained.
        while changes and changes[-1].iteration >= line.donor_iteration:
            changes.pop()
        changes.append(_Change(line.donor_iteration, line.config))
    return changes


def _changed(given: Any, old: Any, new: Any) -> Any:
    """Return what was given with the differences between two configurations of a file made in it."""
    if not (isinstance(given, Mapping) and isinstance(old, Mapping) and isinstance(new, Mapping)):
        return copied(given if old == new else new)
    changed: dict[Any, Any] = {}
    for name, item in given.items():
        text = str(name)
        if text in new:
            changed[name] = _changed(item, old.get(text, _NOTHING), new[text])
        elif text not in old:
            changed[name] = copied(item)
    names = {str(name) for name in given}
    for text, item in new.items():
        if text not in names and old.get(text, _NOTHING) != item:
            changed[text] = copied(item)
    return changed
