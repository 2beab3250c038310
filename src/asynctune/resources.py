"""The resources of a trial: amounts of CPUs, GPUs and custom resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from asynctune._checks import argument_error, check_number

_FIELDS = ("cpu", "gpu", "extra_cpu", "extra_gpu", "custom_resources")


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources that one trial holds while it runs.

    Args:
        cpu: CPUs of the trial itself; also its number of BLAS and OpenMP threads (at least 1).
        gpu: GPUs of the trial itself; a trial with a fraction shares one GPU with other trials.
        extra_cpu: CPUs for processes that the trial starts.
        extra_gpu: GPUs for processes that the trial starts.
        custom_resources: Amounts of the executor's custom resources, by name.

    Raises:
        ConfigError: An amount is no number, is negative, or is above 1 and no whole number of GPUs.
    """

    cpu: float = 1
    gpu: float = 0
    extra_cpu: float = 0
    extra_gpu: float = 0
    custom_resources: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _FIELDS[:4]:
            object.__setattr__(self, name, _amount(name, getattr(self, name)))
        if not isinstance(self.custom_resources, Mapping):
            raise argument_error(
                "Resources", "custom_resources", "a dict of amounts", self.custom_resources
            )
        custom = {
            str(name): _amount(f"custom_resources[{name!r}]", amount)
            for name, amount in self.custom_resources.items()
        }
        object.__setattr__(self, "custom_resources", MappingProxyType(custom))
        for name in ("gpu", "extra_gpu"):
            amount = getattr(self, name)
            if amount > 1 and amount != int(amount):
                what = "a whole number of GPUs, or a fraction of one"
                raise argument_error("Resources", name, what, amount)

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy does not pickle
        return Resources, tuple(self.to_dict().values())

    def to_dict(self) -> dict[str, Any]:
        """Return the resources as a dict of plain JSON values."""
        amounts = {name: getattr(self, name) for name in _FIELDS}
        return amounts | {"custom_resources": dict(self.custom_resources)}

    @classmethod
    def from_mapping(cls, amounts: Mapping[str, Any] | Resources, what: str) -> Resources:
        """Return the resources of a dict, in which a missing ``cpu`` is 1.

        Args:
            amounts: The dict; resources are returned unchanged.
            what: The name of the dict in errors.

        Raises:
            ConfigError: The dict has an unknown key or a wrong amount.
        """
        if isinstance(amounts, Resources):
            return amounts
        if not isinstance(amounts, Mapping):
            raise argument_error("", what, "a dict such as {'cpu': 1}", amounts)
        unknown = [key for key in amounts if key not in _FIELDS]
        if unknown:
            keys = f"one of {', '.join(_FIELDS)}"
            hint = "put other resources into custom_resources"
            raise argument_error("", f"each key of {what}", keys, unknown[0], hint)
        return cls(**amounts)

    @property
    def cpu_total(self) -> float:
        """The number of CPUs that the trial and its processes hold."""
        return round(self.cpu + self.extra_cpu, 2)

    @property
    def gpu_total(self) -> float:
        """The number of GPUs that the trial and its processes hold."""
        return round(self.gpu + self.extra_gpu, 2)

    @property
    def threads(self) -> int:
        """The number of threads that BLAS and OpenMP may use in the trial."""
        return max(1, int(self.cpu))

    def __str__(self) -> str:
        parts = [f"{number_text(self.cpu_total)} CPU", f"{number_text(self.gpu_total)} GPU"]
        parts += [f"{number_text(amount)} {name}" for name, amount in self.custom_resources.items()]
        return ", ".join(parts)


def _amount(name: str, value: Any) -> float:
    amount = check_number("Resources", name, value, least=0)
    if 0 < amount < 0.005:
        what = "0 or at least 0.005, since amounts are rounded to hundredths"
        raise argument_error("Resources", name, what, value)
    rounded = round(float(amount), 2)  # so that 3 x 0.33 + 0.01 is 1 despite binary fractions
    return int(rounded) if rounded == int(rounded) else rounded


def number_text(value: float) -> str:
    """Return an amount as text for messages."""
    return f"{value:g}"
