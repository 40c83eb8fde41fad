"""What the NVIDIA driver says of the cards. The only module that knows nvidia-ml-py (extra `gpu`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from models.installing import pip_install
from models.planner import MARGIN

GB = 1e9


class NoCards(Exception):
    """No card could be read. The message says why."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card at one moment. Memory in bytes; utilisation: share of the last moments with a kernel at work."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    utilisation: float
    driver: str
    cuda: str

    @property
    def room(self) -> float:
        """GB that models may be placed in: a margin is left to the driver and others."""
        return round(self.memory_total / GB * MARGIN, 1)


def cards() -> list[Card]:
    """Every card of this machine. Raises NoCards when the library, the driver or the cards are missing."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        raise NoCards(f"nvidia-ml-py is not installed; {pip_install('nvidia-ml-py>=12')}") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NoCards(f"no NVIDIA driver: {error}") from None
    try:
        driver, cuda = _text(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlSystemGetCudaDriverVersion_v2()
        version = f"{cuda // 1000}.{cuda % 1000 // 10}"
        found = [_card(nvml, index, driver, version) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise NoCards(f"the NVIDIA driver answers with an error: {error}") from None
    finally:
        nvml.nvmlShutdown()
    if not found:
        raise NoCards(f"NVIDIA driver {driver}, but no card")
    return found


def _card(nvml: Any, index: int, driver: str, cuda: str) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError_NotSupported:  # a MIG slice has memory of its own, but no utilisation
        busy = 0.0
    return Card(index, _text(nvml.nvmlDeviceGetName(handle)), memory.total, memory.used, busy, driver, cuda)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
