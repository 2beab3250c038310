"""Whatever trials do: ASHA stops and promotes those whom the rule names, and every trial ends."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trial_scripts import ANY_SCORE, SCORES, WITH_NAN, cases

from asynctune.schedulers import Decision
from asynctune.schedulers.asha import AsyncHyperBandScheduler
from asynctune.testing.scripts import play, replay

STOP = Decision.STOP
LADDERS = st.sampled_from(
    [(1, 2, 10), (1, 3, 9), (2, 2, 16), (1, 4, 100), (3, 1.5, 20), (1, 2.5, 7)]
)
"""Grace period, reduction factor, ``max_t``."""


def maker(ladder, **arguments):
    grace, eta, max_t = ladder
    return lambda: AsyncHyperBandScheduler(
        grace_period=grace, reduction_factor=eta, max_t=max_t, **arguments
    )


class Reference:
    """What was recorded at each rung, found out anew from the calls, one after the other."""

    def __init__(self, ladder, mode="max"):
        grace, self.eta, self.max_t = ladder
        self.levels = [grace * self.eta**k for k in range(20) if grace * self.eta**k <= self.max_t]
        self.mode = mode
        self.recorded = {level: {} for level in self.levels}
        self.reached = {}

    def level_at(self, time):
        return max((level for level in self.levels if level <= time), default=0)

    def heard(self, trial_id, row):
        """Take over a row; return its rung and the scores before, if it is the first there."""
        if "score" not in row:
            return None
        score = row["score"] if self.mode == "max" else -row["score"]
        level = self.level_at(row["training_iteration"])
        if level <= self.reached.get(trial_id, 0):
            return None
        self.reached[trial_id] = level
        before = list(self.recorded[level].values())
        self.recorded[level][trial_id] = -math.inf if math.isnan(score) else score
        return score, before

    def is_top(self, trial_id):
        """Tell whether a trial is in the top 1/eta of its rung now; of equals the earlier is better."""
        scores = self.recorded[self.reached[trial_id]]
        own = scores[trial_id]
        ahead = sum(score > own for score in scores.values())
        ahead += list(scores.values())[: list(scores).index(trial_id)].count(own)
        return ahead + 1 <= Fraction(len(scores)) / Fraction(self.eta)


@given(cases(SCORES), LADDERS, st.sampled_from(["min", "max"]))
def test_exactly_those_are_stopped_who_are_worse_than_the_quantile_of_those_before(
    case, ladder, mode
):
    played = play(maker(ladder), case.scripts, mode=mode, **case.arguments)
    reference, stopped = Reference(ladder, mode), {}
    for call in played.calls:
        if call.method not in ("on_trial_result", "on_trial_complete"):
            continue
        first = reference.heard(call.trial_id, call.given)
        if call.method == "on_trial_complete":
            continue
        time = call.given["training_iteration"]
        if first is not None and first[1] and time < reference.max_t:
            cutoff = np.quantile(first[1], 1 - 1 / reference.eta)
            is_worse = first[0] < cutoff
            if math.isclose(first[0], cutoff, abs_tol=1e-9):  # it is as good, but for the rounding
                is_worse = call.answer is STOP
            if is_worse:
                stopped[call.trial_id] = reference.reached[call.trial_id]
        stops = time >= min(reference.max_t, stopped.get(call.trial_id, math.inf))
        assert call.answer == (STOP if stops else Decision.CONTINUE)
        assert not stops or time >= ladder[0]


@given(cases(ANY_SCORE), LADDERS)
def test_every_promoted_trial_is_in_the_top_of_its_rung_at_that_moment(case, ladder):
    played = play(maker(ladder, promote=True), case.scripts, **case.arguments)
    reference, waiting, passed, chosen = Reference(ladder), set(), {}, None
    for call in played.calls:
        name = call.trial_id
        if call.method == "choose":
            chosen = call.answer
            promotable = {n for n in call.given.paused if n in waiting and reference.is_top(n)}
            if chosen in waiting:
                assert chosen in promotable
                # Nobody at a higher rung, and nobody better at its own, could have been taken.
                assert all(rank(reference, chosen) >= rank(reference, n) for n in promotable)
            elif chosen is None:
                assert not promotable
        elif call.method == "on_trial_resume":
            if name in waiting:
                passed[name] = reference.reached[name]
            waiting.discard(name)
        elif call.method in ("on_trial_result", "on_trial_complete"):
            waiting.discard(name)
            reference.heard(name, call.given)
            if call.method == "on_trial_complete":
                continue
            level, time = reference.reached.get(name, 0), call.given["training_iteration"]
            held = level > passed.get(name, 0) and reference.level_at(time) == level
            if call.answer is Decision.PAUSE:
                assert held
                waiting.add(name)
            elif call.answer is Decision.CONTINUE and held:
                assert reference.is_top(name)
                passed[name] = level
            assert (call.answer is STOP) == (time >= ladder[2])
        elif call.method in ("on_trial_error", "on_trial_remove"):
            waiting.discard(name)


def rank(reference, name):
    """Return what is the greatest for who is to be promoted first."""
    level = reference.reached[name]
    scores = reference.recorded[level]
    return level, scores[name], -list(scores).index(name)


@given(
    cases(ANY_SCORE),
    LADDERS,
    st.fixed_dictionaries(
        {
            "promote": st.booleans(),
            "brackets": st.integers(1, 3),
            "metric": st.just("score"),
            "mode": st.sampled_from(["min", "max"]),
        }
    ),
    st.data(),
)
def test_every_trial_ends_and_a_replay_answers_the_same(case, ladder, arguments, data):
    make = maker(ladder, **arguments)
    played = play(make, case.scripts, **case.arguments)
    assert len(played.trials) == len(case.scripts)
    assert all(trial.status.is_final for trial in played.trials.values())
    asked_from = data.draw(st.integers(0, len(played.steps)), label="asked_from")
    again = replay(played, make, asked_from=asked_from)
    assert "nan" not in again.debug_string()


@given(cases(WITH_NAN), LADDERS, st.booleans())
def test_nan_does_to_others_what_any_worst_value_does(case, ladder, promote):
    make = maker(ladder, promote=promote)
    played = play(make, case.scripts, **case.arguments)
    finite = [
        replace(script, rows=[{**row, "score": -1e9} if math.isnan(row["score"]) else row
                              for row in script.rows])
        for script in case.scripts
    ]  # fmt: skip
    control = play(make, finite, **case.arguments)
    for name in played.trials:
        assert played.verdicts(name) == control.verdicts(name)
