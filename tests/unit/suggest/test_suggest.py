"""Random and quasi-random search, points to evaluate, and what is refused."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

import asynctune as tune
from asynctune.errors import ConfigError
from asynctune.space.domains import Domain
from asynctune.space.space import Space
from asynctune.suggest._axes import Kind, axis_of
from asynctune.suggest.base import Searcher
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.limiter import ConcurrencyLimiter
from asynctune.suggest.optuna import OptunaSearch
from asynctune.suggest.quasi_random import QuasiRandomSearch, ScrambledHalton
from asynctune.suggest.random_search import RandomSearch
from asynctune.suggest.repeater import Repeater

SPACE = {"lr": tune.loguniform(1e-4, 1), "net": {"layers": tune.randint(1, 5)}}
CHOICE = {"pick": tune.choice([{"a": 1}, [1, 2], "x"]), "q": tune.quniform(0, 1, 0.25)}
LEARNERS = (OptunaSearch, BOHBSearch)
ALL = (RandomSearch, QuasiRandomSearch, *LEARNERS)


def bound(searcher, config=SPACE, seed=0):
    space = Space(config)
    searcher.bind(space, "loss", "min", seed)
    return searcher, space


def suggested(searcher, count):
    return [searcher.suggest(f"trial_{number}") for number in range(count)]


# Random and quasi-random


def test_random_search_draws_as_the_samplers_do():
    searcher, _ = bound(RandomSearch(), {"n": tune.randint(0, 4)})
    counts = Counter(values["n"] for values in suggested(searcher, 2000))
    assert sorted(counts) == [0, 1, 2, 3]
    assert all(abs(count - 500) < 100 for count in counts.values())


def test_random_search_draws_from_a_sampler_of_the_user():
    class Seven(Domain):
        def sample(self, rng):
            return 7

    searcher, space = bound(RandomSearch(points_to_evaluate=[{"x": 8}]), {"x": Seven()})
    assert suggested(searcher, 2) == [{"x": 8}, {"x": 7}]
    assert space.variant(0, 0, {"x": 7}).config == {"x": 7}


@pytest.mark.parametrize("cls", [QuasiRandomSearch, *LEARNERS])
def test_what_maps_samplers_names_one_that_it_does_not_know(cls):
    class Seven(Domain):
        pass

    with pytest.raises(
        ConfigError, match=rf"{cls.__name__} cannot search 'x': .* is not a sampler"
    ):
        bound(cls(), {"x": Seven()})


def test_neither_needs_an_objective():
    for cls in (RandomSearch, QuasiRandomSearch):
        cls().bind(Space(SPACE), None, None, 0)


@pytest.mark.parametrize("base", [2, 3, 5, 7, 11])
def test_each_part_of_a_range_gets_its_share_of_a_halton_sequence(base):
    dimension = ScrambledHalton(base, 0, "x")
    parts = base**2
    points = [dimension.at(number) for number in range(3 * parts)]
    assert all(0 <= point < 1 for point in points)
    assert Counter(int(point * parts) for point in points) == dict.fromkeys(range(parts), 3)


def discrepancy(points):
    """Warnock's formula for the L2 star discrepancy: 0 is perfectly even."""
    n, dims = len(points), len(points[0])
    one = sum(math.prod((1 - x * x) / 2 for x in p) for p in points)
    two = sum(
        math.prod(1 - max(x, y) for x, y in zip(p, q, strict=True)) for p in points for q in points
    )
    return math.sqrt(3.0**-dims - 2 / n * one + two / n**2)


@pytest.mark.parametrize("seed", range(3))
def test_quasi_random_points_fill_the_space_more_evenly_than_random_ones(seed):
    config = {name: tune.uniform(0, 1) for name in "abcd"}

    def even(cls):
        searcher, _ = bound(cls(), config, seed)
        return discrepancy([tuple(values.values()) for values in suggested(searcher, 100)])

    assert even(QuasiRandomSearch) < 0.6 * even(RandomSearch)


def test_many_dimensions_are_no_copies_of_one_another():
    # Two dimensions of large primes go up in step in the plain sequence: their correlation is near 1.
    config = {f"x{number:03}": tune.uniform(0, 1) for number in range(200)}
    searcher, _ = bound(QuasiRandomSearch(), config)
    columns = list(zip(*(values.values() for values in suggested(searcher, 64)), strict=True))[100:]

    def correlation(one, other):
        a, b = sum(one) / 64, sum(other) / 64
        over = sum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
        return over / math.sqrt(sum((x - a) ** 2 for x in one) * sum((y - b) ** 2 for y in other))

    worst = max(abs(correlation(columns[i], columns[i + 1])) for i in range(99))
    assert worst < 0.5


def test_quasi_random_values_follow_the_samplers():
    config = {
        "log": tune.loguniform(1, 100),
        "choice": tune.choice(["a", "b"]),
        "normal": tune.randn(5, 2),
        "q": tune.qrandint(0, 30, 10),
    }
    searcher, _ = bound(QuasiRandomSearch(), config)
    values = suggested(searcher, 400)
    assert abs(sum(v["log"] < 10 for v in values) - 200) < 20
    assert abs(sum(v["choice"] == "a" for v in values) - 200) < 20
    assert abs(sum(v["normal"] for v in values) / 400 - 5) < 0.1
    assert abs(sum(3 < v["normal"] < 7 for v in values) / 400 - 0.6827) < 0.04
    assert Counter(v["q"] for v in values).keys() == {0, 10, 20, 30}


# Axes


@pytest.mark.parametrize(
    "domain",
    [
        tune.uniform(-3, 5), tune.quniform(0, 1, 0.3), tune.loguniform(0.01, 10),
        tune.qloguniform(0.05, 2, 0.1), tune.randint(-4, 9), tune.qrandint(3, 21, 5),
        tune.lograndint(1, 9), tune.lograndint(8, 1025), tune.qlograndint(8, 999, 8),
        tune.randn(1, 2), tune.qrandn(1, 2, 0.5), tune.choice(["a", "b", "c"]),
    ],
)  # fmt: skip
def test_an_axis_draws_what_its_sampler_draws(domain):
    """The share of values up to a few thresholds is the same, drawn at even probabilities."""
    axis, rng, n = axis_of(domain), random.Random(0), 20_000
    even = [axis.at((number + 0.5) / n) for number in range(n)]
    drawn = sorted(domain.sample(rng) for _ in range(n))
    assert even == sorted(even)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        threshold = drawn[int(share * n)]
        below = [sum(value <= threshold for value in values) / n for values in (even, drawn)]
        assert abs(below[0] - below[1]) < 0.02, (share, threshold)


def test_few_steps_are_ints_and_many_are_rounded_floats():
    few, many = axis_of(tune.quniform(0, 1, 0.3)), axis_of(tune.lograndint(8, 1025))
    assert (few.kind, few.low, few.high) == (Kind.INT, 0, 3)
    assert (many.kind, many.low, many.high, many.log) == (Kind.FLOAT, 7.5, 1024.5, True)
    assert [many.value(raw) for raw in (7.5, 8.4, 1024.5)] == [8, 8, 1024]


# Points to evaluate


@pytest.mark.parametrize("cls", ALL)
def test_points_come_first_as_they_are_given_by_path_or_nested(cls):
    points = [{"lr": 0.5, "net/layers": 2}, {"net": {"layers": 4}, "lr": 0.25}, {"lr": 1}]
    searcher, space = bound(cls(points_to_evaluate=points))
    values = suggested(searcher, 5)
    assert values[:2] == [{"lr": 0.5, "net/layers": 2}, {"lr": 0.25, "net/layers": 4}]
    assert values[2]["lr"] == 1
    assert 1 <= values[2]["net/layers"] < 5
    assert len({each["lr"] for each in values}) == 5
    assert space.variant(1, 0, values[1]).config == {"lr": 0.25, "net": {"layers": 4}}


@pytest.mark.parametrize("cls", ALL)
def test_points_may_hold_categories_of_any_kind_and_what_is_rounded_to_the_step(cls):
    points = [
        {"pick": {"a": 1}, "q": 0.75},
        {"pick": [1, 2], "q": 0.25 + 1e-12},
        {"pick": "x", "q": 1},
    ]
    searcher, space = bound(cls(points_to_evaluate=points), CHOICE)
    assert [space.variant(0, 0, values).drawn for values in suggested(searcher, 3)] == [
        {"pick": {"choice": 0}, "q": 0.75},
        {"pick": {"choice": 1}, "q": 0.25},
        {"pick": {"choice": 2}, "q": 1.0},
    ]


@pytest.mark.parametrize("cls", ALL)
def test_points_that_an_earlier_driver_tried_are_not_tried_again(cls):
    points = [{"lr": 0.5}, {"lr": 0.25, "net/layers": 2}]
    searcher, _ = bound(cls(points_to_evaluate=points))
    searcher.adopt("trial_0", {"lr": 0.5, "net/layers": 3})
    assert searcher.suggest("trial_1") == {"lr": 0.25, "net/layers": 2}


# What is refused

WRONG_POINTS = [
    (3, r"points_to_evaluate of \w+ must be a list, got 3"),
    ("ab", r"points_to_evaluate of \w+ must be a list, got 'ab'"),
    ([3], r"points_to_evaluate\[0\] of \w+ must be a dict, got 3"),
    (
        [{"lr": 0.5}, {"lrr": 1}],
        r"points_to_evaluate\[1\] of \w+ must .* \(lr, net/layers\), got 'lrr'",
    ),
    ([{"lr": 2}], r"'lr' in .*\[0\] of \w+ must be a number from 0.0001 to 1.0, got 2"),
    ([{"lr": "0.1"}], r"'lr' in .*\[0\] of \w+ must be a number, got '0.1'"),
    ([{"lr": True}], r"'lr' in .*\[0\] of \w+ must be a number, got True"),
    ([{"lr": math.nan}], r"'lr' in .*\[0\] of \w+ must be a finite number, got nan"),
    ([{"net": {"layers": 5}}], r"'net/layers' in .* must be an int from 1 to 4, got 5"),
    ([{"net": {"layers": 1.5}}], r"'net/layers' in .* must be an int from 1 to 4, got 1.5"),
]


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(("points", "message"), WRONG_POINTS)
def test_wrong_points_are_refused_by_name(cls, points, message):
    with pytest.raises(ConfigError, match=message):
        bound(cls(points_to_evaluate=points))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"pick": "y"}, r"'pick' in .* must be one of \[\{'a': 1\}, \[1, 2\], 'x'\], got 'y'"),
        ({"q": 0.3}, r"'q' in .* must be a multiple of 0.25, got 0.3"),
        ({"q": 1.25}, r"'q' in .* must be a number from 0.0 to 1.0, got 1.25"),
    ],
)
def test_points_off_their_step_or_category_are_refused(point, message):
    with pytest.raises(ConfigError, match=message):
        bound(RandomSearch(points_to_evaluate=[point]), CHOICE)


INNER = RandomSearch
WRONG = [
    *(
        (cls, {"seed": bad}, rf"seed of {cls.__name__} must be an int of at least 0, got")
        for cls in ALL
        for bad in (-1, 1.5, "1", True)
    ),
    *((cls, {"mode": "most"}, rf"mode of {cls.__name__} must be .*, got 'most'") for cls in ALL),
    *(
        (cls, {"metric": 3, "mode": "min"}, rf"metric of {cls.__name__} must be .*, got 3")
        for cls in ALL
    ),
    *(
        (
            cls,
            {"metric": "loss"},
            rf"mode of {cls.__name__} must be .* with metric='loss', got None",
        )
        for cls in ALL
    ),
    *(
        (cls, {"duplicates": "no"}, rf"duplicates of {cls.__name__} must be .*, got 'no'")
        for cls in ALL
    ),
    *((cls, {"space": 3}, rf"space of {cls.__name__} must be a dict .* got 3") for cls in LEARNERS),
    *(
        (cls, {"space": {"a": {"b": 3}}}, r"space of \w+ must hold samplers or .* got 3 at 'a/b'")
        for cls in LEARNERS
    ),
    (BOHBSearch, {"time_attr": ""}, r"time_attr of BOHBSearch must be a key .*, got ''"),
    (BOHBSearch, {"time_attr": None}, r"time_attr of BOHBSearch must be a key .*, got None"),
    (
        BOHBSearch,
        {"min_points": 0},
        r"min_points of BOHBSearch must be an int of at least 1, got 0",
    ),
    (BOHBSearch, {"min_points": 2.5}, r"min_points of BOHBSearch must be .*, got 2.5"),
    (
        BOHBSearch,
        {"random_fraction": 1.5},
        r"random_fraction of BOHBSearch must be .* 0 to 1, got 1.5",
    ),
    (
        BOHBSearch,
        {"random_fraction": math.nan},
        r"random_fraction of BOHBSearch must be .*, got nan",
    ),
    (BOHBSearch, {"random_fraction": True}, r"random_fraction of BOHBSearch must be .*, got True"),
    (BOHBSearch, {"space": print}, r"space of BOHBSearch must be .* got <built-in function print>"),
    (OptunaSearch, {"sampler": "TPE"}, r"sampler of OptunaSearch must be an instance .* got 'TPE'"),
    (
        OptunaSearch,
        {"metric": []},
        r"metric of OptunaSearch must be a list of different .* got \[\]",
    ),
    (
        OptunaSearch,
        {"metric": ["a", "a"], "mode": ["min"] * 2},
        r"metric of \w+ must be a list of different .* got \['a', 'a'\]",
    ),
    (
        OptunaSearch,
        {"metric": ["a", 3], "mode": ["min"] * 2},
        r"metric of OptunaSearch must be .*, got 3",
    ),
    (
        OptunaSearch,
        {"metric": ["a", "b"], "mode": "min"},
        r"mode of \w+ must be a list .* 2 metrics, got 'min'",
    ),
    (
        OptunaSearch,
        {"metric": ["a", "b"], "mode": ["min"]},
        r"mode of \w+ must be a list .* 2 metrics, got \['min'\]",
    ),
    (
        OptunaSearch,
        {"metric": ["a"], "mode": ["most"]},
        r"mode of OptunaSearch must be a list .* got \['most'\]",
    ),
    (
        OptunaSearch,
        {"mode": ["min"]},
        r"mode of OptunaSearch must be 'min' or 'max', got \['min'\]",
    ),
    (OptunaSearch, {"points_to_evaluate": [{}], "evaluated_rewards": 1}, r"evaluated_rewards of"),
    (
        OptunaSearch,
        {"points_to_evaluate": [{}], "evaluated_rewards": []},
        r"evaluated_rewards of \w+ must have one .* 1 items .* got 0",
    ),
    (
        OptunaSearch,
        {"points_to_evaluate": [{}], "evaluated_rewards": ["a"]},
        r"rewards\[0\] of \w+ must be a number .* got 'a'",
    ),
    (OptunaSearch, {"points_to_evaluate": [{}], "evaluated_rewards": [[1, 2]]}, r"rewards\[0\]"),
    (OptunaSearch, {"points_to_evaluate": [{}], "evaluated_rewards": [True]}, r"rewards\[0\]"),
    (OptunaSearch, {"points_to_evaluate": [{}], "evaluated_rewards": [math.inf]}, r"rewards\[0\]"),
    (
        OptunaSearch,
        {"evaluated_rewards": [1]},
        r"evaluated_rewards of \w+ must have one .* 0 items .* got 1",
    ),
    (
        ConcurrencyLimiter,
        {"searcher": 3, "max_concurrent": 1},
        r"searcher of ConcurrencyLimiter must be .* got 3",
    ),
    (
        ConcurrencyLimiter,
        {"searcher": INNER, "max_concurrent": 1},
        r"must be an instance of Searcher, got <class",
    ),
    *(
        (ConcurrencyLimiter, {"searcher": INNER(), "max_concurrent": bad}, r"max_concurrent of")
        for bad in (0, -1, 1.5, None, True)
    ),
    (Repeater, {"searcher": "x"}, r"searcher of Repeater must be an instance of Searcher, got 'x'"),
    *(
        (Repeater, {"searcher": INNER(), "repeat": bad}, r"repeat of Repeater")
        for bad in (0, 2.0, "2")
    ),
    (
        Repeater,
        {"searcher": INNER(), "set_index": 1},
        r"set_index of Repeater must be True or False, got 1",
    ),
    (
        Repeater,
        {"searcher": INNER(duplicates="skip"), "repeat": 2, "set_index": False},
        r"duplicates of RandomSearch must be 'allow' inside a Repeater .* got 'skip'; .* set_index=True",
    ),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), WRONG)
def test_each_wrong_argument_is_refused_by_name(cls, arguments, message):
    with pytest.raises(ConfigError, match=message):
        cls(**arguments)


@pytest.mark.parametrize("cls", LEARNERS)
def test_a_space_without_samplers_leaves_nothing_to_search(cls):
    with pytest.raises(ConfigError, match=f"{cls.__name__} has nothing to search: .* no sampler"):
        bound(cls(), {"a": 1, "grid": tune.grid_search([1, 2])})


def test_what_was_evaluated_must_be_complete():
    searcher = OptunaSearch(points_to_evaluate=[{"lr": 0.5}], evaluated_rewards=[1])
    with pytest.raises(ConfigError, match=r"points_to_evaluate\[0\] .* no value for net/layers"):
        bound(searcher)


# Limiting and repeating


class Noting(Searcher):
    """Suggests numbers, and notes what it is told."""

    def __init__(self, answers=(), **keywords):
        super().__init__(**keywords)
        self.answers = list(answers)
        self.told = []
        self.asked = []

    def suggest(self, trial_id):
        self.asked.append(trial_id)
        return self.answers.pop(0) if self.answers else {"lr": len(self.asked) / 10}

    def adopt(self, trial_id, values):
        self.told.append(("adopt", trial_id, dict(values)))

    def on_trial_result(self, trial_id, result):
        self.told.append(("result", trial_id, result))

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.told.append(("complete", trial_id, result, error))


def test_the_limiter_says_not_now_until_one_of_its_trials_has_ended():
    inner = Noting()
    searcher, _ = bound(ConcurrencyLimiter(inner, 2))
    assert searcher.suggest("a")
    assert searcher.suggest("b")
    assert searcher.suggest("c") is None
    searcher.on_trial_result("a", {"loss": 1})
    searcher.on_trial_complete("a", {"loss": 1})
    assert searcher.suggest("c")
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("b", None, error=True)
    searcher.on_trial_complete("b", None, error=True)
    assert searcher.suggest("d")
    assert searcher.suggest("e") is None
    assert inner.asked == ["a", "b", "c", "d"]
    assert inner.told[:3] == [
        ("result", "a", {"loss": 1}), ("complete", "a", {"loss": 1}, False), ("complete", "b", None, True),
    ]  # fmt: skip


def test_the_limiter_counts_what_an_earlier_driver_tried():
    searcher, _ = bound(ConcurrencyLimiter(Noting(), 1))
    searcher.adopt("a", {"lr": 1})
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a")
    assert searcher.suggest("b")


@pytest.mark.parametrize("answer", [None, Searcher.FINISHED])
def test_what_the_other_searcher_says_is_handed_on_and_takes_no_place(answer):
    for wrapped in (ConcurrencyLimiter(Noting([answer]), 1), Repeater(Noting([answer]), 2)):
        searcher, _ = bound(wrapped)
        assert searcher.suggest("a") is answer
        assert searcher.suggest("a")["lr"] == 0.2


def test_a_wrapped_searcher_gets_the_objective_and_is_refused_like_any_other():
    inner = Noting()
    searcher, space = bound(ConcurrencyLimiter(inner, 1))
    assert (inner.metric, inner.mode) == (searcher.metric, searcher.mode) == ("loss", "min")
    with pytest.raises(ConfigError, match="Noting was already used"):
        ConcurrencyLimiter(inner, 1).bind(space, "loss", "min", 0)
    with pytest.raises(ConfigError, match="Noting needs an objective"):
        Repeater(Noting(), 2).bind(space, None, None, 0)


def test_each_suggestion_is_repeated_and_the_searcher_told_the_mean_when_all_have_ended():
    inner = Noting()
    searcher, _ = bound(Repeater(inner, 3))
    assert suggested(searcher, 4) == [
        {"lr": 0.1, "__trial_index__": 0},
        {"lr": 0.1, "__trial_index__": 1},
        {"lr": 0.1, "__trial_index__": 2},
        {"lr": 0.2, "__trial_index__": 0},
    ]
    searcher.on_trial_result("trial_0", {"loss": 9.0})
    searcher.on_trial_complete("trial_2", {"loss": 4.0, "training_iteration": 3})
    searcher.on_trial_complete("trial_1", {"loss": 2.0, "training_iteration": 2})
    searcher.on_trial_complete("trial_1", {"loss": 100.0})
    assert inner.told == []
    searcher.on_trial_complete("trial_0", {"loss": 3.0, "training_iteration": 1})
    searcher.on_trial_complete("trial_0", {"loss": 100.0})
    assert inner.told == [("complete", "trial_0", {"loss": 3.0, "training_iteration": 1}, False)]


def test_the_index_is_set_only_if_it_is_wanted():
    searcher, _ = bound(Repeater(Noting(), 2, set_index=False))
    assert suggested(searcher, 3) == [{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.2}]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([({"loss": math.nan}, False), ({"loss": 2.0}, False)], ({"loss": 2.0}, False)),
        ([({"loss": -math.inf}, False), ({"loss": 2.0}, False)], ({"loss": 2.0}, False)),
        ([({"loss": 5.0}, True), ({"loss": 2.0}, False)], ({"loss": 2.0}, False)),
        ([({"loss": math.nan}, False), ({"loss": math.nan}, False)], (None, True)),
        ([(None, True), (None, True)], (None, True)),
        ([(None, False), (None, False)], (None, False)),
        ([({"other": 1}, False), ({"other": 2}, False)], ({"other": 1}, False)),
    ],
)
def test_only_finite_values_count_for_the_mean(ends, told):
    inner = Noting()
    searcher, _ = bound(Repeater(inner, 2))
    suggested(searcher, 2)
    for number, (row, error) in enumerate(ends):
        searcher.on_trial_complete(f"trial_{number}", row, error=error)
    assert inner.told == [("complete", "trial_0", *told)]


def test_the_mean_does_not_depend_on_the_order_in_which_trials_end():
    values = [0.1, 1e16, 0.2, -1e16]
    means = set()
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        inner = Noting()
        searcher, _ = bound(Repeater(inner, 4))
        suggested(searcher, 4)
        for number in order:
            searcher.on_trial_complete(f"trial_{number}", {"loss": values[number]})
        means.add(inner.told[0][2]["loss"])
    assert len(means) == 1


def test_several_objectives_each_get_their_mean():
    inner = Noting()
    inner.metrics = ("loss", "time")
    searcher, _ = bound(Repeater(inner, 2))
    suggested(searcher, 2)
    searcher.on_trial_complete("trial_0", {"loss": 1.0, "time": 10})
    searcher.on_trial_complete("trial_1", {"loss": 2.0, "time": 20})
    assert inner.told == [("complete", "trial_0", {"loss": 1.5, "time": 15.0}, False)]


def test_a_repeater_goes_on_with_the_suggestion_that_an_earlier_driver_had_begun():
    inner = Noting()
    searcher, _ = bound(Repeater(inner, 2))
    for number in range(3):
        searcher.adopt(f"trial_{number}", {"lr": 0.5 + number // 2})
    assert searcher.suggest("trial_3") == {"lr": 1.5, "__trial_index__": 1}
    assert searcher.suggest("trial_4") == {"lr": 0.1, "__trial_index__": 0}
    assert [told[:2] for told in inner.told] == [("adopt", "trial_0"), ("adopt", "trial_2")]


def test_wrapping_keeps_the_policies_of_what_is_wrapped():
    for wrapped in (
        ConcurrencyLimiter(RandomSearch(duplicates="reuse"), 1),
        Repeater(RandomSearch()),
    ):
        assert wrapped.duplicates == wrapped.searcher.duplicates
        assert wrapped.repeats is True
        assert wrapped.is_slow is True
    assert ConcurrencyLimiter(Noting(), 1).repeats is False
