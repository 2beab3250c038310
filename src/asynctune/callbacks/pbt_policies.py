"""The policy files of PBT, which record the exploits of an experiment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
        """Make the files those of the journal of the previous runs. Slow; call it in a thread."""
        if self._history is not None:
            events = (event for _, event in self._history.reader.events())
            self._files.rebuild(event for event in events if isinstance(event, ev.Exploited))

    def on_trial_exploit(self, trial: Trial, exploit: ev.Exploited) -> None:
        self._files.append(exploit)


class PbtPolicyFiles:
    """Writes the policy files of one experiment. Blocks; call it in a thread.

    The global file holds a line for each exploit. The file of a trial holds the lines of its donor at that
    moment, and then the line of its own exploit: the configurations that led to its state.

    Args:
        directory: The directory of the experiment.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(directory)

    def append(self, exploit: ev.Exploited) -> None:
        """Append the line of an exploit to the global file, and write the file of its target.

        Raises:
            StorageError: The files cannot be written.
        """
        text = policy_line(exploit).text() + "\n"
        target = policy_file(exploit.trial_id)
        with self._naming(GLOBAL_FILE, target):
            inherited = read_text(self._path(policy_file(exploit.donor))) or ""
            carry_out(Replace(self._path(target), inherited + text))
            carry_out(Append(self._path(GLOBAL_FILE), text))

    def rebuild(self, exploits: Iterable[ev.Exploited]) -> None:
        """Make the files hold exactly these exploits, whatever a crash has left in them.

        Lines are not compared one by one: an exploit may repeat the text of an earlier one.

        Raises:
            StorageError: The files cannot be written.
        """
        texts = {GLOBAL_FILE: ""}
        for exploit in exploits:
            text = policy_line(exploit).text() + "\n"
            texts[GLOBAL_FILE] += text
            inherited = texts.get(policy_file(exploit.donor), "")
            texts[policy_file(exploit.trial_id)] = inherited + text
        for name, text in texts.items():
            with self._naming(name):
                if text and read_text(self._path(name)) != text:
                    carry_out(Replace(self._path(name), text))

    @contextmanager
    def _naming(self, *names: str) -> Iterator[None]:
        """Name the files in the error of a failed call."""
        try:
            yield
        except OSError as exc:
            paths = " or ".join(map(self._path, names))
            raise storage_error(exc, f"cannot write {paths}") from exc

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
