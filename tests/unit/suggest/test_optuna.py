"""OptunaSearch: how spaces are mapped, what Optuna is told, and which samplers repeat."""

from __future__ import annotations

import math
import sys
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import asynctune as tune
from asynctune.errors import ConfigError, TuneError
from asynctune.space.space import Space
from asynctune.suggest._optuna_study import parameters_of, quiet_sampler
from asynctune.suggest.base import FINISHED
from asynctune.suggest.bohb import BOHBSearch
from asynctune.suggest.optuna import OptunaSearch

BOWL = {"x": tune.uniform(0, 1), "net": {"layers": tune.randint(1, 5)}}


def bound(searcher, config=BOWL, metric="loss", mode="min", seed=0):
    space = Space(config)
    searcher.bind(space, metric, mode, seed)
    return searcher, space


def trials(searcher):
    """What the study knows."""
    return searcher._study.get_trials(deepcopy=False)


def row(loss, iteration=1):
    return {"loss": loss, "training_iteration": iteration}


# Spaces


@pytest.mark.parametrize(
    ("sampler", "distribution"),
    [
        (tune.uniform(0, 2), FloatDistribution(0, 2)),
        (tune.loguniform(0.1, 2), FloatDistribution(0.1, 2, log=True)),
        (tune.quniform(0, 1, 0.3), IntDistribution(0, 3)),
        (tune.quniform(0.1, 10, 0.1), FloatDistribution(0.5, 100.5)),
        (tune.qloguniform(0.05, 0.5, 0.1), IntDistribution(1, 5, log=True)),
        (tune.randint(2, 9), IntDistribution(2, 8)),
        (tune.qrandint(3, 21, 5), IntDistribution(1, 4)),
        (tune.lograndint(1, 9), IntDistribution(1, 8, log=True)),
        (tune.lograndint(1, 1001), FloatDistribution(0.5, 1000.5, log=True)),
        (tune.qlograndint(8, 64, 8), IntDistribution(1, 8, log=True)),
        (tune.randn(3, 9), FloatDistribution(1e-6, 1 - 1e-6)),
        (tune.choice(["a", ["b"]]), CategoricalDistribution(range(2))),
    ],
)
def test_each_sampler_has_its_distribution(sampler, distribution):
    assert parameters_of("me", {"a": {"b": sampler}})["a/b"].distribution == distribution


def test_the_default_suggests_what_optuna_itself_would():
    searcher, _ = bound(
        OptunaSearch(seed=4), {"x": tune.uniform(-5, 5), "y": tune.loguniform(0.1, 9)}
    )
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=4))
    distributions = {"x": FloatDistribution(-5, 5), "y": FloatDistribution(0.1, 9, log=True)}
    for number in range(25):
        trial = study.ask(distributions)
        values = searcher.suggest(f"trial_{number}")
        assert values == trial.params
        loss = values["x"] ** 2 + values["y"]
        study.tell(trial, loss)
        searcher.on_trial_complete(f"trial_{number}", row(loss))


def test_a_space_of_its_own_is_searched_instead_of_the_samplers_of_the_config():
    own = {
        "net": {"width": tune.choice([8, 16]), "depth": IntDistribution(1, 3)},
        "opt": CategoricalDistribution(["sgd", "adam"]),
    }
    searcher, space = bound(OptunaSearch(own), {"net": {"bias": True}, "seed": tune.randint(0, 9)})
    values = searcher.suggest("a")
    assert values.keys() == {"net/width", "net/depth", "opt"}
    config = space.variant(0, 0, values).config
    assert config["opt"] in ("sgd", "adam")
    assert 0 <= config["seed"] < 9


def test_a_function_of_a_trial_defines_the_space_by_running():
    def define(trial):
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            trial.suggest_float("momentum", 0, 1)
        return {"net": {"depth": trial.suggest_int("depth", 1, 3), "kind": "mlp"}}

    searcher, space = bound(OptunaSearch(define), {"epochs": 3})
    with_momentum, losses = set(), []
    for number in range(40):
        values = searcher.suggest(f"trial_{number}")
        assert ("momentum" in values) == (values["optimizer"] == "sgd")
        with_momentum.add("momentum" in values)
        config = space.variant(number, 0, values).config
        assert config["net"] == {"depth": values["depth"], "kind": "mlp"}
        assert config["epochs"] == 3
        losses.append(abs(values.get("momentum", 2) - 0.9))
        searcher.on_trial_complete(f"trial_{number}", row(losses[-1]))
    assert with_momentum == {True, False}
    assert sum(losses[20:]) < 0.7 * sum(losses[:20])


def test_a_function_may_return_nothing():
    searcher, _ = bound(OptunaSearch(lambda trial: trial.suggest_int("n", 1, 1) and None), {})
    assert searcher.suggest("a") == {"n": 1}


@pytest.mark.parametrize("outcome", [ZeroDivisionError("of mine"), 3])
def test_a_function_that_fails_is_named(outcome):
    def define(trial):
        trial.suggest_float("x", 0, 1)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    searcher, _ = bound(OptunaSearch(define), {})
    with pytest.raises(TuneError, match=r"space of OptunaSearch: the function .*define.* raised"):
        searcher.suggest("a")
    assert [trial.state for trial in trials(searcher)] == [TrialState.FAIL]


def test_points_and_earlier_trials_are_known_to_a_function_by_the_names_of_its_parameters():
    def define(trial):
        trial.suggest_float("net/lr", 0, 1)
        trial.suggest_categorical("kind", ["a", "b"])

    searcher, _ = bound(OptunaSearch(define, points_to_evaluate=[{"net": {"lr": 0.5}}]), {})
    assert searcher.suggest("a")["net/lr"] == 0.5
    searcher.adopt("b", {"net": {"lr": 0.25}, "kind": "b"})
    searcher.adopt("c", {"net": {"lr": 0.75}})
    searcher.on_trial_complete("b", row(1.0))
    assert trials(searcher)[1].params == {"net/lr": 0.25, "kind": "b"}
    assert [t.state.name for t in trials(searcher)] == ["RUNNING", "COMPLETE", "FAIL"]


# What Optuna is told


def test_results_are_reported_and_the_last_value_is_what_a_trial_comes_to():
    searcher, _ = bound(OptunaSearch())
    searcher.suggest("a")
    for iteration, loss in ((1, 5.0), (2, 4.0), (2, 3.5), (4, math.nan)):
        searcher.on_trial_result("a", row(loss, iteration))
    searcher.on_trial_complete("a", row(3.0, 5))
    (trial,) = trials(searcher)
    assert trial.state is TrialState.COMPLETE
    assert trial.value == 3.0
    assert math.isnan(trial.intermediate_values.pop(4))
    assert trial.intermediate_values == {1: 5.0, 2: 4.0}


def test_a_last_row_without_the_metric_leaves_the_value_before_it():
    searcher, _ = bound(OptunaSearch())
    searcher.suggest("a")
    searcher.on_trial_result("a", row(5.0))
    searcher.on_trial_complete("a", {"training_iteration": 2})
    assert trials(searcher)[0].value == 5.0


@pytest.mark.parametrize(
    ("mode", "last", "error", "state"),
    [
        ("min", row(math.nan), False, TrialState.FAIL),
        ("min", row(1.0), True, TrialState.FAIL),
        ("min", None, False, TrialState.FAIL),
        ("min", row(-math.inf), False, TrialState.FAIL),
        ("max", row(math.inf), False, TrialState.FAIL),
        ("min", row(math.inf), False, TrialState.COMPLETE),
        ("max", row(-math.inf), False, TrialState.COMPLETE),
    ],
)
def test_what_is_no_value_fails(mode, last, error, state):
    searcher, _ = bound(OptunaSearch(), mode=mode)
    searcher.suggest("a")
    searcher.on_trial_complete("a", last, error=error)
    assert [trial.state for trial in trials(searcher)] == [state]


def test_more_is_better_if_the_mode_says_so():
    searcher, _ = bound(OptunaSearch(metric="score", mode="max"), metric=None, mode=None)
    values = []
    for number in range(40):
        values.append(searcher.suggest(f"t{number}")["x"])
        searcher.on_trial_complete(f"t{number}", {"score": -abs(values[-1] - 0.8)})
    assert abs(sum(values[30:]) / 10 - 0.8) < 0.2


def test_what_was_evaluated_is_told_and_not_tried():
    points = [{"x": n / 20, "net": {"layers": 1 + n % 4}} for n in range(21)]
    searcher, _ = bound(
        OptunaSearch(
            points_to_evaluate=points, evaluated_rewards=[abs(p["x"] - 0.3) for p in points]
        )
    )
    first = [searcher.suggest(f"t{n}")["x"] for n in range(8)]
    told = trials(searcher)[:21]
    assert [trial.state for trial in told] == [TrialState.COMPLETE] * 21
    assert [trial.params["x"] for trial in told] == [point["x"] for point in points]
    assert sum(abs(x - 0.3) < 0.2 for x in first) > 5  # it begins where random search would end


def test_evaluated_points_of_a_function_are_run_through_it():
    searcher, _ = bound(
        OptunaSearch(
            lambda trial: trial.suggest_float("x", 0, 1) and None,
            points_to_evaluate=[{"x": 0.5}, {"x": 0.6}],
            evaluated_rewards=[1.0, math.nan],
        ),
        {},
    )
    searcher.suggest("a")
    assert [trial.state.name for trial in trials(searcher)] == ["COMPLETE", "FAIL", "RUNNING"]


def test_earlier_trials_enter_the_study_with_their_values():
    config = {"x": tune.uniform(0, 1), "n": tune.randn(0, 1), "c": tune.choice([[1], {"a": 2}])}
    searcher, _ = bound(OptunaSearch(), config)
    searcher.adopt("a", {"x": 0.5, "n": 0.0, "c": {"a": 2}, "other": {"key": 1}})
    searcher.on_trial_complete("a", row(1.0))
    assert trials(searcher)[0].params == {"c": 1, "n": 0.5, "x": 0.5}
    assert trials(searcher)[0].value == 1.0


def test_what_cannot_be_found_again_is_not_made_up():
    config = {"c": tune.choice([{"x": tune.uniform(0, 1)}, {"y": tune.uniform(0, 1)}])}
    searcher, space = bound(OptunaSearch(), config)
    searcher.adopt("a", space.values_of(space.variant(0, 0).config))
    searcher.on_trial_complete("a", row(1.0))
    assert trials(searcher) == []


# Several objectives


def test_several_objectives_are_told_together():
    sampler = optuna.samplers.NSGAIISampler(seed=0, population_size=8)
    searcher, _ = bound(
        OptunaSearch(sampler=sampler, metric=["loss", "speed"], mode=["min", "max"]),
        metric=None,
        mode=None,
    )
    assert searcher.repeats
    for number in range(30):
        values = searcher.suggest(f"t{number}")
        result = {"loss": values["x"], "speed": values["x"] ** 2, "training_iteration": 1}
        searcher.on_trial_result(f"t{number}", result)
        searcher.on_trial_complete(
            f"t{number}", result | ({"speed": math.nan} if number == 3 else {})
        )
    assert [str(d) for d in searcher._study.directions] == ["1", "2"]
    done = [trial for trial in trials(searcher) if trial.state is TrialState.COMPLETE]
    assert len(done) == 29
    assert all(trial.values == [trial.params["x"], trial.params["x"] ** 2] for trial in done)


def test_rewards_of_several_objectives_are_lists():
    searcher, _ = bound(
        OptunaSearch(
            points_to_evaluate=[{"x": 0.5, "net/layers": 1}],
            evaluated_rewards=[[1, 2]],
            metric=["loss", "speed"],
            mode=["min", "max"],
        )
    )
    searcher.suggest("a")
    assert trials(searcher)[0].values == [1.0, 2.0]


# Samplers


def test_a_sampler_with_a_seed_repeats_and_one_without_does_not():
    samplers = optuna.samplers
    unseeded, seeded = samplers.RandomSampler(), samplers.RandomSampler(seed=1)
    fixed = [
        quiet_sampler(lambda s=s: samplers.PartialFixedSampler({}, s)) for s in (seeded, unseeded)
    ]
    assert OptunaSearch().repeats
    assert OptunaSearch(sampler=samplers.TPESampler(seed=1)).repeats
    assert OptunaSearch(sampler=samplers.GridSampler({"x": [1]})).repeats
    assert OptunaSearch(sampler=fixed[0]).repeats
    assert not OptunaSearch(sampler=samplers.TPESampler()).repeats
    assert not OptunaSearch(sampler=samplers.NSGAIISampler()).repeats
    assert not OptunaSearch(
        sampler=samplers.CmaEsSampler(seed=1, independent_sampler=unseeded)
    ).repeats
    assert not OptunaSearch(sampler=fixed[1]).repeats


def test_a_sampler_of_the_user_is_not_trusted_to_repeat():
    class Mine(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, name, distribution):
            return distribution.low

    searcher, _ = bound(OptunaSearch(sampler=Mine()))
    assert not searcher.repeats
    assert searcher.suggest("a") == {"x": 0.0, "net/layers": 1}


def test_gaussian_processes_are_slow_and_not_repeated():
    slow = OptunaSearch(sampler=quiet_sampler(lambda: optuna.samplers.GPSampler(seed=1)))
    assert slow.is_slow
    assert not slow.repeats
    assert not OptunaSearch().is_slow


def test_a_seed_beside_a_sampler_is_refused():
    with pytest.raises(
        ConfigError, match=r"seed of OptunaSearch must be None .* got 3; .* TPESampler\(seed=...\)"
    ):
        OptunaSearch(sampler=optuna.samplers.TPESampler(), seed=3)


def test_a_seed_may_be_larger_than_those_of_numpy():
    bound(OptunaSearch(seed=2**40))[0].suggest("a")


def test_a_sampler_that_has_tried_everything_is_finished():
    searcher, _ = bound(
        OptunaSearch(
            {"x": FloatDistribution(0, 1), "k": CategoricalDistribution(["a", "b"])},
            sampler=optuna.samplers.GridSampler({"x": [0.25, 0.75], "k": ["a", "b"]}),
        ),
        {},
    )
    tried = set()
    while (values := searcher.suggest(f"t{len(tried)}")) is not FINISHED:
        tried.add((values["x"], values["k"]))
        searcher.on_trial_complete(f"t{len(tried) - 1}", row(values["x"]))
    assert tried == {(0.25, "a"), (0.25, "b"), (0.75, "a"), (0.75, "b")}
    assert searcher.suggest("more") is FINISHED


def test_parts_of_a_space_can_be_modelled_together_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = quiet_sampler(
            lambda: optuna.samplers.TPESampler(seed=0, multivariate=True, group=True)
        )
    searcher, _ = bound(OptunaSearch(sampler=sampler))
    for number in range(15):
        assert searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", row(1.0))


@pytest.mark.parametrize("cls", [OptunaSearch, BOHBSearch])
def test_without_optuna_the_error_says_what_to_install(cls, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=rf"{cls.__name__} needs Optuna.*asynctune\[optuna\]"):
        cls()


def test_importing_the_searchers_does_not_import_optuna():
    import subprocess

    code = "import asynctune.suggest.optuna, asynctune.suggest.bohb, sys; print('optuna' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
