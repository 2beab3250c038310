"""The policy files of PBT, which record the exploits of an experiment."""

from __future__ import annotations

import os

from asynctune.callbacks.base import Callback
from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.trial import Trial
from asynctune.loggers.files import Append, Replace, carry_out, read_text
from asynctune.schedulers.policies import GLOBAL_FILE, PolicyLine, policy_file
from asynctune.storage.filesystem import storage_error


class PbtPolicyLog(Callback):
    """Records each exploit in the policy files.

    Args:
        directory: The directory of the experiment.
        history: The record of the previous runs, None in a new experiment.
    """

    def __init__(self, directory: str, history: History | None) -> None:
        self._files = PbtPolicyFiles(directory)
        self._history = history

    def catch_up(self) -> None:
        """Write the exploits that the previous runs did not. Slow; call it in a thread."""
        # A driver that died may have recorded an exploit in the journal alone.
        for _, event in self._history.reader.events() if self._history is not None else ():
            if isinstance(event, ev.Exploited):
                self._write(event)

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> None:
        self._write(exploit)

    def _write(self, event: ev.Exploited) -> None:
        self._files.write(policy_line(event), event.trial_id, event.donor)


class PbtPolicyFiles:
    """Writes the policy files of one experiment. Blocks; call it in a thread.

    Lines come in the order of their exploits. A line that the files have already is not written again, so
    a writer that was interrupted may begin again with any earlier line.

    Args:
        directory: The directory of the experiment.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(directory)
        self._written: set[str] | None = None

    def write(self, line: PolicyLine, target_id: str, donor_id: str) -> None:
        """Append a line to the global file, and write the target's file: the donor's lines and this one.

        Args:
            line: The line.
            target_id: The trial that took over another's state.
            donor_id: The trial whose state it took, perhaps the target itself.

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
            self._written = self._read_global()
        if text in self._written:
            return
        # The global file is written last, so a line in it is also in the target's file. After a crash in
        # between, the donor's file is still as it was when the line was first written.
        target = self._path(policy_file(target_id))
        if not (read_text(target) or "").endswith(text):
            inherited = read_text(self._path(policy_file(donor_id))) or ""
            carry_out(Replace(target, inherited + text))
        carry_out(Append(self._path(GLOBAL_FILE), text))
        self._written.add(text)

    def _read_global(self) -> set[str]:
        """Return the lines of the global file, and cut off a line that a crash left unfinished."""
        path = self._path(GLOBAL_FILE)
        text = read_text(path) or ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            carry_out(Replace(path, whole))
        return set(whole.splitlines(keepends=True))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


def policy_line(event: ev.Exploited) -> PolicyLine:
    """Return the line that records an exploit."""
    return PolicyLine(
        target_tag=event.target_tag,
        donor_tag=event.donor_tag,
        target_iteration=event.target_iteration,
        donor_iteration=event.iteration,
        donor_config=event.donor_config,
        config=event.config,
    )
