"""The contract of schedulers, as a test class to subclass. Needs pytest.

::

    class TestMyScheduler(SchedulerContract):
        grace = 3

        def make_scheduler(self):
            return MyScheduler(grace_period=3, max_t=9)

The trials of the tests report the objective ``score``, which is maximised, a second metric ``cost``, and
``training_iteration`` from 1 to 12. :mod:`asynctune.testing.scripts` plays runs with trials of your own.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, ClassVar

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.schedulers import Decision, TrialScheduler
from asynctune.testing._random_scripts import TIME, RandomRun, calm_scripts, random_run, rows_of
from asynctune.testing.scripts import Played, Script, play, replay

_MOST_STEPS = 20_000
_DIGEST = (
    "import importlib, sys; "
    "print(getattr(importlib.import_module(sys.argv[1]), sys.argv[2])().digest())"
)


class SchedulerContract:
    """The promises of :class:`asynctune.schedulers.TrialScheduler`. Override :meth:`make_scheduler`.

    Attributes:
        grace: The ``training_iteration`` before which no trial is stopped; infinite for a scheduler that
            stops no trial.
        reads_metric: Whether rows without the metric or the time are an error.
        worst_score: The score that has the same effect as NaN.
        most_trials: The largest number of trials in a run.
    """

    grace: ClassVar[float] = math.inf
    reads_metric: ClassVar[bool] = True
    worst_score: ClassVar[float] = -1e300
    most_trials: ClassVar[int] = 16

    def make_scheduler(self) -> TrialScheduler:
        """Return a new scheduler, without an objective of its own unless it always needs one."""
        raise NotImplementedError(f"{type(self).__name__} must override make_scheduler()")

    @pytest.fixture(params=range(8))
    def seed(self, request: pytest.FixtureRequest) -> int:
        """The seed of a random run."""
        seed: int = request.param
        return seed

    def random_run(
        self, seed: int, *, odd: bool = True, troubled: bool = False, crashes: bool = False
    ) -> RandomRun:
        """Return a random run; see :func:`asynctune.testing._random_scripts.random_run`."""
        most = self.most_trials
        return random_run(seed, most_trials=most, odd=odd, troubled=troubled, crashes=crashes)

    def play(self, run: RandomRun, scripts: Sequence[Script] | None = None) -> Played:
        """Play a run with a new scheduler.

        Args:
            run: The run.
            scripts: The trials, in place of those of the run.
        """
        return play(
            self.make_scheduler,
            run.scripts if scripts is None else scripts,
            slots=run.slots,
            seed=run.seed,
            crashes_after=run.crashes_after,
            most_steps=_MOST_STEPS,
        )

    def digest(self) -> str:
        """Return a hash of all calls and answers of one run."""
        scripts = calm_scripts(random.Random(7), odd=False, most=9)
        calls = play(self.make_scheduler, scripts, slots=3).calls
        return hashlib.sha256(repr(calls).encode()).hexdigest()

    def test_every_trial_ends(self, seed: int) -> None:
        run = self.random_run(seed, troubled=True, crashes=True)
        played = self.play(run)
        assert len(played.trials) == len(run.scripts)
        for trial in played.trials.values():
            assert trial.status.is_final

    def test_a_replay_without_queries_restores_the_state(self, seed: int) -> None:
        played = self.play(self.random_run(seed, troubled=True, crashes=True))
        cut = random.Random(seed).randint(0, len(played.steps))
        replay(played, self.make_scheduler, asked_from=cut)

    def test_no_decision_depends_on_later_results(self, seed: int) -> None:
        run, rng = self.random_run(seed, troubled=True), random.Random(~seed)
        number = rng.randrange(len(run.scripts))
        old = run.scripts[number].rows
        first = rng.randint(0, len(old))
        new = [{**row, "score": rng.uniform(-9, 9), "cost": 1} for row in old[first:]]
        changed = list(run.scripts)
        changed[number] = replace(run.scripts[number], rows=[*old[:first], *new])
        before, after = self.play(run).calls, self.play(run, changed).calls
        pairs = list(zip(before, after, strict=False))
        same = list(takewhile(lambda pair: repr(pair[0]) == repr(pair[1]), pairs))
        if len(same) < len(pairs):
            one, other = pairs[len(same)]
            assert one.trial_id == other.trial_id == f"t{number}"
            assert (one.method, repr(one.given)) != (other.method, repr(other.given)), (
                "another answer to the same call"
            )

    def test_no_trial_is_stopped_before_the_end_of_its_grace_period(self, seed: int) -> None:
        for call in self.play(self.random_run(seed, troubled=True)).calls:
            if call.method == "on_trial_result" and call.answer is Decision.STOP:
                assert call.given[TIME] >= self.grace

    def test_a_trial_of_nan_harms_others_no_more_than_the_worst_one(self, seed: int) -> None:
        run = self.random_run(seed, odd=False)
        number = random.Random(~seed).randrange(len(run.scripts))

        def fates(score: float) -> dict[str, Any]:
            scripts = list(run.scripts)
            rows = rows_of([score] * len(scripts[number].rows))
            scripts[number] = replace(scripts[number], rows=rows)
            played = self.play(run, scripts)
            return {
                trial_id: (played.verdicts(trial_id), trial.stop_reason)
                for trial_id, trial in played.trials.items()
            }

        assert fates(math.nan) == fates(self.worst_score)

    def test_trials_of_nan_alone_end(self, seed: int) -> None:
        run = self.random_run(seed)
        scripts = [
            replace(script, rows=rows_of([math.nan] * len(script.rows))) for script in run.scripts
        ]
        played = self.play(run, scripts)
        assert all(trial.status == "TERMINATED" for trial in played.trials.values())

    def test_an_instance_serves_one_run(self) -> None:
        scheduler = self.make_scheduler()
        scheduler.bind("score", "max")
        with pytest.raises(ConfigError, match="was already used by another run; make a new one"):
            scheduler.bind("score", "max")

    @pytest.mark.parametrize("missing", ["score", TIME])
    def test_a_missing_key_is_an_error_that_lists_the_keys_of_the_row(self, missing: str) -> None:
        rows = [
            {"cost": 1, **{key: value for key, value in row.items() if key != missing}}
            for row in rows_of([1, 2, 3])
        ]
        if not self.reads_metric:
            play(self.make_scheduler, [Script(rows)])
            return
        with pytest.raises(MetricMissing, match=rf"{missing}.*cost"):
            play(self.make_scheduler, [Script(rows, {"x": 1})])

    def test_an_objective_is_needed_unless_the_scheduler_has_its_own(self) -> None:
        scheduler = self.make_scheduler()
        if scheduler.needs_metric:
            name = type(scheduler).__name__
            with pytest.raises(ConfigError, match=f"{name} needs an objective"):
                scheduler.bind(None, None)
        else:
            scheduler.bind(None, None)

    def test_the_hashes_of_strings_decide_nothing(self) -> None:
        cls = type(self)
        digests = set()
        for seed in ("1", "2"):
            environment = {
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            command = [sys.executable, "-c", _DIGEST, cls.__module__, cls.__qualname__]
            process = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            assert process.returncode == 0, process.stderr
            digests.add(process.stdout)
        assert len(digests) == 1
