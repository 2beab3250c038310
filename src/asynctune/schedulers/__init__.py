"""Schedulers: they decide after each result whether and how a trial goes on."""

from asynctune.schedulers.asha import ASHAScheduler, AsyncHyperBandScheduler
from asynctune.schedulers.base import (
    Decision,
    Exploit,
    FIFOScheduler,
    Free,
    TrialScheduler,
    Verdict,
    score_of,
    time_of,
)
from asynctune.schedulers.hyperband import HyperBandForBOHB, HyperBandScheduler
from asynctune.schedulers.median import MedianStoppingRule
from asynctune.schedulers.multi_objective import MultiObjectiveASHAScheduler
from asynctune.schedulers.pb2 import PB2
from asynctune.schedulers.pbt import PopulationBasedTraining
from asynctune.schedulers.pbt_replay import PopulationBasedTrainingReplay

__all__ = [
    "PB2", "ASHAScheduler", "AsyncHyperBandScheduler", "Decision", "Exploit", "FIFOScheduler", "Free",
    "HyperBandForBOHB", "HyperBandScheduler", "MedianStoppingRule", "MultiObjectiveASHAScheduler",
    "PopulationBasedTraining", "PopulationBasedTrainingReplay", "TrialScheduler", "Verdict",
    "score_of", "time_of",
]  # fmt: skip
