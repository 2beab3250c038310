"""What a trial asks for: amounts of CPUs, GPUs and custom resources."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from asynctune.errors import ConfigError

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
        parts = [f"{number_text(self.cpu_total)} CPU", f"{number_text(self.gpu_total)} GPU"]
        parts += [f"{number_text(amount)} {name}" for name, amount in self.custom_resources.items()]
        return ", ".join(parts)


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


def number_text(value: float) -> str:
    """Return an amount as messages show it."""
    return f"{value:g}"
