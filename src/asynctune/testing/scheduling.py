"""Plays a run for a scheduler, without executor, clock or event loop, and checks what it answers.

:func:`play` does what the runner does: it adds trials whose results a :class:`Script` holds, asks and obeys
the scheduler, and lets trials fail, be tried again from their checkpoints, be paused and resumed by
hand, and whole drivers die. Everything follows from a seed. :func:`replay` tells another instance the same
again, as a resume does, and compares each answer. What is against the contract of
:class:`~asynctune.schedulers.TrialScheduler` is a :class:`ContractBroken`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asynctune.errors import ConfigError
from asynctune.experiment import events as ev
from asynctune.experiment.status import Status, StopReason
from asynctune.experiment.trial import Trial
from asynctune.result import TIME_TOTAL_S, TRAINING_ITERATION, Row, flatten
from asynctune.schedulers import Decision, Exploit, Free, TrialScheduler, Verdict
from asynctune.testing.contract import Call, ContractBroken, Happened, Played, Told

__all__ = ["Call", "ContractBroken", "Happened", "Played", "Script", "curve", "play", "replay"]

_MOST_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Script:
    """What becomes of a trial, if it is let.

    Args:
        rows: What it reports; then it ends by itself.
        config: Its configuration.
        fails_after: After how many rows an attempt fails, before the decision about the last of them is
            obeyed; each entry counts once.
        retries: How many failures are forgiven. A retry goes back to the newest checkpoint.
        saves_every: After how many rows it is saved by itself; 0: never.
        pauses_after: After how many rows its user pauses it; each entry counts once. Its user lets it go on
            at some later time.
        is_given_up: Whether its user ends it when it is paused by hand, rather than let it go on.
        never_starts: Whether it is removed before it starts.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    fails_after: Sequence[int] = ()
    retries: int = 0
    saves_every: int = 0
    pauses_after: Sequence[int] = ()
    is_given_up: bool = False
    never_starts: bool = False


def curve(
    scores: Sequence[float], *, metric: str = "score", times: Sequence[float] | None = None
) -> tuple[Row, ...]:
    """Return the rows of a trial.

    Args:
        scores: The objective, row by row.
        metric: Its name.
        times: The ``training_iteration`` of each; by default 1, 2, 3, ... ``time_total_s`` is the same.
    """
    known = range(1, len(scores) + 1) if times is None else times
    return tuple(
        {metric: score, TRAINING_ITERATION: time, TIME_TOTAL_S: float(time)}
        for score, time in zip(scores, known, strict=True)
    )


def play(
    make: Callable[[], TrialScheduler],
    scripts: Sequence[Script],
    *,
    slots: int = 2,
    seed: int = 0,
    metric: str | None = "score",
    mode: str | None = "max",
    crashes_after: Collection[int] = (),
    most_steps: int = _MOST_STEPS,
) -> Played:
    """Play a run to its end.

    Args:
        make: Makes the scheduler; called once, and once more after each crash.
        scripts: The trials, in the order in which they are drawn; their ids are ``t0``, ``t1`` and so on.
        slots: How many trials run at once.
        seed: Who is faster, and what the scheduler begins with.
        metric: The objective of the run.
        mode: That of the run.
        crashes_after: After how many results the driver dies and is resumed.
        most_steps: How many steps a run is expected to need at most.

    Raises:
        ContractBroken: The scheduler broke its contract, or the run does not end.
    """
    if slots < 1:
        raise ConfigError(f"slots of play() is {slots}; at least 1 is wanted")

    def begun() -> Told:
        return Told(make, (metric, mode), seed, most_steps)

    run = _Play(begun, scripts, slots, random.Random(seed))
    run.play(crashes_after)
    return Played(tuple(run.told.steps), run.trials, (metric, mode), seed)


def replay(
    played: Played, make: Callable[[], TrialScheduler], *, asked_from: int = 0
) -> TrialScheduler:
    """Tell a new scheduler what another was told, and compare what it answers.

    Args:
        played: What the other was told and answered.
        make: Makes the new one.
        asked_from: The first step at which it is also asked; a resume asks nothing of what was before.

    Returns:
        The new one.

    Raises:
        ContractBroken: It answered something else.
    """
    told = Told(make, played.objective, played.seed, len(played.steps))
    told.again(played.steps, asked_from)
    return told.scheduler


class _Play:
    """A run that is being played."""

    def __init__(
        self, begun: Callable[[], Told], scripts: Sequence[Script], slots: int, rng: random.Random
    ) -> None:
        self._begun = begun
        self._scripts = {f"t{number}": script for number, script in enumerate(scripts)}
        self._fresh = list(self._scripts)[::-1]
        self._slots = slots
        self._rng = rng
        self._fails = {name: list(script.fails_after) for name, script in self._scripts.items()}
        self._pauses = {name: list(script.pauses_after) for name, script in self._scripts.items()}
        self._positions: dict[
            str, int
        ] = {}  # how many rows a trial, or a checkpoint, has behind it
        self._paused: dict[str, None] = {}
        self._held: dict[str, None] = {}
        self._wants_slot: list[str] = []
        self.told = begun()
        self.trials = self.told.trials

    # -- the run -------------------------------------------------------------------------------------

    def play(self, crashes_after: Collection[int]) -> None:
        """Play it to its end."""
        results, crashes = 0, set(crashes_after)
        while self._admit():
            running = self._running()
            if running and (not self._held or self._rng.random() < 0.8):
                results += self._step(self.trials[self._rng.choice(running)])
                if results in crashes:
                    crashes.remove(results)
                    self._crash()
            else:
                self._use_hand(self._rng.choice(list(self._held)))
            if not self.told.scheduler.debug_string():
                raise ContractBroken(f"{self.told.name}.debug_string() says nothing")

    def _running(self) -> list[str]:
        return [
            trial_id
            for trial_id, trial in self.trials.items()
            if trial_id not in self._paused and not trial.status.is_final
        ]

    def _admit(self) -> bool:
        """Give slots away, as the runner does; tell whether anything is left to happen."""
        while True:
            self._end_dismissed()
            running = len(self._running())
            if running >= self._slots:
                return True
            if self._wants_slot:
                self._resume(self._wants_slot.pop(0))
                continue
            free = Free(
                paused=tuple(name for name in self._paused if name not in self._held),
                fresh=bool(self._fresh),
                running=running + len(self._held),
            )
            chosen = self.told.choose(free) if self._paused else None
            if chosen is not None:
                self._resume(chosen)
            elif self._fresh:
                self._add(self._fresh.pop())
            else:
                if free.is_last_chance:
                    for name in free.paused:
                        self._end(self.trials[name], StopReason.SCHEDULER)
                return bool(running or self._held)

    def _step(self, trial: Trial) -> int:
        """Let a trial report, fail or end; return how many results that were."""
        script, here = self._scripts[trial.trial_id], self._positions[trial.trial_id]
        if self._fails_now(trial):
            return 0
        if here >= len(script.rows):
            self._end(trial, StopReason.DONE)
            return 0
        self.told.happens(
            ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, dict(script.rows[here]))
        )
        here = self._positions[trial.trial_id] = here + 1
        verdict = self.told.tell("on_trial_result", trial, flatten(trial.last_result))
        if verdict is Decision.STOP:
            self._end(trial, StopReason.SCHEDULER)
            return 1
        if script.saves_every and here % script.saves_every == 0:
            self._save(trial)
        by_hand = here in self._pauses[trial.trial_id]
        if (by_hand or verdict is not Decision.CONTINUE) and not self._fails_now(trial):
            self._obey(trial, verdict, by_hand=by_hand)
        return 1

    def _obey(self, trial: Trial, verdict: Verdict, *, by_hand: bool) -> None:
        if by_hand or verdict is Decision.PAUSE:
            self._save(trial)
            sequence = trial.last_sequence
            self.told.happens(ev.TrialPaused(trial.trial_id, sequence, 0.0, by_hand=by_hand))
            self._paused[trial.trial_id] = None
            if by_hand:
                self._pauses[trial.trial_id].remove(self._positions[trial.trial_id])
                self._held[trial.trial_id] = None
        elif isinstance(verdict, Exploit):
            self._exploit(trial, verdict)
        elif verdict is Decision.SAVE:
            self._save(trial)

    def _fails_now(self, trial: Trial) -> bool:
        """Let a trial fail, if it is time to."""
        script, here = self._scripts[trial.trial_id], self._positions[trial.trial_id]
        if here not in self._fails[trial.trial_id]:
            return False
        self._fails[trial.trial_id].remove(here)
        again = trial.num_failures < script.retries
        sequence = self._go_back(trial)
        self.told.happens(
            ev.TrialFailed(
                trial.trial_id, trial.attempt, "it fails", "TrialError", None, sequence, 0.0, again
            )
        )
        if again:
            self._starts(trial)
        else:
            self._end(trial, StopReason.FAILED)
        return True

    def _exploit(self, trial: Trial, exploit: Exploit) -> None:
        donor = self.trials.get(exploit.donor)
        if donor is trial:
            self._save(trial)
        if donor is None or donor.checkpoint is None:
            raise ContractBroken(
                f"{self.told.name} lets {trial.trial_id} begin from {exploit.donor!r}"
            )
        source, here = donor.checkpoint, trial.last_result.get(TRAINING_ITERATION)
        kept = trial.last_sequence
        if source.iteration is not None:
            kept = trial.last_sequence_to(source.iteration)
        event = ev.Exploited(
            trial_id=trial.trial_id, donor=donor.trial_id, checkpoint=trial.stored_path(source.path),
            iteration=source.iteration, target_iteration=here, resume_sequence=kept,
            config=exploit.config, given=exploit.config, tag=trial.tag, donor_config=donor.config,
            donor_tag=donor.tag, target_tag=trial.tag, wall_time=0.0,
        )  # fmt: skip
        self.told.happens(event)
        self._positions[trial.trial_id] = self._positions[source.path]
        self._starts(trial)

    # -- what trials do --------------------------------------------------------------------------------

    def _add(self, trial_id: str) -> None:
        config = dict(self._scripts[trial_id].config)
        index = len(self.trials)
        self.told.happens(
            ev.TrialAdded(trial_id, index, trial_id, trial_id, config, config, {"cpu": 1}, 0.0)
        )
        trial = self.trials[trial_id]
        self._positions[trial_id] = 0
        self.told.tell("on_trial_add", trial)
        if self._scripts[trial_id].never_starts:
            self._end(trial, StopReason.USER)
        else:
            self._starts(trial)

    def _starts(self, trial: Trial) -> None:
        checkpoint = trial.checkpoint.path if trial.checkpoint else None
        self.told.happens(ev.TrialStarted(trial.trial_id, trial.attempt, checkpoint, 0.0))

    def _save(self, trial: Trial) -> None:
        here = self._positions[trial.trial_id]
        path = f"{trial.trial_id}/checkpoint_{len(self.told.steps)}"
        iteration = trial.last_result.get(TRAINING_ITERATION)
        self.told.happens(
            ev.Checkpointed(trial.trial_id, trial.attempt, trial.last_sequence, path, iteration)
        )
        self._positions[trial.path_of(path)] = here

    def _go_back(self, trial: Trial) -> int:
        """Let a trial be where its newest checkpoint is; return the row before."""
        checkpoint = trial.checkpoint
        self._positions[trial.trial_id] = self._positions[checkpoint.path] if checkpoint else 0
        return checkpoint.sequence if checkpoint else -1

    def _resume(self, trial_id: str) -> None:
        del self._paused[trial_id]
        self.told.happens(ev.TrialResumed(trial_id, 0.0))
        self.told.tell("on_trial_resume", self.trials[trial_id])
        self._starts(self.trials[trial_id])

    def _use_hand(self, trial_id: str) -> None:
        """Let its user end what he paused, or let it go on."""
        del self._held[trial_id]
        if self._scripts[trial_id].is_given_up:
            self._end(self.trials[trial_id], StopReason.USER)
        else:
            self._wants_slot.append(trial_id)

    def _end_dismissed(self) -> None:
        for trial_id in self.told.dismissed():
            if trial_id in self._paused:
                self._end(self.trials[trial_id], StopReason.SCHEDULER)

    def _end(self, trial: Trial, reason: StopReason) -> None:
        for names in (self._paused, self._held):
            names.pop(trial.trial_id, None)
        if trial.trial_id in self._wants_slot:
            self._wants_slot.remove(trial.trial_id)
        failed = reason is StopReason.FAILED
        status = Status.ERROR if failed else Status.TERMINATED
        self.told.happens(ev.TrialEnded(trial.trial_id, status, reason, {}, None, 0.0))
        if failed:
            self.told.tell("on_trial_error", trial)
        elif trial.started_at is None:
            self.told.tell("on_trial_remove", trial)
        else:
            self.told.tell("on_trial_complete", trial, flatten(trial.last_result))

    def _crash(self) -> None:
        """Lose the scheduler and all that runs, and take the run up again from what was written down."""
        steps, self.told = self.told.steps, self._begun()
        self.told.again(steps, len(steps))
        self.trials = self.told.trials
        # Whoever held a trial is gone. Those that are paused are found in the order in which they came.
        self._held, self._wants_slot = {}, []
        self._paused = {trial_id: None for trial_id in self.trials if trial_id in self._paused}
        for trial_id in self._running():
            trial = self.trials[trial_id]
            sequence, why = self._go_back(trial), "its driver died"
            self.told.happens(ev.TrialReopened(trial_id, trial.attempt + 1, why, sequence, 0.0))
            self._starts(trial)
