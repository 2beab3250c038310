"""The first record that a run writes into the journal."""

from __future__ import annotations

import os
import socket
import time

from asynctune._version import __version__
from asynctune.executors.serialization import SerializedTrainable
from asynctune.experiment import events as ev
from asynctune.experiment.history import History
from asynctune.experiment.reader import FORMAT
from asynctune.runner.plan.plan import Plan


def start_record(
    plan: Plan, serialized: SerializedTrainable, history: History | None = None
) -> ev.RunStarted:
    """Return the record of the start of a run.

    Args:
        plan: The plan of the run.
        serialized: The trainable.
        history: The previous runs of the experiment, None if there are none.
    """
    options = plan.options
    return ev.RunStarted(
        format=FORMAT,
        name=plan.name,
        trainable=serialized.name,
        metric=options.metric,
        mode=options.mode,
        seed=plan.seed,
        num_samples=options.num_samples,
        started_at=time.time(),
        pid=os.getpid(),
        host=socket.gethostname(),
        version=__version__,
        space=plan.space.fingerprint(),
        epoch=history.epoch if history is not None else 0,
    )
