"""Progress as lines of text, one for each trial that ends, and the output of trials."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from functools import partial
from typing import Any, TextIO

import anyio.to_thread

from asynctune.callbacks.base import Callback
from asynctune.experiment import events as ev
from asynctune.experiment.state import ExperimentState
from asynctune.experiment.status import Status
from asynctune.experiment.trial import Trial
from asynctune.result import flatten, is_better, metrics

_MAX_COLUMNS = 6


class LineProgress(Callback):
    """Prints a line at the end of each trial: its status and last values, and the best value so far.

    Args:
        state: The state of the experiment.
        total: The number of trials of the run, None for no limit.
        metric: The objective, or None.
        mode: ``"min"``, ``"max"`` or None.
        out: The stream to print to; standard output by default.
    """

    def __init__(
        self,
        state: ExperimentState[Any],
        total: int | None,
        metric: str | None,
        mode: str | None,
        out: TextIO | None = None,
    ) -> None:
        self._state = state
        self._total = total
        self._metric = metric
        self._mode = mode
        self._out = out
        self._ended: set[str] = set()
        self._best = math.nan
        self._best_name = ""

    def resume(self, summary: str) -> None:
        """Print a summary, and include the trials and results of the previous runs.

        Args:
            summary: The line to print.
        """
        for trial in self._state.trials.values():
            if trial.status.is_final:
                self._ended.add(trial.trial_id)
            if self._metric is not None:
                for row in trial.results:
                    self.on_trial_result(trial, row)
        self._print(summary)

    def on_trial_result(self, trial: Trial, result: dict[str, Any]) -> None:
        value = flatten(result).get(self._metric) if self._metric else None
        if isinstance(value, int | float) and is_better(value, self._best, self._mode or "max"):
            self._best, self._best_name = value, trial.name

    def on_trial_error(self, trial: Trial, error: str) -> None:
        retry = "" if trial.status is Status.ERROR else "; the trial is retried"
        self._print(f"{trial.name}: {error}{retry}")

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> None:
        donor = self._state.trials[exploit.donor]
        changes = exploit.tag.partition("@perturbed[")[2].rstrip("]") or "the same configuration"
        source = "its own state" if donor is trial else f"{donor.name} at iter {exploit.iteration}"
        self._print(f"{trial.name} continues from {source}, with {changes}")

    def on_trial_complete(self, trial: Trial) -> None:
        self._ended.add(trial.trial_id)
        # The user may have added trials by hand, beyond the total.
        total = max(self._total, len(self._state.trials)) if self._total is not None else "?"
        parts = [f"[{len(self._ended)}/{total}] {trial.name} {trial.status}"]
        if trial.stop_reason is not None and trial.status is Status.TERMINATED:
            parts[0] += f" ({trial.stop_reason})"
        if trial.num_results:
            parts.append(f"iter {trial.last_result.get('training_iteration')}")
            parts += [f"{k}={_short(v)}" for k, v in self._columns(trial)]
        if trial.tag:
            parts.append(trial.tag)
        if trial.started_at is not None and trial.ended_at is not None:
            parts.append(f"{trial.ended_at - trial.started_at:.1f} s")
        if not math.isnan(self._best):
            parts.append(f"best {self._metric}={_short(self._best)} ({self._best_name})")
        self._print("  ".join(parts))

    def _columns(self, trial: Trial) -> list[tuple[str, Any]]:
        found = {k: v for k, v in metrics(trial.last_result).items() if isinstance(v, int | float)}
        if self._metric and self._metric in found:
            found = {self._metric: found[self._metric], **found}
        return list(found.items())[:_MAX_COLUMNS]

    def _print(self, line: str) -> None:
        print(_printable(line), file=self._out or sys.stdout, flush=True)


class OutputEcho(Callback):
    """Prints the output of trials, as far as their executor captures it.

    Args:
        state: The state of the experiment.
    """

    def __init__(self, state: ExperimentState[Any]) -> None:
        self._state = state
        self._offsets: dict[str, int] = {}  # trial -> bytes printed so far

    def resume(self) -> None:
        """Skip the output of the previous runs, which have printed it."""
        for trial in self._state.trials.values():
            with contextlib.suppress(OSError):
                log = os.path.join(trial.logdir, "output.log")
                self._offsets[trial.trial_id] = os.path.getsize(log)

    def on_trial_result(self, trial: Trial, result: dict[str, Any]) -> None:
        self._echo(trial)

    def on_trial_error(self, trial: Trial, error: str) -> None:
        self._echo(trial)

    def on_trial_complete(self, trial: Trial) -> None:
        self._echo(trial)
        self._offsets.pop(trial.trial_id, None)

    def _echo(self, trial: Trial) -> None:
        offset = self._offsets.get(trial.trial_id, 0)
        try:
            with open(os.path.join(trial.logdir, "output.log"), "rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return
        # While a trial runs, its last line may be incomplete.
        end = len(data) if trial.status.is_final else data.rfind(b"\n") + 1
        self._offsets[trial.trial_id] = offset + end
        for line in data[:end].decode(errors="backslashreplace").splitlines():
            print(f"({trial.name}) {_printable(line)}", flush=True)


async def print_line(line: str) -> None:
    """Print a line about the whole run, without blocking the event loop."""
    await anyio.to_thread.run_sync(partial(print, _printable(line), flush=True))


async def ignore_line(line: str) -> None:
    """Print nothing."""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _printable(text: str) -> str:
    # Control characters in the name or message of a trial must not move the terminal's cursor or set its
    # title.
    return "".join(c if c.isprintable() or c in "\t\n" else repr(c)[1:-1] for c in text)
