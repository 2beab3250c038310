"""Policy files: the exploits of a population, one line of JSON for each.

``pbt_global.txt`` has all exploits, in order. ``pbt_policy_<trial_id>.txt`` has the lineage of one trial's
state: the exploits that led from the first configuration to the current one.
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
_FORM = (
    "a list of the target's tag, the donor's tag, the target's iteration, the donor's iteration, the "
    "donor's config and the new config"
)


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """One exploit, as a line of a policy file.

    Args:
        target_tag: The label of the trial that took over a state, before the exploit.
        donor_tag: The label of the trial whose state was taken over.
        target_iteration: The ``training_iteration`` of the target before the exploit.
        donor_iteration: The ``training_iteration`` of the state taken over, where the target goes on.
        donor_config: The configuration of the donor.
        config: The new configuration of the target.
    """

    target_tag: str
    donor_tag: str
    target_iteration: int | None
    donor_iteration: int | None
    donor_config: Mapping[str, Any]
    config: Mapping[str, Any]

    def text(self) -> str:
        """Return the line without a line break."""
        return strict_json(
            [
                self.target_tag, self.donor_tag, self.target_iteration, self.donor_iteration,
                self.donor_config, self.config,
            ]
        )  # fmt: skip


def policy_file(trial_id: str) -> str:
    """Return the name of the policy file of a trial."""
    return f"pbt_policy_{trial_id}.txt"


def read_policy(path: str | os.PathLike[str]) -> list[PolicyLine]:
    """Read a policy file.

    Raises:
        ConfigError: The file cannot be read, or a line is malformed; the message has the line's number.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except OSError as exc:
        raise ConfigError(f"the policy file {name} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the policy file {name} is not UTF-8 text: {exc}") from exc
    return [
        _parse_line(f"line {number} of the policy file {name}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parse_line(line_name: str, line: str) -> PolicyLine:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{line_name} must be {_FORM}; it is no JSON ({exc})") from exc
    if not isinstance(fields, list) or len(fields) != 6:
        raise ConfigError(f"{line_name} must be {_FORM}, got {line[:80]!r}")
    kinds: list[Any] = [str, str, int | None, int | None, dict, dict]
    for position, (field, kind) in enumerate(zip(fields, kinds, strict=True)):
        if isinstance(field, bool) or not isinstance(field, kind):
            raise ConfigError(
                f"{line_name} must be {_FORM}, got {str(field)[:80]!r} as item {position}"
            )
    return PolicyLine(*fields)
