"""A logger that writes each result as a line of JSON values: "loss"=0.5, then a tab, and so on."""

from __future__ import annotations

import json

from asynctune.loggers import Append, FileLogger, Replace


class LinesLogger(FileLogger):
    def _init(self):
        self._path = self._file("results.txt")
        self._writes.append(Append(self._path, ""))

    def add_result(self, result):
        self._writes.append(Append(self._path, _line(result)))

    def add_restart(self, rows):
        self._writes.append(Replace(self._path, "".join(map(_line, rows))))


def _line(row):
    cells = (f"{json.dumps(key)}={json.dumps(value, default=repr)}" for key, value in row.items())
    return "\t".join(cells) + "\n"


def read_lines(logdir):
    """Return the rows of a log."""
    rows = []
    for line in (logdir / "results.txt").read_text().splitlines():
        row = {}
        for cell in line.split("\t"):
            key, end = json.JSONDecoder().raw_decode(cell)
            row[key] = json.loads(cell[end + 1 :])
        rows.append(row)
    return rows
