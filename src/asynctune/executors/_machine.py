"""What this machine has for workers: its CPUs, its GPUs, and the environment that a worker gets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from asynctune.errors import ConfigError
from asynctune.executors.actor import ActorSpec

_THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def environment_of(spec: ActorSpec) -> dict[str, str]:
    """Return the environment that a worker has: this process's, and the trial's share of the machine."""
    environment = dict(os.environ)
    threads = str(spec.share.resources.threads)
    for name in _THREAD_COUNTS:
        environment.setdefault(name, threads)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.share.gpu_ids)
    return environment


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def gpu_ids(gpus: int | Sequence[int | str] | None) -> list[str]:
    """Return the ids of the GPUs that an executor was given."""
    if gpus is None:
        return []
    if isinstance(gpus, str):
        raise ConfigError(f"gpus is the string {gpus!r}; a number or a list of ids is wanted")
    if isinstance(gpus, int):
        if gpus < 0:
            raise ConfigError(f"gpus is {gpus}; 0 or more, or a list of ids, is wanted")
        return [str(index) for index in range(gpus)]
    return [str(gpu) for gpu in gpus]


def detected_gpus() -> list[str]:
    """Return the ids of the GPUs that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
    try:
        return [str(index) for index in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
