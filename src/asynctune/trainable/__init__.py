"""What users write, and everything that runs where it trains; ``worker`` is the worker process."""

from asynctune.trainable.base import Trainable

__all__ = ["Trainable"]
