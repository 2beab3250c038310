"""What holds of PBT, PB2 and the replay for every population, whatever happens to it."""

from __future__ import annotations

import json
import math

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import asynctune as tune
from asynctune.callbacks.pbt_policies import PbtPolicyFiles
from asynctune.experiment import events as ev
from asynctune.schedulers import Decision, Exploit
from asynctune.schedulers._explore import check_mutations, explore
from asynctune.schedulers.pb2 import PB2
from asynctune.schedulers.pbt import PopulationBasedTraining
from asynctune.schedulers.pbt_replay import PopulationBasedTrainingReplay
from asynctune.testing.scripts import Script, curve, play, replay

# Nothing here is about time, and other work may slow the machine down.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
INTERVAL = 3
MOST_ROWS = 12
BOUNDS = {"x": (0.1, 10.0), "n": (1, 8), "kind": ("a", "b", "c")}

scores = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(allow_nan=True, allow_infinity=True),
)


@st.composite
def scripts(draw):
    least = draw(st.sampled_from([0, MOST_ROWS]))
    rows = draw(st.lists(scores, min_size=least, max_size=MOST_ROWS))
    times = draw(
        st.one_of(
            st.none(),
            st.lists(st.integers(1, 4), min_size=len(rows), max_size=len(rows)).map(
                lambda steps: [sum(steps[: i + 1]) for i in range(len(steps))]
            ),
        )
    )
    at = st.integers(0, MOST_ROWS)
    return Script(
        rows=curve(rows, times=times),
        config={
            "x": draw(st.floats(*BOUNDS["x"])),
            "n": draw(st.integers(*BOUNDS["n"])),
            "kind": draw(st.sampled_from(BOUNDS["kind"])),
        },
        fails_after=draw(st.lists(at, max_size=2)),
        retries=draw(st.integers(0, 2)),
        saves_every=draw(st.integers(0, 3)),
        pauses_after=draw(st.lists(at, max_size=2)),
        is_given_up=draw(st.booleans()),
        never_starts=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def makers(draw):
    quantile = draw(st.sampled_from([0, 0.1, 0.25, 0.5]))
    if draw(st.booleans()):
        return lambda: PB2(
            "training_iteration", None, None, INTERVAL, {"x": list(BOUNDS["x"]), "n": [1, 8]},
            quantile_fraction=quantile,
        )  # fmt: skip
    mutations = {
        "x": tune.loguniform(*BOUNDS["x"]),
        "n": tune.randint(1, 9),
        "kind": list(BOUNDS["kind"]),
    }
    resample = draw(st.sampled_from([0, 0.25, 1]))
    return lambda: PopulationBasedTraining(
        "training_iteration", None, None, INTERVAL, mutations,
        quantile_fraction=quantile, resample_probability=resample,
    )  # fmt: skip


@st.composite
def games(draw):
    """Draw a scheduler, and play a population with it."""
    make = draw(makers())
    played = play(
        make,
        draw(st.lists(scripts(), min_size=1, max_size=7)),
        slots=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**32)),
        mode=draw(st.sampled_from(["min", "max"])),
        crashes_after=draw(st.lists(st.integers(1, 40), max_size=2, unique=True)),
    )
    return make, played


@calm
@given(games())
def test_every_trial_ends_and_what_it_is_given_is_as_it_may_be(game):
    _, played = game
    assert all(trial.status.is_final for trial in played.trials.values())
    sign = 1 if played.objective[1] == "max" else -1
    reported, saved, ended = {}, set(), set()
    for step in played.steps:
        event = getattr(step, "event", None)
        if isinstance(event, ev.Checkpointed | ev.Exploited):
            saved.add(event.trial_id)
        elif isinstance(event, ev.TrialEnded):
            ended.add(event.trial_id)
        if getattr(step, "method", "") != "on_trial_result":
            continue
        score = sign * step.given["score"]
        score = -math.inf if math.isnan(score) else score
        reported.setdefault(step.trial_id, set()).add(score)
        if isinstance(step.answer, Exploit):
            check_config(step.answer.config)
            donor = step.answer.donor
            assert donor != step.trial_id
            assert donor in saved
            assert donor not in ended
            # It has at some time been at least as good as the one that takes over, and not NaN.
            assert max(reported[donor]) >= score
            assert max(reported[donor]) > -math.inf


def check_config(config):
    assert BOUNDS["x"][0] <= config["x"] <= BOUNDS["x"][1]
    assert type(config["n"]) is int
    assert BOUNDS["n"][0] <= config["n"] <= BOUNDS["n"][1]
    assert config["kind"] in BOUNDS["kind"]


@calm
@given(games(), st.floats(0, 1))
def test_a_new_one_that_is_told_the_same_answers_the_same(game, share):
    make, played = game
    again = replay(played, make)
    # A resume asks nothing of what was before.
    assert replay(played, make, asked_from=len(played.steps)).debug_string() == again.debug_string()
    # Who has been told only the beginning answers the same up to there: nothing depends on the future.
    steps = played.steps[: int(share * len(played.steps))]
    replay(type(played)(steps, {}, played.objective, played.seed), make)


@calm
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=9, max_size=9), min_size=5, max_size=8),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_no_trial_is_two_turns_ahead_while_another_waits(curves, slots, seed):
    played = play(
        lambda: PopulationBasedTraining(
            "training_iteration", None, None, INTERVAL, {"x": [1, 2]}, quantile_fraction=0
        ),
        [Script(curve(scores), {"x": 1}) for scores in curves],
        slots=slots,
        seed=seed,
    )
    reached, running = dict.fromkeys(played.trials, 0), set()
    for step in played.steps:
        event = getattr(step, "event", None)
        if isinstance(event, ev.TrialStarted):
            running.add(event.trial_id)
        elif isinstance(event, ev.TrialPaused | ev.TrialEnded):
            running.discard(event.trial_id)
        elif getattr(step, "method", "") == "on_trial_result":
            reached[step.trial_id] = step.given["training_iteration"]
        at = {name: number // INTERVAL for name, number in reached.items()}
        # Nobody waits for one that has a slot and is slow.
        waiting = [turn for name, turn in at.items() if name not in running]
        assert max(at.values()) - min(waiting, default=max(at.values())) <= 2


values = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=3), st.none(), st.booleans(),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@calm
@given(
    st.dictionaries(st.sampled_from("abcdef"), values),
    st.randoms(use_true_random=False),
    st.floats(0, 1),
    st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
)
def test_whatever_was_there_explore_gives_what_the_samplers_can(config, rng, probability, factors):
    mutations = check_mutations(
        "m",
        {
            "a": tune.uniform(-1, 1), "b": tune.qrandint(4, 64, 4), "c": tune.loguniform(1e-3, 1),
            "d": tune.choice(["x", "y"]), "e": {"z": tune.quniform(0, 1, 0.25)},
        },
    )  # fmt: skip
    config = {**config, "e": {"z": config.get("e")}}
    before = json.dumps(config)
    fresh = explore(config, mutations, rng, probability, factors)
    assert json.dumps(config) == before
    assert -1 <= fresh["a"] <= 1
    assert fresh["b"] in range(4, 65, 4)
    assert 1e-3 <= fresh["c"] <= 1
    assert fresh["d"] in ("x", "y")
    assert fresh["e"]["z"] in (0, 0.25, 0.5, 0.75, 1)
    if "f" in config:
        assert json.dumps(fresh["f"]) == json.dumps(config["f"])


@settings(calm, max_examples=30)
@given(
    st.lists(
        st.lists(st.floats(-5, 5), min_size=MOST_ROWS, max_size=MOST_ROWS), min_size=2, max_size=6
    ),
    st.integers(0, 2**32),
)
@example(  # a trial that takes over the same state twice, with the same new configuration
    [
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0] * 12,
        [0.0] * 12,
    ],
    89258,
)
def test_a_policy_file_replays_the_configurations_of_its_trial(tmp_path_factory, curves, seed):
    directory = tmp_path_factory.mktemp("policies")
    played = play(
        lambda: PopulationBasedTraining(
            "training_iteration", None, None, INTERVAL, {"x": tune.uniform(0, 1)},
            quantile_fraction=0.5,
        ),
        [Script(curve(scores), {"x": i / 10}) for i, scores in enumerate(curves)],
        slots=2, seed=seed,
    )  # fmt: skip
    files = PbtPolicyFiles(directory)
    # Iteration -> configuration, along the descent of each trial's state.
    line = {name: {} for name in played.trials}
    current = {name: {"x": i / 10} for i, name in enumerate(played.trials)}
    saved = {}
    for step in played.steps:
        event = getattr(step, "event", None)
        if isinstance(event, ev.Reported):
            line[event.trial_id][event.row["training_iteration"]] = current[event.trial_id]
        elif isinstance(event, ev.Checkpointed):
            saved[event.path] = dict(line[event.trial_id])
        elif isinstance(event, ev.Exploited):
            files.append(event)
            line[event.trial_id] = dict(saved[event.checkpoint])
            current[event.trial_id] = event.config
    for name, trial in played.trials.items():
        if not trial.lineage:
            continue
        scheduler = PopulationBasedTrainingReplay(directory / f"pbt_policy_{name}.txt")
        again = play(
            lambda scheduler=scheduler: scheduler, [Script(curve([0.0] * 50), scheduler.config)]
        )
        now, found = scheduler.config, {}
        for call in again.calls:
            if call.method == "on_trial_result":
                found[call.given["training_iteration"]] = now
                if call.answer != Decision.CONTINUE:
                    now = call.answer.config
        assert {at: found[at] for at in line[name]} == line[name]
