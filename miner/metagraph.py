"""What the miner knows of its subnet at one moment. Plain values: the gate and the tests need no chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Neuron:
    """One registered hotkey. hotkey: SS58 address. stake: in TAO as the metagraph's `S` column gives it."""

    uid: int
    hotkey: str
    stake: float
    validator_permit: bool
    ip: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The subnet at one block. taken_at: unix time in seconds when it was read; 0 means never."""

    netuid: int
    block: int = 0
    taken_at: float = 0.0
    neurons: Mapping[str, Neuron] = field(default_factory=dict)  # by hotkey
