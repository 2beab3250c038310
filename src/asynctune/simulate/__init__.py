"""Tuning in virtual time: runs on recorded learning curves, thousands of hours in seconds.

::

    curves = simulate.Curves.load("curves.jsonl.gz")
    found = simulate.run(
        simulate.tune(curves, workers=64, num_samples=1000, metric="loss", mode="min", scheduler=...)
    )
    print(found.seconds, found.analysis.best_config)

:func:`tune` is :func:`asynctune.run` with a :class:`SimulatedExecutor`; the runner, the schedulers and the
searchers are those of any run. :func:`run` runs any coroutine in virtual time.
"""

from asynctune.simulate.curves import CURVE, Curve, Curves
from asynctune.simulate.executor import SIMULATED_S, SimulatedExecutor
from asynctune.simulate.loop import VirtualLoop, run
from asynctune.simulate.session import Simulated, tune

__all__ = [
    "CURVE",
    "SIMULATED_S",
    "Curve",
    "Curves",
    "Simulated",
    "SimulatedExecutor",
    "VirtualLoop",
    "run",
    "tune",
]
