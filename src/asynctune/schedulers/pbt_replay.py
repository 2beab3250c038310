"""Replay of the schedule of hyperparameters that a population found, by one trial from the start."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asynctune._checks import argument_error, check_key
from asynctune.errors import ConfigError
from asynctune.experiment.trial import Trial
from asynctune.result import TRAINING_ITERATION, Row
from asynctune.schedulers._explore import copy_config
from asynctune.schedulers.base import Decision, Exploit, TrialScheduler, Verdict, time_of
from asynctune.schedulers.policies import PolicyLine, read_policy

_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class _Change:
    """A change to ``config`` at ``iteration``."""

    iteration: int
    config: Mapping[str, Any]


class PopulationBasedTrainingReplay(TrialScheduler):
    """Gives one trial the configurations, one after the other, that led to a trial of a population.

    ::

        replay = PopulationBasedTrainingReplay("results/pbt/pbt_policy_<trial_id>.txt")
        stop = {"training_iteration": 100}
        asyncio.run(tune.run(Net, config=replay.config, scheduler=replay, stop=stop))

    At each iteration at which the state of that trial passed to another configuration, the replaying trial
    saves its own state and goes on from it with that configuration. Values that JSON cannot hold (objects
    in the config) are not in the file: put them into ``config``, and they stay there. The constructor reads
    the file and blocks, so where an event loop runs, call it in a thread.

    Args:
        policy_file: The path of a ``pbt_policy_<trial_id>.txt`` of an experiment with PBT or PB2.
        time_attr: The key of the results that is compared with the iterations of the file.

    Attributes:
        config: The configuration with which the schedule begins.

    Raises:
        ConfigError: The file cannot be read, is empty or is damaged.
    """

    def __init__(
        self, policy_file: str | os.PathLike[str], time_attr: str = TRAINING_ITERATION
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(policy_file, str | os.PathLike) or not os.fspath(policy_file):
            what = "the path of a pbt_policy_<trial_id>.txt"
            raise argument_error(name, "policy_file", what, policy_file)
        self.policy_file = str(os.fspath(policy_file))
        self.time_attr = check_key(name, "time_attr", time_attr)
        lines = read_policy(policy_file)
        if not lines:
            raise ConfigError(
                f"policy_file of {name} must be the file of a trial that took over a state, "
                f"got {self.policy_file}, which is empty"
            )
        self.config: dict[str, Any] = copy_config(lines[0].donor_config)
        self._changes = _schedule(lines, f"policy_file of {name}, {self.policy_file}")
        self._iterations = [change.iteration for change in self._changes]
        self.begin(0)

    @property
    def needs_checkpoints(self) -> bool:
        return True

    def begin(self, seed: int) -> None:
        self._trial_id: str | None = None
        self._trial_config: Mapping[Any, Any] = {}
        self._applied: list[tuple[float, int]] = []  # times, and counts of changes applied then

    def on_trial_add(self, trial: Trial) -> None:
        if self._trial_id not in (None, trial.trial_id):
            raise ConfigError(
                f"{type(self).__name__} replays the schedule of one trial, but the run has a second one, "
                f"{trial.trial_id}; pass a config without a grid, and num_samples=1"
            )
        self._trial_id = trial.trial_id
        self._trial_config = trial.config

    def on_trial_result(self, trial: Trial, result: Row) -> Verdict:
        time = time_of(result, self.time_attr)
        while self._applied and self._applied[-1][0] >= time:  # a retry repeats changes
            self._applied.pop()
        done = self._applied[-1][1] if self._applied else 0
        due = bisect_right(self._iterations, time)
        if due <= done:
            return Decision.CONTINUE
        self._applied.append((time, due))
        config = _merge_changes(self._trial_config, self.config, self._changes[due - 1].config)
        return Exploit(trial.trial_id, config)

    def debug_string(self) -> str:
        done = self._applied[-1][1] if self._applied else 0
        at = ", ".join(map(str, self._iterations[done : done + 10])) or "none"
        return (
            f"{type(self).__name__} of {self.policy_file}: {done} of {len(self._changes)} changes made; "
            f"the next at {self.time_attr} {at}"
        )


def _schedule(lines: list[PolicyLine], origin: str) -> list[_Change]:
    changes: list[_Change] = []
    for number, line in enumerate(lines, 1):
        if line.donor_iteration is None:
            raise ConfigError(
                f"line {number} of {origin} must have the iteration of the donor, got null; without it the "
                "schedule cannot be replayed"
            )
        # A state may pass on twice at the same iteration, and then trains only with the last configuration.
        while changes and changes[-1].iteration >= line.donor_iteration:
            changes.pop()
        changes.append(_Change(line.donor_iteration, line.config))
    return changes


def _merge_changes(given: Any, old: Any, new: Any) -> Any:
    """Return a config with the differences between two configurations of a policy file applied.

    Keys are compared as text, since JSON has no others.

    Args:
        given: The config of the trial, which may hold objects that the file lacks.
        old: The first configuration of the file.
        new: The configuration to reach.
    """
    if not (isinstance(given, Mapping) and isinstance(old, Mapping) and isinstance(new, Mapping)):
        return copy_config(given if old == new else new)
    changed: dict[Any, Any] = {}
    for name, item in given.items():
        text = str(name)
        if text in new:
            changed[name] = _merge_changes(item, old.get(text, _MISSING), new[text])
        elif text not in old:
            changed[name] = copy_config(item)
    names = {str(name) for name in given}
    for text, item in new.items():
        if text not in names and old.get(text, _MISSING) != item:
            changed[text] = copy_config(item)
    return changed
