"""The numbers as tables in Markdown, with the notes that explain them."""

from __future__ import annotations

from collections.abc import Sequence

from kills.count import Counts
from kills.schedule import System
from kills.work import Tails

_NOTES = """\
- A result is delivered when the system's callback has been given it (Optuna: when `trial.report` has
  returned); it is lost when the system's own record does not have that iteration in the end.
- What is alive 2 s after a kill is counted among all descendants of the driver, those born after the
  kill included, and set beside how many there were at the kill; then it is ended,
  and the driver is started again in the documented way. After the last kill it is started three
  times, undisturbed. A trial that is not done then never finishes.
- Each system works on two trials at a time. Optuna runs them in threads of the driver, so no process
  can be left, and it has no checkpoints of trials: another trial begins in place of a killed one,
  which stays RUNNING for ever, as no heartbeat is configured by default.
- An iteration is run again if the same work had been done before: for Optuna, what its trials ran
  beyond the best four.
- Ray Tune checkpoints every iteration and keeps two, as asynctune does; Optuna stores every report."""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def kill_table(rows: Sequence[tuple[str, System, Counts]]) -> str:
    head = (
        "regime",
        "system",
        "kills",
        "delivered results lost",
        "delivered again",
        "duplicate rows",
        "trials never finished",
        "left RUNNING",
        "iterations run (needed)",
        "run again",
        "processes alive 2 s after a kill",
        "seconds",
    )
    return _markdown(head, [_kill_row(*row) for row in rows])


def _kill_row(regime: str, system: System, row: Counts) -> list[object]:
    alive = f"{_span(row.alive)} of {_span(row.alive_before)}" if row.kills else "-"
    return [
        regime,
        f"{system.name} {system.version}",
        row.kills,
        f"{row.lost} of {row.delivered}",
        row.repeated,
        row.duplicates,
        f"{row.unfinished} of {row.trials}",
        row.left_running,
        f"{row.executed} ({row.needed})",
        row.again,
        alive,
        f"{row.seconds:.0f}",
    ]


def _span(ends: tuple[int, int] | None) -> str:
    return "-".join(map(str, dict.fromkeys(ends or ())))


def tail_table(rows: Sequence[tuple[System, Tails]]) -> str:
    head = (
        "journal of",
        "cuts",
        "torn tails",
        "first resume fails",
        "later ones fail",
        "rows lost",
    )
    return _markdown(
        head,
        [
            [
                f"{system.name.partition(',')[0]} {system.version}",
                row.tried,
                row.torn,
                f"{row.first_failed} of {row.tried}",
                f"{row.later_failed} of {row.tried}",
                row.rows_lost,
            ]
            for system, row in rows
        ],
    )


def notes(rows: Sequence[tuple[str, System, Counts]]) -> str:
    lines = [_NOTES]
    for regime, system, row in rows:
        where = f"- {system.name}, {regime}:"
        if not row.kills:
            lines.append(
                f"{where} it was never killed, as it delivered nothing; nothing was measured"
            )
        if row.hung:
            lines.append(
                f"{where} {row.hung} starts neither delivered nor ended, and were given up"
            )
        if row.log_duplicates or row.log_lost:
            lines.append(
                f"{where} its log files, beside its record, have {row.log_duplicates} duplicate rows "
                f"and lack {row.log_lost} delivered ones"
            )
        if row.alive_names:
            names = ", ".join(f"{name} ({n})" for name, n in sorted(row.alive_names.items()))
            lines.append(f"{where} alive after 2 s, in all kills: {names}")
        lines.extend(f"{where} {error}" for error in row.errors)
    return "\n".join(lines)
