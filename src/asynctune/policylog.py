"""Writes down which trial took over from which, where a scheduler wants that."""

from __future__ import annotations

from asynctune import events as ev
from asynctune.callback import Callback
from asynctune.resume import Past
from asynctune.schedulers.policies import PolicyFiles, policy_line
from asynctune.trial import Trial


class PolicyLog(Callback):
    """Carries exploits into the policy files.

    Args:
        directory: The experiment's directory.
        past: What earlier drivers left; the last of them may not have come to write it.
    """

    def __init__(self, directory: str, past: Past | None) -> None:
        self._files = PolicyFiles(directory)
        self._past = past

    def catch_up(self) -> None:
        """Write what earlier drivers did not. Takes a while; call it in a thread."""
        for _, event in self._past.stored.events() if self._past is not None else ():
            if isinstance(event, ev.Exploited):
                self._write(event)

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> None:
        self._write(exploit)

    def _write(self, event: ev.Exploited) -> None:
        self._files.write(policy_line(event), event.trial_id, event.donor)
