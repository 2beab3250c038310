"""The rules of population based training, with numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import asynctune as tune
from asynctune.errors import ConfigError, MetricMissing, TuneError
from asynctune.schedulers import Decision, Exploit, Free
from asynctune.schedulers.pbt import PopulationBasedTraining

CONTINUE, PAUSE, SAVE = Decision.CONTINUE, Decision.PAUSE, Decision.SAVE


def pbt(**arguments):
    given = {
        "time_attr": "training_iteration", "metric": "score", "mode": "max", "perturbation_interval": 4,
        "hyperparam_mutations": {"lr": [1, 2, 3]}, "resample_probability": 0,
    }  # fmt: skip
    return PopulationBasedTraining(**(given | arguments))


class Population:
    """A scheduler and its trials, which are called a, b, c, ...; no new one waits unless said so."""

    def __init__(self, scheduler, size, *, more=False, saved=True):
        self.scheduler = scheduler
        scheduler.bind(None, None)
        scheduler.begin(7)
        self.trials = {
            name: SimpleNamespace(
                trial_id=name,
                config={"lr": 2, "name": name},
                checkpoint="checkpoint" if saved else None,
            )
            for name in "abcdefgh"[:size]
        }
        for trial in self.trials.values():
            scheduler.on_trial_add(trial)
        if not more:
            scheduler.on_trial_resume(self.trials["a"])

    def tells(self, name, time, score):
        row = {"training_iteration": time, "score": score}
        return self.scheduler.on_trial_result(self.trials[name], row)

    def choose(self, *paused, fresh=False):
        return self.scheduler.choose(Free(paused=paused, fresh=fresh, running=0))


def test_nothing_happens_before_the_interval_is_over():
    population = Population(pbt(), 4)
    for time in (1, 2, 3, 3.99):
        assert {population.tells(name, time, time) for name in "abcd"} == {CONTINUE}


def test_the_worst_takes_over_from_the_best_and_the_best_is_saved():
    population = Population(pbt(), 4)
    assert population.tells("a", 4, 1.0) == CONTINUE  # alone, it is neither good nor bad
    assert population.tells("b", 4, 4.0) == SAVE
    assert population.tells("c", 4, 2.0) == CONTINUE
    exploit = population.tells("d", 4, 0.0)
    assert isinstance(exploit, Exploit)
    assert exploit.donor == "b"
    assert exploit.config in ({"lr": 1, "name": "b"}, {"lr": 3, "name": "b"})
    assert population.trials["b"].config == {"lr": 2, "name": "b"}


def test_with_mode_min_less_is_better():
    population = Population(pbt(mode="min"), 2)
    population.tells("a", 4, 1.0)
    assert population.tells("b", 4, 2.0).donor == "a"


@pytest.mark.parametrize(
    ("size", "fraction", "count"),
    [
        (2, 0.25, 1),
        (3, 0.5, 1),
        (4, 0.25, 1),
        (5, 0.25, 2),
        (8, 0.25, 2),
        (8, 0.5, 4),
        (8, 0.01, 1),
    ],
)
def test_a_quantile_is_rounded_up_and_at_most_the_half(size, fraction, count):
    population = Population(pbt(quantile_fraction=fraction), size)
    names = list(population.trials)
    for name in names:
        population.tells(name, 4, 10.0)
    verdicts = [population.tells(name, 8, 100.0 + rank) for rank, name in enumerate(names)]
    # All of them have a score of their second perturbation now; in the third each is compared with those.
    scores = [100.0 + rank for rank in range(size)]
    verdicts = [
        population.tells(name, 12, score) for name, score in zip(names, scores, strict=True)
    ]
    kinds = [type(v) is Exploit for v in verdicts]
    assert kinds == [True] * count + [False] * (size - count)
    assert [v for v in verdicts if v == SAVE] == [SAVE] * count


def test_with_quantile_0_nobody_takes_over_or_is_saved():
    population = Population(pbt(quantile_fraction=0), 8)
    for time in (4, 8, 12):
        told = {population.tells(name, time, ord(name)) for name in population.trials}
        assert told == {CONTINUE}


def test_nan_is_the_worst_and_nobody_takes_over_from_it():
    nan = float("nan")
    population = Population(pbt(quantile_fraction=0.5), 4)
    assert population.tells("a", 4, nan) == CONTINUE
    assert population.tells("b", 4, nan) == CONTINUE  # the better half of two is NaN, too
    assert population.tells("c", 4, -1e300) == SAVE
    assert (
        population.tells("d", 4, nan) == CONTINUE
    )  # in the better half of four, but neither saved
    assert population.tells("a", 8, nan).donor == "c"


def test_infinite_scores_are_the_best_and_the_worst():
    inf = float("inf")
    population = Population(pbt(), 3)
    population.tells("a", 4, inf)
    assert population.tells("b", 4, -inf).donor == "a"
    assert population.tells("c", 4, 1.0) == CONTINUE


def test_who_has_no_checkpoint_or_has_ended_is_no_donor():
    population = Population(pbt(), 4, saved=False)
    population.tells("a", 4, 4.0)
    assert population.tells("b", 4, 1.0) == CONTINUE
    population.trials["a"].checkpoint = "checkpoint"
    assert population.tells("b", 8, 1.0).donor == "a"
    population.scheduler.on_trial_complete(population.trials["a"], {})
    assert population.tells("c", 4, 0.0) == CONTINUE


@pytest.mark.parametrize("end", ["on_trial_complete", "on_trial_error", "on_trial_remove"])
def test_whoever_ended_is_forgotten_and_waits_no_more(end):
    population = Population(pbt(), 2, more=True)
    assert population.tells("a", 4, 4.0) == PAUSE
    trial = population.trials["a"]
    getattr(population.scheduler, end)(*[trial, {}][: 1 + (end == "on_trial_complete")])
    population.scheduler.on_trial_resume(population.trials["b"])
    assert population.tells("b", 4, 0.0) == CONTINUE


def test_the_new_configuration_is_made_of_what_the_donor_has_now():
    population = Population(pbt(), 2)
    population.tells("a", 4, 4.0)
    population.trials["a"].config = {"lr": 3, "name": "changed"}
    assert population.tells("b", 4, 1.0).config["name"] == "changed"


def test_who_took_over_goes_on_where_the_donor_was():
    population = Population(pbt(), 2)
    population.tells("b", 4, 0.5)
    population.tells("a", 4, 1.0)
    population.tells("a", 8, 2.0)
    assert population.tells("b", 8, 0.5).donor == "a"
    assert [population.tells("b", time, 9.0) for time in (9, 10, 11)] == [CONTINUE] * 3
    assert population.tells("b", 12, 9.0) == SAVE
    # If the donor's newest checkpoint is that of time 4, it goes on at 5 and is due at 8.
    population.tells("a", 12, 10.0)
    assert population.tells("b", 16, 0.0).donor == "a"
    assert [population.tells("b", time, 99.0) for time in (5, 6, 7)] == [CONTINUE] * 3
    assert population.tells("b", 8, 99.0) == SAVE


def test_a_retry_that_comes_by_again_is_told_the_same_again():
    population = Population(pbt(), 3)
    population.tells("a", 4, 4.0)
    assert population.tells("b", 4, 1.0).donor == "a"  # its worker dies before it does
    assert population.tells("b", 3, 1.0) == CONTINUE
    assert population.tells("b", 4, 1.0).donor == "a"
    assert population.tells("a", 8, 4.0) == SAVE
    assert population.tells("a", 8, 4.0) == SAVE


def test_who_is_sent_back_again_and_again_goes_on_by_itself_at_last():
    population = Population(pbt(), 2)
    population.tells("a", 4, 4.0)
    told = []
    for _ in range(8):  # the donor's one checkpoint is that of time 2
        told.append(population.tells("b", 4, 1.0))
        population.tells("b", 3, 1.0)
    assert [isinstance(verdict, Exploit) for verdict in told] == [True] * 4 + [False] * 4
    assert isinstance(population.tells("b", 8, 1.0), Exploit)


# Turns


def test_the_population_takes_turns_when_it_is_larger_than_the_slots():
    population = Population(pbt(), 0, more=True)
    population.trials = Population(pbt(), 4).trials
    scheduler = population.scheduler
    for name, score in zip("abcd", (4.0, 5.0, 6.0, 7.0), strict=True):
        scheduler.on_trial_add(population.trials[name])
        assert population.tells(name, 4, score) == PAUSE
        assert population.choose(*"abcd"[: "abcd".index(name) + 1], fresh=name != "d") == (
            None if name != "d" else "a"
        )
    scheduler.on_trial_resume(population.trials["a"])
    assert population.tells("a", 8, 8.0) == PAUSE
    assert population.choose("b", "c", "d", "a") == "b"
    scheduler.on_trial_resume(population.trials["b"])
    assert population.tells("b", 9, 9.0) == PAUSE
    scheduler.on_trial_resume(population.trials["c"])
    scheduler.on_trial_resume(population.trials["d"])
    assert population.choose("b", "a") == "a"  # the one whose perturbation is the longest ago
    assert population.choose(fresh=True) is None
    assert population.choose("a", fresh=True) is None


def test_when_nobody_waits_nobody_pauses_again():
    population = Population(pbt(), 2, more=True)
    assert population.tells("a", 4, 4.0) == PAUSE  # there may be more
    assert population.choose("a") == "a"
    population.scheduler.on_trial_resume(population.trials["a"])
    assert population.tells("b", 4, 5.0) == SAVE
    assert population.tells("a", 8, 6.0) == SAVE


def test_who_took_over_keeps_its_slot_for_one_result_and_then_makes_way():
    population = Population(pbt(), 3, more=True)
    assert population.tells("a", 4, 4.0) == PAUSE
    assert population.tells("b", 4, 1.0).donor == "a"
    assert population.tells("b", 5, 1.0) == PAUSE
    assert population.tells("b", 5, 1.0) == PAUSE, "a retry is told the same"
    population.scheduler.on_trial_resume(population.trials["b"])
    assert population.tells("b", 6, 1.0) == CONTINUE


def test_who_took_over_when_nobody_waits_goes_on():
    population = Population(pbt(), 2)
    population.tells("a", 4, 4.0)
    population.tells("b", 4, 1.0)
    assert population.tells("b", 5, 1.0) == CONTINUE


def test_asking_who_goes_on_changes_nothing():
    population = Population(pbt(), 2, more=True)
    population.tells("a", 4, 4.0)
    before = population.scheduler.debug_string()
    assert [population.choose("a", "b") for _ in range(3)] == ["b"] * 3
    assert population.scheduler.debug_string() == before


# What its user gives it


def test_the_users_function_has_the_last_word():
    def halve(config):
        config["lr"] = 0.5
        config["name"] = "mine"
        return config

    population = Population(pbt(hyperparam_mutations=None, custom_explore_fn=halve), 2)
    population.tells("a", 4, 4.0)
    assert population.tells("b", 4, 1.0).config == {"lr": 0.5, "name": "mine"}
    assert population.trials["a"].config == {"lr": 2, "name": "a"}


@pytest.mark.parametrize("returned", [None, 3, [1]])
def test_a_function_that_returns_no_configuration_is_an_error(returned):
    population = Population(pbt(custom_explore_fn=lambda config: returned), 2)
    population.tells("a", 4, 4.0)
    with pytest.raises(
        TuneError,
        match=r"^custom_explore_fn of PopulationBasedTraining must return the configuration, a dict, got ",
    ):
        population.tells("b", 4, 1.0)


def test_a_function_that_raises_is_named_with_its_cause():
    population = Population(pbt(custom_explore_fn=lambda config: config["no"]), 2)
    population.tells("a", 4, 4.0)
    with pytest.raises(TuneError, match=r"custom_explore_fn .* raised KeyError: 'no'") as caught:
        population.tells("b", 4, 1.0)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "row", [{"training_iteration": 1}, {"score": 1.0}, {"score": "x", "training_iteration": 1}]
)
def test_a_result_without_metric_or_time_is_an_error_that_lists_what_it_has(row):
    population = Population(pbt(), 1)
    with pytest.raises(MetricMissing, match="it has") as caught:
        population.scheduler.on_trial_result(population.trials["a"], {**row, "other": 1})
    assert "other" in str(caught.value)


def test_it_says_what_goes_on():
    population = Population(pbt(mode="min"), 3, more=True)
    population.tells("a", 4, 4.0)
    population.tells("b", 4, 9.0)
    assert population.scheduler.debug_string() == (
        "PopulationBasedTraining: 1 exploits at 2 perturbations; 3 trials have not ended, 1 of them wait\n"
        "score: best 4 (a), worst 9 (b)"
    )


def test_it_takes_over_the_objective_of_the_run_and_cannot_do_without():
    scheduler = pbt(metric=None, mode=None)
    with pytest.raises(ConfigError, match="needs an objective"):
        scheduler.bind(None, None)
    assert pbt(metric=None, mode=None).bind("loss", "min").metric == "loss"
    assert scheduler.needs_checkpoints


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("time_attr", ""), ("time_attr", None), ("time_attr", 3),
        ("mode", "best"), ("metric", 3), ("metric", ""),
        ("perturbation_interval", 0), ("perturbation_interval", -1), ("perturbation_interval", True),
        ("perturbation_interval", float("nan")), ("perturbation_interval", float("inf")),
        ("perturbation_interval", "60"), ("perturbation_interval", None),
        ("hyperparam_mutations", {}), ("hyperparam_mutations", None), ("hyperparam_mutations", []),
        ("hyperparam_mutations", {"lr": 3}), ("hyperparam_mutations", {"lr": []}),
        ("hyperparam_mutations", {"a": {"lr": "abc"}}),
        ("hyperparam_mutations", {"lr": tune.grid_search([1])}),
        ("quantile_fraction", -0.1), ("quantile_fraction", 0.51), ("quantile_fraction", True),
        ("quantile_fraction", float("nan")), ("quantile_fraction", "0.25"),
        ("resample_probability", -0.1), ("resample_probability", 1.1), ("resample_probability", None),
        ("custom_explore_fn", 3), ("custom_explore_fn", lambda: 3),
        ("log_config", 1), ("log_config", "yes"),
        ("perturbation_factors", 1.2), ("perturbation_factors", (1.2,)), ("perturbation_factors", (1, 0)),
        ("perturbation_factors", (1.2, float("nan"))), ("perturbation_factors", ("1.2", 0.8)),
        ("perturbation_factors", {1.2: 0.8, 2: 3}), ("perturbation_factors", (True, 0.8)),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_its_name(argument, value):
    with pytest.raises(ConfigError, match=f"{argument}.* of PopulationBasedTraining"):
        pbt(**{argument: value})
