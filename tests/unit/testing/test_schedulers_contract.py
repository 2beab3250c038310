"""The driver that plays runs for schedulers: what it does, and that it catches each broken promise."""

from __future__ import annotations

import random

import pytest

from asynctune.errors import ConfigError
from asynctune.experiment import events as ev
from asynctune.schedulers import Exploit, FIFOScheduler, TrialScheduler
from asynctune.testing.scripts import ContractBroken, Happened, Script, curve, play, replay

THREE = [Script(curve([1, 2, 3])) for _ in range(3)]


class Pauses(TrialScheduler):
    needs_checkpoints = True

    def on_trial_result(self, trial, result):
        return self.PAUSE


def told(played, trial_id):
    """The methods that were called about a trial."""
    return [
        call.method.removeprefix("on_trial_") for call in played.calls if call.trial_id == trial_id
    ]


def iterations(played, trial_id):
    return [
        call.given["training_iteration"]
        for call in played.calls
        if call.method == "on_trial_result" and call.trial_id == trial_id
    ]


def events(played, *kinds):
    return [
        step.event
        for step in played.steps
        if isinstance(step, Happened) and isinstance(step.event, kinds)
    ]


def test_each_trial_is_told_from_its_beginning_to_its_end():
    played = play(FIFOScheduler, THREE)
    for name in ("t0", "t1", "t2"):
        assert told(played, name) == ["add", "result", "result", "result", "complete"]
        assert played.verdicts(name) == ["CONTINUE"] * 3
        assert played.trials[name].status == "TERMINATED"
        assert played.trials[name].last_result["score"] == 3


def test_no_more_trials_run_at_once_than_there_are_slots():
    played = play(Pauses, THREE * 3, slots=2)
    running = most = 0
    for event in events(played, ev.TrialStarted, ev.TrialPaused, ev.TrialEnded):
        running += {"trial_started": 1, "trial_paused": -1, "trial_ended": -1}[event.kind]
        most = max(most, running)
    assert (running, most) == (0, 2)


def test_the_seed_decides_who_is_faster_and_nothing_else_does():
    assert play(FIFOScheduler, THREE, seed=1).steps == play(FIFOScheduler, THREE, seed=1).steps
    assert play(FIFOScheduler, THREE, seed=1).steps != play(FIFOScheduler, THREE, seed=2).steps


def test_a_curve_has_the_times_that_it_is_given():
    assert curve([5, 6], metric="loss", times=[2, 4]) == (
        {"loss": 5, "training_iteration": 2, "time_total_s": 2.0},
        {"loss": 6, "training_iteration": 4, "time_total_s": 4.0},
    )


def test_a_retry_goes_back_to_the_newest_checkpoint_or_to_the_beginning():
    rows = curve([1, 2, 3, 4])
    played = play(FIFOScheduler, [Script(rows, fails_after=[3], retries=1, saves_every=2)])
    assert iterations(played, "t0") == [1, 2, 3, 3, 4]
    assert len(played.trials["t0"].results) == 4
    played = play(FIFOScheduler, [Script(rows, fails_after=[3], retries=1)])
    assert iterations(played, "t0") == [1, 2, 3, 1, 2, 3, 4]


def test_a_trial_that_fails_too_often_has_failed():
    played = play(FIFOScheduler, [Script(curve([1, 2]), fails_after=[0, 1], retries=1)])
    assert told(played, "t0") == ["add", "result", "error"]
    assert played.trials["t0"].status == "ERROR"


def test_a_save_that_fails_is_a_pause_that_does_not_happen():
    played = play(Pauses, [Script(curve([1, 2]), fails_after=[1], retries=1)])
    assert told(played, "t0") == ["add", *["result"] * 2, "resume", "result", "resume", "complete"]
    assert iterations(played, "t0") == [1, 1, 2]


def test_who_is_paused_by_hand_goes_on_later_or_is_ended():
    scripts = [
        Script(curve([1, 2, 3]), pauses_after=[2]),
        Script(curve([1, 2, 3]), pauses_after=[2], is_given_up=True),
        Script(never_starts=True),
    ]
    played = play(FIFOScheduler, scripts)
    assert told(played, "t0") == ["add", "result", "result", "resume", "result", "complete"]
    assert told(played, "t1") == ["add", "result", "result", "complete"]
    assert told(played, "t2") == ["add", "remove"]
    assert all(event.by_hand for event in events(played, ev.TrialPaused))


def test_a_crash_takes_what_runs_back_and_tells_a_new_scheduler_the_same():
    made = []

    def make():
        made.append(Pauses())
        return made[-1]

    played = play(make, [Script(curve([1, 2, 3, 4]))] * 3, crashes_after=[2, 5])
    assert len(made) == 3
    assert all(trial.status == "TERMINATED" for trial in played.trials.values())
    fifo = play(FIFOScheduler, [Script(curve([1, 2, 3]), saves_every=2)], crashes_after=[3])
    assert iterations(fifo, "t0") == [1, 2, 3, 3]
    assert len(events(fifo, ev.TrialReopened)) == 1


def test_an_exploit_goes_on_from_the_checkpoint_of_the_donor():
    class FromFirst(TrialScheduler):
        needs_checkpoints = True

        def on_trial_result(self, trial, result):
            if trial.trial_id == "t0":
                return self.SAVE
            if not trial.lineage and result["training_iteration"] == 1:
                return Exploit("t0", {"x": 1})
            return self.CONTINUE

    played = play(FromFirst, [Script(curve([1, 2, 3, 4])), Script(curve([5, 6, 7, 8]))], slots=1)
    (descent,) = played.trials["t1"].lineage
    assert (descent.donor, descent.iteration) == ("t0", 4)
    assert played.trials["t1"].config == {"x": 1}
    assert iterations(played, "t1") == [1], "the donor was at its end"


def test_nobody_who_is_paused_at_the_last_chance_is_forgotten():
    class Forgets(Pauses):
        def choose(self, free):
            return None

    played = play(Forgets, THREE)
    assert all(told(played, name) == ["add", "result", "complete"] for name in played.trials)


def test_a_replay_gives_the_scheduler_that_was_told_the_same():
    class Counts(FIFOScheduler):
        count = 0

        def on_trial_result(self, trial, result):
            self.count += 1
            return self.CONTINUE

    assert replay(play(Counts, THREE), Counts).count == 9


class ChoosesAnyone(Pauses):
    def choose(self, free):
        return "t99"


class ChangesItsMind(Pauses):
    asked = 0

    def choose(self, free):
        self.asked += 1
        return free.paused[0] if self.asked % 2 else None


class DismissesTheRunning(TrialScheduler):
    def __init__(self):
        super().__init__()
        self.names = []

    def on_trial_add(self, trial):
        self.names.append(trial.trial_id)

    def dismissed(self):
        return self.names


class DismissesOnce(Pauses):
    def begin(self, seed):
        self.names = []

    def on_trial_result(self, trial, result):
        self.names.append(trial.trial_id)
        return self.PAUSE

    def dismissed(self):
        names, self.names = self.names, []
        return names


class SaysNonsense(TrialScheduler):
    def on_trial_result(self, trial, result):
        return "GO ON"


class PausesUnannounced(TrialScheduler):
    def on_trial_result(self, trial, result):
        return self.PAUSE


class ExploitsNobody(Pauses):
    def on_trial_result(self, trial, result):
        return Exploit("t99", {})


class ExploitsTheUnsaved(Pauses):
    def on_trial_result(self, trial, result):
        return Exploit("t1" if trial.trial_id == "t0" else "t0", {})


class SaysNothing(FIFOScheduler):
    def debug_string(self):
        return ""


class GoesInCircles(Pauses):
    """Lets everybody begin from the first one, again and again, and that one wait."""

    def begin(self, seed):
        self.first = None

    def on_trial_add(self, trial):
        self.first = self.first or trial

    def on_trial_result(self, trial, result):
        if trial is self.first:
            return self.PAUSE
        return Exploit("t0", {}) if self.first.checkpoint else self.CONTINUE

    def choose(self, free):
        return None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (ChoosesAnyone, r"ChoosesAnyone\.choose\(\) returned 't99'"),
        (ChangesItsMind, r"ChangesItsMind\.choose\(\) returned 't\d', and then None"),
        (DismissesTheRunning, r"DismissesTheRunning\.dismissed\(\) returned \['t0'.*not paused"),
        (DismissesOnce, r"DismissesOnce\.dismissed\(\) returned another answer"),
        (SaysNonsense, r"SaysNonsense\.on_trial_result\(\) returned 'GO ON'"),
        (
            PausesUnannounced,
            r"PausesUnannounced\.on_trial_result\(\) returned PAUSE, but needs_checkpoints is F",
        ),
        (ExploitsNobody, r"ExploitsNobody made 't99' the donor of t\d"),
        (
            ExploitsTheUnsaved,
            r"ExploitsTheUnsaved made 't\d' the donor of t\d, but 't\d' has no check",
        ),
        (SaysNothing, r"SaysNothing\.debug_string\(\) returned an empty text"),
        (
            GoesInCircles,
            r"run with GoesInCircles has not ended after 500 steps; unfinished trials: t",
        ),
    ],
)
def test_a_broken_promise_is_caught(make, said):
    with pytest.raises(ContractBroken, match=said):
        play(make, THREE * 3, most_steps=500)


def test_a_scheduler_that_rolls_its_own_dice_is_caught_by_a_replay():
    dice = random.Random(0)

    class Rolls(TrialScheduler):
        def on_trial_result(self, trial, result):
            return self.STOP if dice.random() < 0.3 else self.CONTINUE

    played = play(Rolls, THREE * 3)
    with pytest.raises(ContractBroken, match=r"after the same calls Rolls\.on_trial_result"):
        replay(played, Rolls)


def test_a_scheduler_that_learns_from_being_asked_is_caught_by_a_replay_that_does_not_ask():
    class Learns(Pauses):
        asked = ()

        def choose(self, free):
            self.asked = free.paused
            return free.paused[0]

        def on_trial_result(self, trial, result):
            return self.STOP if len(self.asked) == 1 else self.PAUSE

    played = play(Learns, THREE)
    replay(played, Learns)
    with pytest.raises(ContractBroken, match=r"Learns\.on_trial_result\(t\d\) returned .*PAUSE"):
        replay(played, Learns, asked_from=len(played.steps))


def test_it_needs_a_slot():
    with pytest.raises(ConfigError, match=r"slots of play\(\) must be at least 1, got 0"):
        play(FIFOScheduler, THREE, slots=0)
