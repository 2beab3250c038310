"""The logger that writes ``progress.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from asynctune.loggers.files import Append, FileLogger, Replace, Rewrite, Write, read_text
from asynctune.result import CONFIG, flatten, jsonable, strict_json


class CSVLogger(FileLogger):
    """Writes each result as a row of ``progress.csv``, without its ``config``.

    The columns are the flattened keys (``a/b`` for nested ones) in the order of their appearance. A
    metric that appears later widens the table: the file is rewritten once for all pending rows, and
    earlier rows get empty cells. Missing values and None are empty cells too; lists are JSON.

    An existing file is continued under its own header. An unfinished row, left by a killed driver, is
    removed first.
    """

    def _init(self) -> None:
        self._path = self._file("progress.csv")
        found = read_text(self._path)
        records = _records(found or "")
        complete = "".join(f"{record}\n" for record in records)
        if found is None:
            self._writes.append(Append(self._path, ""))
        elif found != complete:
            self._writes.append(Replace(self._path, complete))
        self._columns: list[str] = next(csv.reader(io.StringIO(complete, newline="")), [])
        self._known = set(self._columns)
        self._columns_in_file = len(self._columns)
        # The pending rows, each with the number of columns at the time when it was formatted.
        self._rows: list[tuple[str, int]] = []

    def add_result(self, result: Mapping[str, Any]) -> None:
        """Add one row to the pending rows. A row without any metric is skipped."""
        cells = flatten({key: value for key, value in result.items() if key != CONFIG})
        for key in cells:
            if key not in self._known:
                self._known.add(key)
                self._columns.append(key)
        if self._columns:
            row = _record(_cell(cells.get(column)) for column in self._columns)
            self._rows.append((row, len(self._columns)))

    def add_restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite the table with these rows."""
        self._columns, self._known, self._columns_in_file = [], set(), 0
        self._rows = []
        self._writes.append(Replace(self._path, ""))
        for row in rows:
            self.add_result(row)

    def take(self) -> list[Write]:
        """Return the pending writes: one append for all rows, or one rewrite if the table widens."""
        if self._rows:
            self._writes.append(self._write_rows())
            self._rows = []
            self._columns_in_file = len(self._columns)
        return super().take()

    def _write_rows(self) -> Write:
        width = len(self._columns)
        rows = "".join(f"{row}{',' * (width - cells)}\n" for row, cells in self._rows)
        if width == self._columns_in_file:
            return Append(self._path, rows)
        header = f"{_record(self._columns)}\n"
        if not self._columns_in_file:
            return Append(self._path, header + rows)
        missing = "," * (width - self._columns_in_file)
        return Rewrite(self._path, partial(_widen, header=header, missing=missing, rows=rows))


def _widen(text: str, *, header: str, missing: str, rows: str) -> str:
    earlier = (record.removesuffix("\r") for record in _records(text)[1:])
    return header + "".join(f"{record}{missing}\n" for record in earlier) + rows


def _records(text: str) -> list[str]:
    """Return the complete records of a table. Text after the last line end is an unfinished record.

    The records are split without :func:`csv.reader`, which refuses a cell of more than 128 KiB and parses
    records that are only copied. A line end is inside a cell if an odd number of quotes precede it, since
    a quote inside a cell is doubled.
    """
    records: list[str] = []
    lines: list[str] = []
    in_cell = 0
    for line in text.split("\n")[:-1]:
        lines.append(line)
        in_cell ^= line.count('"') & 1
        if not in_cell:
            records.append("\n".join(lines))
            lines = []
    return records


def _record(cells: Iterable[Any]) -> str:
    # csv quotes a cell with \r or \n only if the line end has these characters, so the default \r\n stays
    # and is cut off afterwards.
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()[:-2]


def _cell(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is float or kind is int or kind is str or kind is bool:
        return value
    plain = jsonable(value)
    return strict_json(plain) if isinstance(plain, list | dict) else plain
