"""What a trial asks for (:class:`Resources`) and the book of what is free (:class:`ResourcePool`)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from asynctune.errors import ConfigError

_NOTHING: Mapping[str, float] = MappingProxyType({})
_FIELDS = ("cpu", "gpu", "extra_cpu", "extra_gpu", "custom_resources")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial holds while it runs.

    Args:
        cpu: CPUs of the trial itself; also its number of BLAS and OpenMP threads (at least 1).
        gpu: GPUs of the trial itself; a fraction shares one GPU with other trials.
        extra_cpu: CPUs held for processes that the trial starts by itself.
        extra_gpu: GPUs held for processes that the trial starts by itself.
        custom_resources: Amounts of resources that the executor was given by name.

    Raises:
        ConfigError: An amount is no number, negative, or an impossible share of a GPU.
    """

    cpu: float = 1
    gpu: float = 0
    extra_cpu: float = 0
    extra_gpu: float = 0
    custom_resources: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _FIELDS[:4]:
            object.__setattr__(self, name, _amount(f"resources.{name}", getattr(self, name)))
        if not isinstance(self.custom_resources, Mapping):
            raise ConfigError(
                f"resources.custom_resources is {self.custom_resources!r}; a dict of amounts is wanted"
            )
        custom = {
            str(name): _amount(f"resources.custom_resources[{name!r}]", amount)
            for name, amount in self.custom_resources.items()
        }
        object.__setattr__(self, "custom_resources", MappingProxyType(custom))
        for name in ("gpu", "extra_gpu"):
            amount = getattr(self, name)
            if amount > 1 and amount != int(amount):
                raise ConfigError(
                    f"resources.{name} is {amount}: above 1 whole GPUs are wanted, below it a fraction"
                )

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy does not pickle
        return Resources, tuple(self.to_dict().values())

    def to_dict(self) -> dict[str, Any]:
        """Return the dict form, in which JSON can hold it."""
        amounts = {name: getattr(self, name) for name in _FIELDS}
        return amounts | {"custom_resources": dict(self.custom_resources)}

    @classmethod
    def from_mapping(cls, amounts: Mapping[str, Any] | Resources, what: str) -> Resources:
        """Read the dict form, in which a missing ``cpu`` is 1.

        Args:
            amounts: The dict, or resources as they are.
            what: How errors call it.
        """
        if isinstance(amounts, Resources):
            return amounts
        if not isinstance(amounts, Mapping):
            raise ConfigError(f"{what} is {amounts!r}; a dict such as {{'cpu': 1}} is wanted")
        unknown = [key for key in amounts if key not in _FIELDS]
        if unknown:
            raise ConfigError(
                f"{what} has the unknown key {unknown[0]!r}; known are {', '.join(_FIELDS)} "
                "(other resources go into custom_resources)"
            )
        return cls(**amounts)

    @property
    def cpu_total(self) -> float:
        """CPUs held in all."""
        return round(self.cpu + self.extra_cpu, 2)

    @property
    def gpu_total(self) -> float:
        """GPUs held in all."""
        return round(self.gpu + self.extra_gpu, 2)

    @property
    def threads(self) -> int:
        """How many threads BLAS and OpenMP may use in the trial."""
        return max(1, int(self.cpu))

    def __str__(self) -> str:
        parts = [f"{_number(self.cpu_total)} CPU", f"{_number(self.gpu_total)} GPU"]
        parts += [f"{_number(amount)} {name}" for name, amount in self.custom_resources.items()]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a pool, lent to one trial.

    Args:
        resources: What was asked for.
        gpu_ids: The GPUs that were assigned, extra ones last.
    """

    resources: Resources
    gpu_ids: tuple[str, ...] = ()


class ResourcePool:
    """The book of an executor's CPUs, GPUs and custom resources. Pure: it never waits.

    Args:
        cpus: CPUs in all; ``math.inf`` for an executor that does not count them.
        gpus: The ids of the GPUs.
        custom: Other resources by name.
        slots: How many shares may be lent at once; None: as many as fit.
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
        self.lent = 0

    def set_gpus(self, gpus: Sequence[str]) -> None:
        """Say which GPUs there are; before anything is lent."""
        self.gpus = tuple(gpus)
        self._free_gpus = dict.fromkeys(self.gpus, 1.0)

    def check(self, resources: Resources, *, what: str, advice: str = "") -> None:
        """Refuse what even the empty pool could not give.

        Args:
            resources: What a trial asks for.
            what: How the error calls the asker.
            advice: Text to add, e.g. of ``Trainable.resource_help``.

        Raises:
            ConfigError: It can never be given; the message compares what is asked with what is there.
        """
        asked = [("cpu", resources.cpu_total, self.cpus)]
        if not math.isinf(self.cpus):
            asked.append(("gpu", resources.gpu_total, float(len(self.gpus))))
            asked += [
                (name, amount, self.custom.get(name, 0.0))
                for name, amount in resources.custom_resources.items()
            ]
        for name, amount, there in asked:
            if amount > there:
                text = (
                    f"{what} asks for {_number(amount)} {name}, but the executor has "
                    f"{_number(there)} in all; it can never start"
                )
                raise ConfigError(f"{text}. {advice}" if advice else text)

        whole = dict.fromkeys(self.gpus, 1.0)
        if not math.isinf(self.cpus) and self._pick_gpus(resources, whole) is None:
            text = (
                f"{what} asks for gpu={_number(resources.gpu)} and extra_gpu="
                f"{_number(resources.extra_gpu)}, which cannot come from one GPU, and the executor has "
                f"{len(self.gpus)} in all; it can never start"
            )
            raise ConfigError(f"{text}. {advice}" if advice else text)

    def fits(self, resources: Resources) -> float:
        """Return how many trials that ask for this fit into the empty pool, ``math.inf`` for any."""
        most = math.inf if self.slots is None else float(self.slots)
        if math.isinf(self.cpus):
            return most
        asked = [(resources.cpu_total, self.cpus), (resources.gpu_total, float(len(self.gpus)))]
        asked += [
            (amount, self.custom.get(name, 0.0))
            for name, amount in resources.custom_resources.items()
        ]
        return min([most, *(math.floor(round(there / n, 6)) for n, there in asked if n)])

    def take(self, resources: Resources) -> Share | None:
        """Lend a share, or return None if it does not fit now."""
        if self.slots is not None and self.lent >= self.slots:
            return None
        if round(self._free_cpus - resources.cpu_total, 2) < 0:
            return None
        if math.isinf(self.cpus):
            self.lent += 1
            return Share(resources)
        for name, amount in resources.custom_resources.items():
            if round(self._free_custom.get(name, 0.0) - amount, 2) < 0:
                return None
        gpu_ids = self._pick_gpus(resources, self._free_gpus)
        if gpu_ids is None:
            return None
        self._move(resources, gpu_ids, -1)
        self.lent += 1
        return Share(resources, gpu_ids)

    def give_back(self, share: Share) -> None:
        """Take a lent share back."""
        self.lent -= 1
        if not math.isinf(self.cpus):
            self._move(share.resources, share.gpu_ids, +1)

    @staticmethod
    def _pick_gpus(resources: Resources, free_gpus: Mapping[str, float]) -> tuple[str, ...] | None:
        picked: list[str] = []
        for amount in (resources.gpu, resources.extra_gpu):
            if 0 < amount < 1:
                # The fullest one that still has room: whole ones stay whole for those who need them.
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
            if not amount:  # of a name that the pool need not know
                continue
            self._free_custom[name] = round(self._free_custom[name] + sign * amount, 2)
        amounts = _per_gpu(resources.gpu) + _per_gpu(resources.extra_gpu)
        for gpu, amount in zip(gpu_ids, amounts, strict=True):
            self._free_gpus[gpu] = round(self._free_gpus[gpu] + sign * amount, 2)


def _per_gpu(amount: float) -> list[float]:
    return [amount] if 0 < amount < 1 else [1.0] * math.ceil(amount)


def _amount(what: str, value: Any) -> float:
    wrong = isinstance(value, bool) or not isinstance(value, numbers.Real)
    try:
        wrong = wrong or not math.isfinite(value) or value < 0
    except OverflowError:
        wrong = True
    if wrong:
        raise ConfigError(f"{what} is {value!r:.50}; a number of 0 or more is wanted")
    if 0 < value < 0.005:
        raise ConfigError(f"{what} is {value}; amounts are counted in hundredths")
    rounded = round(float(value), 2)  # so that 3 x 0.33 + 0.01 is 1, whatever the binary fractions
    return int(rounded) if rounded == int(rounded) else rounded


def _number(value: float) -> str:
    return f"{value:g}"
