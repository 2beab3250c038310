"""Whatever trials do: of several objectives the fronts decide, as found out anew by comparing everyone."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from trial_scripts import ANY_SCORE, SCORES, WITH_NAN, cases

from asynctune.schedulers import Decision
from asynctune.schedulers._fronts import Fronts, dominates
from asynctune.schedulers.multi_objective import MultiObjectiveASHAScheduler
from asynctune.testing.scripts import play, replay

POINTS = st.integers(1, 3).flatmap(
    lambda size: st.lists(st.tuples(*[st.integers(-4, 4).map(float)] * size), max_size=25)
)
LEVELS, MAX_T, ETA = (1, 2, 4, 8), 10, 2


def make():
    return MultiObjectiveASHAScheduler(
        ["score", "other"], ["max", "min"], max_t=MAX_T, reduction_factor=ETA
    )


def with_other(case, scores):
    """Give each row of each trial a second metric."""
    numbers = iter(range(10**6))
    scripts = tuple(
        replace(
            script,
            rows=[{**row, "other": scores[next(numbers) % len(scores)]} for row in script.rows],
        )
        for script in case.scripts
    )
    return replace(case, scripts=scripts)


def two_objectives(scores):
    return st.builds(with_other, cases(scores), st.lists(scores, min_size=3, max_size=30))


def peeled(points):
    """Return the fronts, as sets of numbers: take those away whom nobody dominates, again and again."""
    left, fronts = dict(enumerate(points)), []
    while left:
        front = {
            n for n, one in left.items() if not any(dominates(two, one) for two in left.values())
        }
        fronts.append(front)
        left = {n: point for n, point in left.items() if n not in front}
    return fronts


@given(POINTS)
def test_the_fronts_are_what_is_left_when_the_better_are_taken_away(points):
    fronts = Fronts()
    for number, point in enumerate(points):
        fronts.add(point)
        expected = peeled(points[: number + 1])
        assert fronts.sizes() == [len(front) for front in expected]
    sizes = fronts.sizes()
    for place in range(len(sizes) + 1):
        count = sum(sizes[:place])
        best = {number for number in range(len(points)) if fronts.is_in_best(number, count)}
        assert best == set().union(*peeled(points)[:place])


@given(POINTS, st.integers(0, 30))
def test_exactly_so_many_are_among_the_best_and_nobody_dominates_them_who_is_not(points, count):
    fronts = Fronts()
    for point in points:
        fronts.add(point)
    best = [number for number in range(len(points)) if fronts.is_in_best(number, count)]
    assert len(best) == min(count, len(points))
    left = set(range(len(points))) - set(best)
    assert not any(dominates(points[out], points[there]) for out in left for there in best)


@given(two_objectives(SCORES))
def test_who_is_in_a_front_that_fits_goes_on_and_who_is_in_none_does_not(case):
    played = play(make, case.scripts, metric=None, mode=None, **case.arguments)
    recorded, reached, stopped = {level: [] for level in LEVELS}, {}, {}
    for call in played.calls:
        if call.method not in ("on_trial_result", "on_trial_complete") or not call.given:
            continue
        name, time = call.trial_id, call.given["training_iteration"]
        level = max(level for level in LEVELS if level <= time)
        is_first = level > reached.get(name, 0)
        if is_first:
            reached[name] = level
            recorded[level].append((call.given["score"], -call.given["other"]))
        if call.method == "on_trial_complete":
            continue
        if time >= min(MAX_T, stopped.get(name, math.inf)):
            assert call.answer is Decision.STOP
        elif not is_first:
            assert call.answer is Decision.CONTINUE
        else:
            points = recorded[level]
            kept, before = math.ceil(Fraction(len(points), ETA)), 0
            own = next(front for front in peeled(points) if len(points) - 1 in front)
            before = sum(len(front) for front in peeled(points)[: peeled(points).index(own)])
            if before >= kept:
                assert call.answer is Decision.STOP
            if before + len(own) <= kept:
                assert call.answer is Decision.CONTINUE
            if call.answer is Decision.STOP:
                stopped[name] = level


@given(two_objectives(ANY_SCORE), st.data())
def test_every_trial_ends_and_a_replay_answers_the_same(case, data):
    played = play(make, case.scripts, metric=None, mode=None, **case.arguments)
    assert len(played.trials) == len(case.scripts)
    assert all(trial.status.is_final for trial in played.trials.values())
    replay(
        played, make, asked_from=data.draw(st.integers(0, len(played.steps)), label="asked_from")
    )


@given(two_objectives(WITH_NAN))
def test_nan_in_one_metric_is_as_bad_as_the_worst_in_each(case):
    played = play(make, case.scripts, metric=None, mode=None, **case.arguments)
    worst = {"score": -math.inf, "other": math.inf}
    plain = [
        replace(script, rows=[row | worst if any(map(math.isnan, row.values())) else row
                              for row in script.rows])
        for script in case.scripts
    ]  # fmt: skip
    control = play(make, plain, metric=None, mode=None, **case.arguments)
    for name in played.trials:
        assert played.verdicts(name) == control.verdicts(name)
