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


def policy_file(trial_id: str) -> str:
    """Return the name of a trial's file."""
    return f"pbt_policy_{trial_id}.txt"


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
