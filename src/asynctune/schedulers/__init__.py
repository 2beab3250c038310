"""Schedulers: who decides after each result how a trial goes on."""

from asynctune.schedulers.base import Decision, FIFOScheduler, TrialScheduler

__all__ = ["Decision", "FIFOScheduler", "TrialScheduler"]
