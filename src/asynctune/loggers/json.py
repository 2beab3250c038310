"""The logger that writes ``params.json`` and ``result.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from asynctune.loggers.files import Append, FileLogger, Replace, Rewrite, Write
from asynctune.result import jsonable, strict_json


class JsonLogger(FileLogger):
    """Writes the configuration to ``params.json`` and each result as a line of ``result.json``.

    Both files are strict JSON: NaN and infinities are null. A value that JSON cannot hold is written as
    its ``repr``. An unfinished line, left by a killed driver, is removed when the trial continues.
    """

    def _init(self) -> None:
        self._lines: list[str] = []
        self._params = self._file("params.json")
        self._results = self._file("result.json")
        self.add_config(self.config)
        if _ends_inside_a_line(self._results):
            self._writes.append(Rewrite(self._results, _without_torn_line))
        else:
            self._writes.append(Append(self._results, ""))

    def add_config(self, config: dict[str, Any]) -> None:
        """Rewrite ``params.json``."""
        super().add_config(config)
        text = strict_json(jsonable(config), indent=2, sort_keys=True)
        self._writes.append(Replace(self._params, f"{text}\n"))

    def add_result(self, result: Mapping[str, Any]) -> None:
        """Add one line of ``result.json`` to the pending lines."""
        try:
            text = strict_json(result)
        except (TypeError, ValueError):  # a row that no Trainable has normalised
            text = strict_json(jsonable(result))
        self._lines.append(f"{text}\n")

    def add_restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite ``result.json`` with these rows."""
        self._lines = []
        for row in rows:
            self.add_result(row)
        self._writes.append(Replace(self._results, "".join(self._lines)))
        self._lines = []

    def take(self) -> list[Write]:
        """Return the pending writes: one append for all rows."""
        if self._lines:
            self._writes.append(Append(self._results, "".join(self._lines)))
            self._lines = []
        return super().take()


def _ends_inside_a_line(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False


def _without_torn_line(text: str) -> str:
    head, newline, tail = text.rpartition("\n")
    try:
        json.loads(tail)
    except ValueError:
        return head + newline
    return f"{text}\n"  # the last line is complete, since no proper prefix of a JSON object is valid JSON
