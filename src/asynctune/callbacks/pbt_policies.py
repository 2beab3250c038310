"""Writes down which trial took over from which, where a scheduler wants that."""

from __future__ import annotations

import os

from asynctune.callbacks.base import Callback
from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.trial import Trial
from asynctune.loggers.files import Append, Replace, carry_out, read_text
from asynctune.schedulers._policies import GLOBAL_FILE, PolicyLine, policy_file
from asynctune.storage.filesystem import storage_error


class PbtPolicyLog(Callback):
    """Carries exploits into the policy files.

    Args:
        directory: The experiment's directory.
        history: What earlier drivers left; the last of them may not have come to write it.
    """

    def __init__(self, directory: str, history: History | None) -> None:
        self._files = PbtPolicyFiles(directory)
        self._history = history

    def catch_up(self) -> None:
        """Write what earlier drivers did not. Takes a while; call it in a thread."""
        for _, event in self._history.stored.events() if self._history is not None else ():
            if isinstance(event, ev.Exploited):
                self._write(event)

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> None:
        self._write(exploit)

    def _write(self, event: ev.Exploited) -> None:
        self._files.write(policy_line(event), event.trial_id, event.donor)


class PbtPolicyFiles:
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


def policy_line(event: ev.Exploited) -> PolicyLine:
    """Return the line of an event."""
    return PolicyLine(
        target_tag=event.target_tag,
        donor_tag=event.donor_tag,
        target_iteration=event.target_iteration,
        donor_iteration=event.iteration,
        donor_config=event.donor_config,
        config=event.config,
    )
