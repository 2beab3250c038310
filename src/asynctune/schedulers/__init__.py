"""Schedulers: who decides after each result how a trial goes on."""

from asynctune.schedulers.base import (
    Decision,
    Exploit,
    FIFOScheduler,
    Free,
    TrialScheduler,
    Verdict,
)

__all__ = ["Decision", "Exploit", "FIFOScheduler", "Free", "TrialScheduler", "Verdict"]
