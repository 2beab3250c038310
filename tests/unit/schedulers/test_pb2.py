"""PB2: where it looks next, what it learns from, and that this is better than chance."""

from __future__ import annotations

import math
import random
import statistics
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import asynctune as tune
from asynctune.errors import ConfigError
from asynctune.schedulers import Exploit
from asynctune.schedulers._gp import Kernel, choose_candidate, fit_kernel
from asynctune.schedulers.pb2 import PB2
from asynctune.schedulers.pbt import PopulationBasedTraining

INTERVAL = 4
LINE = [(i / 100,) for i in range(101)]


def pb2(**arguments):
    given = {
        "time_attr": "training_iteration", "metric": "score", "mode": "max",
        "perturbation_interval": INTERVAL, "hyperparam_bounds": {"x0": [0, 1]},
    }  # fmt: skip
    return PB2(**(given | arguments))


# The model


def test_it_looks_where_most_was_gained_once_it_knows_the_rest():
    known = [(0.0, (i / 10,), -((i / 10 - 0.62) ** 2)) for i in range(11)]
    assert LINE[choose_candidate(LINE, 0.0, known)][0] == pytest.approx(0.62, abs=0.08)


def test_it_looks_into_the_gap_when_all_was_alike():
    known = [(0.0, (x,), 1.0) for x in (0.0, 0.1, 0.2, 0.8, 0.9, 1.0)]
    assert LINE[choose_candidate(LINE, 0.0, known)][0] == pytest.approx(0.5, abs=0.1)


def test_it_looks_elsewhere_than_what_is_tried_now():
    known = [(0.0, (x,), 1.0) for x in (0.0, 0.25, 1.0)]
    first = LINE[choose_candidate(LINE, 0.0, known)]
    second = LINE[choose_candidate(LINE, 0.0, known, [(0.0, first)])]
    assert abs(first[0] - second[0]) > 0.1


def test_it_trusts_what_is_new_more_than_what_is_old():
    rng = random.Random(0)
    # The best place moves from 0.2 to 0.8 within 40 steps.
    known = []
    for step in range(40):
        for _ in range(3):
            x = rng.random()
            known.append((float(step), (x,), -((x - 0.2 - 0.6 * step / 40) ** 2)))
    assert LINE[choose_candidate(LINE, 40.0, known)][0] == pytest.approx(0.8, abs=0.12)


def test_the_likeliest_kernel_tells_smooth_from_rough_and_noise_from_signal():
    rng = np.random.default_rng(0)
    points, times = rng.random((60, 1)), np.zeros(60)
    smooth = np.sin(3 * points[:, 0])
    rough = np.sin(40 * points[:, 0])
    noise = rng.normal(size=60)
    found = [
        fit_kernel(points, times, (gains - gains.mean()) / gains.std())
        for gains in (smooth, rough, noise)
    ]
    assert found[0].length > found[1].length
    assert found[0].noise < found[2].noise


def test_the_kernel_is_that_of_the_paper():
    kernel = Kernel(length=0.5, epsilon=0.19, noise=0.1)
    # exp(-0.25 / (2 * 0.25)) * 0.81**(2 / 2)
    found = kernel(np.array([[0.25]]), np.array([[2.0]]))
    assert found[0, 0] == pytest.approx(math.exp(-0.5) * 0.81)


@pytest.mark.parametrize(
    "gains", [[0.0] * 5, [1e308, -1e308, 0, 1, 2], [1e-320, 0, 0, 0, 0], [3.0]]
)
def test_no_gains_are_too_alike_too_large_or_too_few(gains):
    known = [(float(i), (i / 5,), gain) for i, gain in enumerate(gains)]
    assert 0 <= choose_candidate(LINE, 5.0, known, [(5.0, (0.5,))]) < len(LINE)


# The scheduler


def trials(size, config):
    return [
        SimpleNamespace(trial_id=f"t{i}", config=config(i), checkpoint="checkpoint")
        for i in range(size)
    ]


def play(scheduler, seed, gain, *, size=8, rounds=25, dimension=2):
    """Let a population train; return its best score and the configurations that were made."""
    rng = random.Random(seed)
    scheduler.begin(seed)
    population = trials(size, lambda _: {f"x{k}": 0.3 * rng.random() for k in range(dimension)})
    for trial in population:
        scheduler.on_trial_add(trial)
    scheduler.on_trial_resume(population[0])
    scores = dict.fromkeys((trial.trial_id for trial in population), 0.0)
    made = []
    for time in range(1, rounds * INTERVAL + 1):
        for trial in population:
            scores[trial.trial_id] += gain(trial.config)
            row = {"training_iteration": time, "score": scores[trial.trial_id]}
            verdict = scheduler.on_trial_result(trial, row)
            if isinstance(verdict, Exploit):
                scores[trial.trial_id] = scores[verdict.donor]
                trial.config = verdict.config
                made.append(verdict.config)
    return max(scores.values()), made


def distance(config):
    return math.sqrt(statistics.fmean((x - 0.7) ** 2 for x in config.values()))


def test_it_comes_nearer_to_the_best_and_gains_more_than_pbt_and_chance():
    def gain(config):
        return 1 - sum((x - 0.7) ** 2 for x in config.values())

    def others(probability):
        mutations = {f"x{k}": tune.uniform(0, 1) for k in range(2)}
        return PopulationBasedTraining(
            "training_iteration", "score", "max", INTERVAL, mutations,
            resample_probability=probability,
        )  # fmt: skip

    bounds = {f"x{k}": [0, 1] for k in range(2)}
    makers = {
        "pb2": lambda: pb2(hyperparam_bounds=bounds),
        "pbt": lambda: others(0.25),
        "chance": lambda: others(1.0),
    }
    best, away = {}, {}
    for name, make in makers.items():
        played = [play(make(), seed, gain) for seed in range(6)]
        best[name] = statistics.fmean(score for score, _ in played)
        last = [config for _, made in played for config in made[-6:]]
        away[name] = statistics.fmean(map(distance, last))
    assert best["pb2"] > max(best["pbt"], best["chance"]), best
    assert away["pb2"] < 0.8 * min(away["pbt"], away["chance"]), away


def test_it_chooses_the_same_again_from_the_same_seed_and_other_things_from_another():
    def gain(config):
        return config["x0"]

    made = [play(pb2(), seed, gain, dimension=1, rounds=8)[1] for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]


def exploit_of(scheduler, config, scores=(1.0, 0.0)):
    """Let the second of two trials take over from the first."""
    scheduler.begin(0)
    first, second = trials(2, lambda _: config)
    scheduler.on_trial_add(first)
    scheduler.on_trial_add(second)
    scheduler.on_trial_resume(first)
    for trial, score in zip((first, second), scores, strict=True):
        for time in range(1, INTERVAL + 1):
            row = {"training_iteration": time, "score": score * time}
            verdict = scheduler.on_trial_result(trial, row)
    return verdict


def test_ints_stay_ints_and_what_is_nested_or_not_mentioned_stays_where_it_is():
    bounds = {"n": [10, 1000], "model": {"lr": tune.loguniform(1e-4, 1e-1)}}
    config = {"n": 500, "model": {"lr": 0.01, "depth": 3}, "seed": 7}
    found = exploit_of(pb2(hyperparam_bounds=bounds), config).config
    assert type(found["n"]) is int
    assert 10 <= found["n"] <= 1000
    assert 1e-4 <= found["model"]["lr"] <= 1e-1
    assert (found["model"]["depth"], found["seed"]) == (3, 7)
    assert found != config
    assert config == {"n": 500, "model": {"lr": 0.01, "depth": 3}, "seed": 7}


@pytest.mark.parametrize("config", [{}, {"x0": "text"}, {"x0": None}, {"x0": 50.0}])
def test_what_a_config_lacks_or_has_out_of_bounds_is_chosen_all_the_same(config):
    assert 0 <= exploit_of(pb2(), config).config["x0"] <= 1


def test_the_users_function_has_the_last_word():
    scheduler = pb2(custom_explore_fn=lambda config: config | {"x0": 0.125})
    assert exploit_of(scheduler, {"x0": 0.5}).config == {"x0": 0.125}


def test_scores_that_are_no_numbers_are_not_learnt_from():
    scheduler = pb2()
    scores = [float("nan"), float("inf"), -float("inf"), 1.0]
    scheduler.begin(0)
    population = trials(4, lambda i: {"x0": i / 4})
    for trial in population:
        scheduler.on_trial_add(trial)
    scheduler.on_trial_resume(population[0])
    for time in range(1, 6 * INTERVAL):
        for trial, score in zip(population, scores, strict=True):
            scheduler.on_trial_result(trial, {"training_iteration": time, "score": score})
    # The one trial with numbers, three intervals of the one configuration that it has.
    assert "the model has 3 intervals" in scheduler.debug_string()


def test_it_learns_from_the_last_200_intervals():
    scheduler = pb2(quantile_fraction=0)
    scheduler.begin(0)
    (trial,) = trials(1, lambda _: {"x0": 0.0})
    scheduler.on_trial_add(trial)
    for time in range(1, 1200):
        trial.config = {"x0": (time // INTERVAL) / 300}
        scheduler.on_trial_result(trial, {"training_iteration": time, "score": time})
    assert "has 200 intervals" in scheduler.debug_string()


def test_without_numpy_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "asynctune.schedulers._gp")
    monkeypatch.delattr(sys.modules["asynctune.schedulers"], "_gp")
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ConfigError, match=r"PB2 needs numpy; pip install 'asynctune\[pb2\]'"):
        pb2()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("hyperparam_bounds", None), ("hyperparam_bounds", {}), ("hyperparam_bounds", [0, 1]),
        ("hyperparam_bounds", {"x": 3}), ("hyperparam_bounds", {"x": [0]}),
        ("hyperparam_bounds", {"x": [0, 1, 2]}), ("hyperparam_bounds", {"x": [1, 0]}),
        ("hyperparam_bounds", {"x": [1, 1]}), ("hyperparam_bounds", {"x": [0, float("nan")]}),
        ("hyperparam_bounds", {"x": [0, float("inf")]}), ("hyperparam_bounds", {"x": [False, True]}),
        ("hyperparam_bounds", {"x": ["0", "1"]}), ("hyperparam_bounds", {"x": {}}),
        ("hyperparam_bounds", {"x": {"y": [2, 1]}}), ("hyperparam_bounds", {"x": tune.randint(0, 3)}),
        ("hyperparam_bounds", {"x": tune.quniform(0, 1, 0.5)}), ("hyperparam_bounds", {"x": lambda: 1}),
        ("hyperparam_bounds", {"x": tune.grid_search([0, 1])}), ("hyperparam_bounds", {"x": [0, 10**400]}),
        ("time_attr", ""), ("perturbation_interval", 0), ("quantile_fraction", 0.6), ("log_config", 1),
        ("custom_explore_fn", 3), ("mode", "best"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_its_name(argument, value):
    with pytest.raises(ConfigError, match=f"{argument}.* of PB2"):
        pb2(**{argument: value})
