"""Whatever trials do: the median of averages decides, as found out anew from all that was reported."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from statistics import fmean

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trial_scripts import ANY_SCORE, SCORES, cases

from asynctune.schedulers import Decision
from asynctune.schedulers.median import MedianStoppingRule
from asynctune.testing.scripts import play, replay

RULES = st.fixed_dictionaries(
    {
        "grace_period": st.integers(0, 6),
        "min_samples_required": st.integers(1, 3),
        "hard_stop": st.booleans(),
        "metric": st.just("score"),
        "mode": st.sampled_from(["min", "max"]),
    }
)


def maker(rules):
    return lambda: MedianStoppingRule(**rules)


class Reference:
    """All results that count, by trial, as time -> score."""

    def __init__(self, rules):
        self.rules = rules
        self.results = defaultdict(dict)

    def heard(self, name, row):
        time, score = row["time_total_s"], row["score"]
        own = self.results[name]
        self.results[name] = {t: s for t, s in own.items() if t < time}
        self.results[name][time] = score if self.rules["mode"] == "max" else -score

    def is_worse(self, name):
        """Tell whether a trial is worse at its last result; None: so close that rounding decides."""
        own = self.results[name]
        now, grace = max(own), self.rules["grace_period"]
        averages = []
        for other, results in self.results.items():
            counted = [score for time, score in results.items() if grace <= time <= now]
            if other != name and max(results) >= now and counted:
                averages.append(fmean(counted))
        if now < grace or len(averages) < self.rules["min_samples_required"]:
            return False
        median = np.median(averages)
        return (
            None
            if math.isclose(median, max(own.values()), abs_tol=1e-9)
            else max(own.values()) < median
        )


@given(cases(SCORES), RULES)
def test_exactly_those_stop_or_pause_once_whose_best_is_worse_than_the_median(case, rules):
    played = play(maker(rules), case.scripts, **case.arguments)
    reference, waiting, left_alone = Reference(rules), set(), set()
    for call in played.calls:
        name = call.trial_id
        if call.method == "on_trial_resume" and name in waiting:
            left_alone.add(name)
        elif call.method == "on_trial_result":
            waiting.discard(name)
            reference.heard(name, call.given)
            worse = reference.is_worse(name)
            if worse is not None:
                ends = Decision.STOP if rules["hard_stop"] else Decision.PAUSE
                expected = ends if worse and name not in left_alone else Decision.CONTINUE
                assert call.answer is expected
            if call.answer is Decision.PAUSE:
                waiting.add(name)
            if call.answer is not Decision.CONTINUE:
                assert call.given["time_total_s"] >= rules["grace_period"]
        elif call.method == "on_trial_complete" and call.given:
            known = reference.results[name]
            if not known or call.given["time_total_s"] > max(known):
                reference.heard(name, call.given)


@given(cases(ANY_SCORE), RULES, st.data())
def test_every_trial_ends_and_a_replay_answers_the_same(case, rules, data):
    played = play(maker(rules), case.scripts, **case.arguments)
    assert len(played.trials) == len(case.scripts)
    assert all(trial.status.is_final for trial in played.trials.values())
    asked_from = data.draw(st.integers(0, len(played.steps)), label="asked_from")
    replay(played, maker(rules), asked_from=asked_from)


@given(cases(SCORES), RULES, st.integers(0, 3))
def test_a_trial_that_is_nan_throughout_does_to_others_what_a_very_bad_one_does(case, rules, which):
    def with_score(value):
        scripts = list(case.scripts)
        chosen = scripts[which % len(scripts)]
        rows = [{**row, "score": value} for row in chosen.rows]
        scripts[which % len(scripts)] = replace(chosen, rows=rows)
        return scripts

    worst = -1e9 if rules["mode"] == "max" else 1e9
    played = play(maker(rules), with_score(math.nan), **case.arguments)
    control = play(maker(rules), with_score(worst), **case.arguments)
    for name in played.trials:
        assert played.verdicts(name) == control.verdicts(name)
