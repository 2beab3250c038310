"""The resources of this machine: usable CPUs, GPUs, and the environment variables of a worker."""

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
    """Return the environment of a worker: that of this process, limited to the trial's share.

    Args:
        spec: The actor that the worker is for. ``CUDA_VISIBLE_DEVICES`` lists the GPUs of its share; each
            thread count of BLAS or OpenMP that the user has not set equals the CPUs of its share.
    """
    environment = dict(os.environ)
    threads = str(spec.share.resources.threads)
    for name in _THREAD_COUNTS:
        environment.setdefault(name, threads)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.share.gpu_ids)
    return environment


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def gpu_ids(gpus: int | Sequence[int | str] | None) -> list[str]:
    """Return the ids that the argument ``gpus`` of an executor stands for.

    Args:
        gpus: The number of GPUs, whose ids are then 0, 1 and so on, or a list of ids; None for no GPUs.

    Raises:
        ConfigError: ``gpus`` is negative or a string.
    """
    if gpus is None:
        return []
    if isinstance(gpus, str):
        raise ConfigError(f"gpus must be an int of at least 0 or a list of ids, got {gpus!r}")
    if isinstance(gpus, int):
        if gpus < 0:
            raise ConfigError(f"gpus must be an int of at least 0 or a list of ids, got {gpus}")
        return [str(index) for index in range(gpus)]
    return [str(gpu) for gpu in gpus]


def detected_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use.

    They come from ``CUDA_VISIBLE_DEVICES`` if it is set, otherwise from the NVIDIA driver. This reads
    files: call it in a thread.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
    try:
        return [str(index) for index in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
