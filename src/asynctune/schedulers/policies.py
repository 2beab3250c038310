"""The files that say which trial took over from which: one line of JSON for each exploit.

``pbt_global.txt`` has them all, in order. ``pbt_policy_<trial_id>.txt`` has the line of descent of one
trial's state: how its hyperparameters went from the first configuration to the current one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asynctune.errors import ConfigError
from asynctune.events import Exploited
from asynctune.files import storage_error
from asynctune.loggers.files import Append, Replace, carry_out, read_text
from asynctune.result import strict_json

GLOBAL_FILE = "pbt_global.txt"
_WANTED = (
    "a list of the target's tag, the donor's tag, the target's iteration, the donor's iteration, the "
    "donor's config and the new config"
)


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """One exploit, as the files have it.

    Args:
        target_tag: The label of the trial that took over, before it did.
        donor_tag: The label of the trial whose state it took.
        target_iteration: The ``training_iteration`` at which the target was.
        donor_iteration: That of the state which it took, where it goes on.
        donor_config: The donor's configuration.
        config: The target's new one.
    """

    target_tag: str
    donor_tag: str
    target_iteration: int | None
    donor_iteration: int | None
    donor_config: Mapping[str, Any]
    config: Mapping[str, Any]

    def text(self) -> str:
        """Return the line, without its end."""
        return strict_json(
            [
                self.target_tag, self.donor_tag, self.target_iteration, self.donor_iteration,
                self.donor_config, self.config,
            ]
        )  # fmt: skip


def policy_line(event: Exploited) -> PolicyLine:
    """Return the line of an event."""
    return PolicyLine(
        target_tag=event.target_tag,
        donor_tag=event.donor_tag,
        target_iteration=event.target_iteration,
        donor_iteration=event.iteration,
        donor_config=event.donor_config,
        config=event.config,
    )


def policy_file(trial_id: str) -> str:
    """Return the name of a trial's file."""
    return f"pbt_policy_{trial_id}.txt"


class PolicyFiles:
    """Writes the files of one experiment. It blocks, so it is called in a thread.

    Lines are to be given in the order in which they came about. One that is there already is not written
    again, so whoever was cut short may begin with any line that was written before.

    Args:
        directory: The experiment's directory.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(directory)
        self._written: set[str] | None = None

    def write(self, line: PolicyLine, target_id: str, donor_id: str) -> None:
        """Write a line into the target's file, behind what the donor's has, and into that of all.

        Args:
            line: The line.
            target_id: The trial that took over.
            donor_id: The trial whose state it took; perhaps itself.

        Raises:
            StorageError: The files cannot be written.
        """
        text = line.text() + "\n"
        try:
            self._write(text, target_id, donor_id)
        except OSError as exc:
            doing = f"cannot write {self._path(GLOBAL_FILE)} or {policy_file(target_id)}"
            raise storage_error(exc, doing) from exc

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[PolicyLine]:
        """Read a file; see :func:`read_policy`."""
        return read_policy(path)

    def _write(self, text: str, target_id: str, donor_id: str) -> None:
        if self._written is None:
            self._written = self._begin()
        if text in self._written:
            return
        # The file of all is written last: what is in there was carried out. So if there was a crash in
        # between, nothing has happened since to the donor's file.
        target = self._path(policy_file(target_id))
        if not (read_text(target) or "").endswith(text):
            before = read_text(self._path(policy_file(donor_id))) or ""
            carry_out(Replace(target, before + text))
        carry_out(Append(self._path(GLOBAL_FILE), text))
        self._written.add(text)

    def _begin(self) -> set[str]:
        """Return the lines of the file of all, and cut off one that a crash left unfinished."""
        path = self._path(GLOBAL_FILE)
        found = read_text(path) or ""
        whole = found[: found.rfind("\n") + 1]
        if whole != found:
            carry_out(Replace(path, whole))
        return set(whole.splitlines(keepends=True))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


def read_policy(path: str | os.PathLike[str]) -> list[PolicyLine]:
    """Read a file.

    Raises:
        ConfigError: It cannot be read, or a line is no good; the message has its number.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except OSError as exc:
        raise ConfigError(f"the policy file {name} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the policy file {name} is no text: {exc}") from exc
    return [
        _parsed(f"line {number} of the policy file {name}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parsed(where: str, line: str) -> PolicyLine:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{where} is no JSON ({exc}); {_WANTED} is wanted") from exc
    if not isinstance(fields, list) or len(fields) != 6:
        raise ConfigError(f"{where} is {line[:80]!r}; {_WANTED} is wanted")
    kinds: list[Any] = [str, str, int | None, int | None, dict, dict]
    for position, (field, kind) in enumerate(zip(fields, kinds, strict=True)):
        if isinstance(field, bool) or not isinstance(field, kind):
            raise ConfigError(
                f"{where} has {str(field)[:80]!r} as item {position}; {_WANTED} is wanted"
            )
    return PolicyLine(*fields)
