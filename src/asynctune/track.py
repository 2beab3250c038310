"""Reports from a function: ``track.log`` and its modern spelling ``tune.report``.

The session of a trial is a context variable, so each of several trials in one process has its own.
Outside a run, the same calls write to a stand-alone trial directory.
"""

from __future__ import annotations

from asynctune.trainable.session import get_checkpoint, log, report, trial_dir, trial_id, trial_name

__all__ = ["get_checkpoint", "log", "report", "trial_dir", "trial_id", "trial_name"]
