"""Function trainables and their reporter, under their public import path."""

from __future__ import annotations

from asynctune.trainable.function import AsyncFunctionTrainable, FunctionTrainable, wrap_function
from asynctune.trainable.reporter import StatusReporter

__all__ = ["AsyncFunctionTrainable", "FunctionTrainable", "StatusReporter", "wrap_function"]
