"""Scripted runs: a scheduler in a run without executor, clock or event loop, and checks of its answers.

:func:`play` does the work of the runner. It adds trials whose results a :class:`Script` holds, calls the
scheduler and carries out its decisions; trials fail, are retried from their checkpoints, and are paused and
resumed by their user; and drivers die. All of this depends only on a seed. :func:`replay` repeats the calls
with another instance, as a resume does, and compares the answers. An answer that violates the contract of
:class:`~asynctune.schedulers.TrialScheduler` raises :class:`ContractBroken`.
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
from asynctune.testing._scheduler_recorder import (
    Call,
    ContractBroken,
    Happened,
    Played,
    SchedulerRecorder,
)

__all__ = ["Call", "ContractBroken", "Happened", "Played", "Script", "curve", "play", "replay"]

_MOST_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Script:
    """The course of a trial, unless the scheduler interferes.

    Args:
        rows: The rows that the trial reports before it ends by itself.
        config: The configuration of the trial.
        fails_after: The numbers of rows after which an attempt fails, before the decision about the last
            of these rows is carried out. Each entry counts once.
        retries: The number of failures that are retried, each from the newest checkpoint.
        saves_every: The number of rows between two checkpoints; 0 for no checkpoints.
        pauses_after: The numbers of rows after which the user pauses the trial, and resumes it at some
            later time. Each entry counts once.
        is_given_up: Whether the user stops the trial instead of resuming it.
        never_starts: Whether the trial is removed before it starts.
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
        scores: The values of the objective, one per row.
        metric: The name of the objective.
        times: The ``training_iteration`` of each row, and its ``time_total_s``; by default 1, 2, 3, ...
    """
    times = range(1, len(scores) + 1) if times is None else times
    return tuple(
        {metric: score, TRAINING_ITERATION: time, TIME_TOTAL_S: float(time)}
        for score, time in zip(scores, times, strict=True)
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
    """Play a run to its end and return its record.

    Args:
        make: A function that returns the scheduler; called once, and once more after each crash.
        scripts: The trials in the order in which they are drawn. Their ids are ``t0``, ``t1`` and so on.
        slots: The number of trials that run at once.
        seed: The seed of the scheduler, and of the order in which trials report.
        metric: The objective of the run.
        mode: ``"min"`` or ``"max"``.
        crashes_after: The numbers of results after which the driver dies and is resumed.
        most_steps: The number of steps after which the run counts as endless.

    Raises:
        ContractBroken: The scheduler broke its contract, or the run does not end.
    """
    if slots < 1:
        raise ConfigError(f"slots of play() must be at least 1, got {slots}")

    def start() -> SchedulerRecorder:
        return SchedulerRecorder(make, (metric, mode), seed, most_steps)

    run = _Play(start, scripts, slots, random.Random(seed))
    run.play(crashes_after)
    return Played(tuple(run.recorder.steps), run.trials, (metric, mode), seed)


def replay(
    played: Played, make: Callable[[], TrialScheduler], *, asked_from: int = 0
) -> TrialScheduler:
    """Repeat the calls of a run with a new scheduler, and compare the answers.

    Args:
        played: The record of the run.
        make: A function that returns the new scheduler.
        asked_from: The first step from which on ``choose`` and ``dismissed`` are called, too. A resume does
            not repeat these calls.

    Returns:
        The new scheduler.

    Raises:
        ContractBroken: The new scheduler returned another answer.
    """
    recorder = SchedulerRecorder(make, played.objective, played.seed, len(played.steps))
    recorder.repeat(played.steps, asked_from)
    return recorder.scheduler


class _Play:
    """A scripted run in progress."""

    def __init__(
        self,
        start: Callable[[], SchedulerRecorder],
        scripts: Sequence[Script],
        slots: int,
        rng: random.Random,
    ) -> None:
        self._start = start
        self._scripts = {f"t{number}": script for number, script in enumerate(scripts)}
        self._fresh = list(self._scripts)[::-1]
        self._slots = slots
        self._rng = rng
        self._fails = {name: list(script.fails_after) for name, script in self._scripts.items()}
        self._pauses = {name: list(script.pauses_after) for name, script in self._scripts.items()}
        # The number of rows before the position of each trial (by id) and checkpoint (by path).
        self._positions: dict[str, int] = {}
        self._paused: dict[str, None] = {}
        self._held: dict[str, None] = {}
        self._waiting: list[str] = []
        self.recorder = start()
        self.trials = self.recorder.trials

    # -- the run -------------------------------------------------------------------------------------

    def play(self, crashes_after: Collection[int]) -> None:
        """Play the run to its end."""
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
            if not self.recorder.scheduler.debug_string():
                raise ContractBroken(f"{self.recorder.name}.debug_string() returned an empty text")

    def _running(self) -> list[str]:
        return [
            trial_id
            for trial_id, trial in self.trials.items()
            if trial_id not in self._paused and not trial.status.is_final
        ]

    def _admit(self) -> bool:
        """Fill free slots as the runner does. Return whether the run goes on."""
        while True:
            self._end_dismissed()
            running = len(self._running())
            if running >= self._slots:
                return True
            if self._waiting:
                self._resume(self._waiting.pop(0))
                continue
            free = Free(
                paused=tuple(name for name in self._paused if name not in self._held),
                fresh=bool(self._fresh),
                running=running + len(self._held),
            )
            chosen = self.recorder.choose(free) if self._paused else None
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
        """Let a trial report, fail or end. Return the number of results: 0 or 1."""
        script, position = self._scripts[trial.trial_id], self._positions[trial.trial_id]
        if self._fails_now(trial):
            return 0
        if position >= len(script.rows):
            self._end(trial, StopReason.DONE)
            return 0
        row = dict(script.rows[position])
        self.recorder.record(ev.Reported(trial.trial_id, trial.attempt, trial.next_sequence, row))
        position = self._positions[trial.trial_id] = position + 1
        decision = self.recorder.notify("on_trial_result", trial, flatten(trial.last_result))
        if decision is Decision.STOP:
            self._end(trial, StopReason.SCHEDULER)
            return 1
        if script.saves_every and position % script.saves_every == 0:
            self._save(trial)
        by_hand = position in self._pauses[trial.trial_id]
        if (by_hand or decision is not Decision.CONTINUE) and not self._fails_now(trial):
            self._carry_out(trial, decision, by_hand=by_hand)
        return 1

    def _carry_out(self, trial: Trial, decision: Verdict, *, by_hand: bool) -> None:
        if by_hand or decision is Decision.PAUSE:
            self._save(trial)
            sequence = trial.last_sequence
            self.recorder.record(ev.TrialPaused(trial.trial_id, sequence, 0.0, by_hand=by_hand))
            self._paused[trial.trial_id] = None
            if by_hand:
                self._pauses[trial.trial_id].remove(self._positions[trial.trial_id])
                self._held[trial.trial_id] = None
        elif isinstance(decision, Exploit):
            self._exploit(trial, decision)
        elif decision is Decision.SAVE:
            self._save(trial)

    def _fails_now(self, trial: Trial) -> bool:
        """Let a trial fail if its script says so. Return whether it failed."""
        script, position = self._scripts[trial.trial_id], self._positions[trial.trial_id]
        if position not in self._fails[trial.trial_id]:
            return False
        self._fails[trial.trial_id].remove(position)
        again = trial.num_failures < script.retries
        sequence = self._go_back(trial)
        self.recorder.record(
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
                f"{self.recorder.name} made {exploit.donor!r} the donor of {trial.trial_id}, but "
                f"{exploit.donor!r} has no checkpoint"
            )
        source, iteration = donor.checkpoint, trial.last_result.get(TRAINING_ITERATION)
        kept = trial.last_sequence
        if source.iteration is not None:
            kept = trial.last_sequence_to(source.iteration)
        event = ev.Exploited(
            trial_id=trial.trial_id, donor=donor.trial_id, checkpoint=trial.stored_path(source.path),
            iteration=source.iteration, target_iteration=iteration, resume_sequence=kept,
            config=exploit.config, given=exploit.config, tag=trial.tag, donor_config=donor.config,
            donor_tag=donor.tag, target_tag=trial.tag, wall_time=0.0,
        )  # fmt: skip
        self.recorder.record(event)
        self._positions[trial.trial_id] = self._positions[source.path]
        self._starts(trial)

    # -- what trials do --------------------------------------------------------------------------------

    def _add(self, trial_id: str) -> None:
        config = dict(self._scripts[trial_id].config)
        index = len(self.trials)
        self.recorder.record(
            ev.TrialAdded(trial_id, index, trial_id, trial_id, config, config, {"cpu": 1}, 0.0)
        )
        trial = self.trials[trial_id]
        self._positions[trial_id] = 0
        self.recorder.notify("on_trial_add", trial)
        if self._scripts[trial_id].never_starts:
            self._end(trial, StopReason.USER)
        else:
            self._starts(trial)

    def _starts(self, trial: Trial) -> None:
        checkpoint = trial.checkpoint.path if trial.checkpoint else None
        self.recorder.record(ev.TrialStarted(trial.trial_id, trial.attempt, checkpoint, 0.0))

    def _save(self, trial: Trial) -> None:
        position = self._positions[trial.trial_id]
        path = f"{trial.trial_id}/checkpoint_{len(self.recorder.steps)}"
        iteration = trial.last_result.get(TRAINING_ITERATION)
        self.recorder.record(
            ev.Checkpointed(trial.trial_id, trial.attempt, trial.last_sequence, path, iteration)
        )
        self._positions[trial.path_of(path)] = position

    def _go_back(self, trial: Trial) -> int:
        """Move a trial back to its newest checkpoint. Return the sequence number of the last kept row."""
        checkpoint = trial.checkpoint
        self._positions[trial.trial_id] = self._positions[checkpoint.path] if checkpoint else 0
        return checkpoint.sequence if checkpoint else -1

    def _resume(self, trial_id: str) -> None:
        del self._paused[trial_id]
        self.recorder.record(ev.TrialResumed(trial_id, 0.0))
        self.recorder.notify("on_trial_resume", self.trials[trial_id])
        self._starts(self.trials[trial_id])

    def _use_hand(self, trial_id: str) -> None:
        """Let the user stop or resume a trial that the user paused."""
        del self._held[trial_id]
        if self._scripts[trial_id].is_given_up:
            self._end(self.trials[trial_id], StopReason.USER)
        else:
            self._waiting.append(trial_id)

    def _end_dismissed(self) -> None:
        for trial_id in self.recorder.dismissed():
            if trial_id in self._paused:
                self._end(self.trials[trial_id], StopReason.SCHEDULER)

    def _end(self, trial: Trial, reason: StopReason) -> None:
        for names in (self._paused, self._held):
            names.pop(trial.trial_id, None)
        if trial.trial_id in self._waiting:
            self._waiting.remove(trial.trial_id)
        failed = reason is StopReason.FAILED
        status = Status.ERROR if failed else Status.TERMINATED
        self.recorder.record(ev.TrialEnded(trial.trial_id, status, reason, {}, None, 0.0))
        if failed:
            self.recorder.notify("on_trial_error", trial)
        elif trial.started_at is None:
            self.recorder.notify("on_trial_remove", trial)
        else:
            self.recorder.notify("on_trial_complete", trial, flatten(trial.last_result))

    def _crash(self) -> None:
        """Kill the driver: start with a new scheduler, and restore the state of the run from its record."""
        steps, self.recorder = self.recorder.steps, self._start()
        self.recorder.repeat(steps, len(steps))
        self.trials = self.recorder.trials
        # A user's pauses end with the driver. Paused trials are restored in the order of their addition.
        self._held, self._waiting = {}, []
        self._paused = {trial_id: None for trial_id in self.trials if trial_id in self._paused}
        for trial_id in self._running():
            trial = self.trials[trial_id]
            sequence, why = self._go_back(trial), "its driver died"
            self.recorder.record(ev.TrialReopened(trial_id, trial.attempt + 1, why, sequence, 0.0))
            self._starts(trial)
