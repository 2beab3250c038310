"""The resources of an executor, and the shares of them that trials hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from asynctune.errors import ConfigError
from asynctune.resources import Resources, number_text

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a pool, leased to one trial.

    Args:
        resources: The amounts that the trial requested.
        gpu_ids: The ids of the assigned GPUs; those of ``extra_gpu`` come last.
    """

    resources: Resources
    gpu_ids: tuple[str, ...] = ()


class ResourcePool:
    """The CPUs, GPUs and custom resources of an executor. The pool counts them and never waits.

    Args:
        cpus: The number of CPUs in total; ``math.inf`` for an executor that counts no resources.
        gpus: The ids of the GPUs.
        custom: The amounts of other resources, by name.
        slots: The maximum number of shares at once; None for as many as fit.

    Attributes:
        leased: The number of shares that are leased now.
    """

    def __init__(
        self,
        cpus: float,
        gpus: Sequence[str] = (),
        custom: Mapping[str, float] = _NOTHING,
        slots: int | None = None,
    ) -> None:
        self.cpus = cpus
        self.gpus = tuple(gpus)
        self.custom = dict(custom)
        self.slots = slots
        self._free_cpus = cpus
        self._free_gpus = dict.fromkeys(self.gpus, 1.0)
        self._free_custom = dict(custom)
        self.leased = 0

    def set_gpus(self, gpus: Sequence[str]) -> None:
        """Set the ids of the GPUs. Allowed only while no share is leased."""
        self.gpus = tuple(gpus)
        self._free_gpus = dict.fromkeys(self.gpus, 1.0)

    def check(self, resources: Resources, *, what: str, advice: str = "") -> None:
        """Raise an error if a request does not fit even into the empty pool.

        Args:
            resources: The amounts that a trial requests.
            what: The name of the trial or trainable, for the message.
            advice: Text that follows the message, e.g. from ``Trainable.resource_help``.

        Raises:
            ConfigError: The request can never be granted; the message compares the request with the pool.
        """
        asked = [("cpu", resources.cpu_total, self.cpus)]
        if not math.isinf(self.cpus):
            asked.append(("gpu", resources.gpu_total, float(len(self.gpus))))
            asked += [
                (name, amount, self.custom.get(name, 0.0))
                for name, amount in resources.custom_resources.items()
            ]
        for name, amount, total in asked:
            if amount > total:
                text = (
                    f"{what} asks for {number_text(amount)} {name}, but the executor has "
                    f"{number_text(total)} in all; it can never start"
                )
                raise ConfigError(f"{text}. {advice}" if advice else text)

        whole = dict.fromkeys(self.gpus, 1.0)
        if not math.isinf(self.cpus) and self._pick_gpus(resources, whole) is None:
            text = (
                f"{what} asks for gpu={number_text(resources.gpu)} and extra_gpu="
                f"{number_text(resources.extra_gpu)}, which cannot come from one GPU, and the executor has "
                f"{len(self.gpus)} in all; it can never start"
            )
            raise ConfigError(f"{text}. {advice}" if advice else text)

    def fits(self, resources: Resources) -> float:
        """Return how many trials with this request fit into the empty pool at once; may be ``math.inf``."""
        most = math.inf if self.slots is None else float(self.slots)
        if math.isinf(self.cpus):
            return most
        asked = [(resources.cpu_total, self.cpus), (resources.gpu_total, float(len(self.gpus)))]
        asked += [
            (amount, self.custom.get(name, 0.0))
            for name, amount in resources.custom_resources.items()
        ]
        return min([most, *(math.floor(round(total / n, 6)) for n, total in asked if n)])

    def acquire(self, resources: Resources) -> Share | None:
        """Lease a share, or return None if the request does not fit now."""
        if self.slots is not None and self.leased >= self.slots:
            return None
        if round(self._free_cpus - resources.cpu_total, 2) < 0:
            return None
        if math.isinf(self.cpus):
            self.leased += 1
            return Share(resources)
        for name, amount in resources.custom_resources.items():
            if round(self._free_custom.get(name, 0.0) - amount, 2) < 0:
                return None
        gpu_ids = self._pick_gpus(resources, self._free_gpus)
        if gpu_ids is None:
            return None
        self._move(resources, gpu_ids, -1)
        self.leased += 1
        return Share(resources, gpu_ids)

    def release(self, share: Share) -> None:
        """Take back a leased share."""
        self.leased -= 1
        if not math.isinf(self.cpus):
            self._move(share.resources, share.gpu_ids, +1)

    @staticmethod
    def _pick_gpus(resources: Resources, free_gpus: Mapping[str, float]) -> tuple[str, ...] | None:
        picked: list[str] = []
        for amount in (resources.gpu, resources.extra_gpu):
            if 0 < amount < 1:
                # The fullest GPU that has room, so that unused GPUs stay free for whole requests.
                fits = [
                    (free, gpu)
                    for gpu, free in free_gpus.items()
                    if gpu not in picked and round(free - amount, 2) >= 0
                ]
                if not fits:
                    return None
                picked.append(min(fits, key=lambda pair: pair[0])[1])
            elif amount:
                whole = [g for g, free in free_gpus.items() if free == 1 and g not in picked]
                if len(whole) < amount:
                    return None
                picked += whole[: math.ceil(amount)]
        return tuple(picked)

    def _move(self, resources: Resources, gpu_ids: tuple[str, ...], sign: int) -> None:
        self._free_cpus = round(self._free_cpus + sign * resources.cpu_total, 2)
        for name, amount in resources.custom_resources.items():
            if not amount:  # a request of 0 may name a resource that the pool does not have
                continue
            self._free_custom[name] = round(self._free_custom[name] + sign * amount, 2)
        amounts = _per_gpu(resources.gpu) + _per_gpu(resources.extra_gpu)
        for gpu, amount in zip(gpu_ids, amounts, strict=True):
            self._free_gpus[gpu] = round(self._free_gpus[gpu] + sign * amount, 2)


def _per_gpu(amount: float) -> list[float]:
    return [amount] if 0 < amount < 1 else [1.0] * math.ceil(amount)
