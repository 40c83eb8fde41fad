"""What the miner knows of its subnet at one moment. Plain values: the gate and the tests need no chain."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


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
    """The subnet at one block. taken_at: unix time in seconds when it was read; 0 means never.

    genesis: hash of the chain's first block (0x...), which tells one chain from another.
    """

    netuid: int
    block: int = 0
    taken_at: float = 0.0
    neurons: Mapping[str, Neuron] = field(default_factory=dict)  # by hotkey
    genesis: str = ""


def save(snapshot: Snapshot, path: Path) -> None:
    """Write as JSON; a reader, in this process or another, sees the old file or the new one, never half. OSError."""
    value = asdict(snapshot) | {"neurons": [asdict(neuron) for neuron in snapshot.neurons.values()]}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def load(path: Path) -> Snapshot:
    """What `save` wrote. Raises OSError, or ValueError when the file holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        neurons = [Neuron(**one) for one in value.pop("neurons")]
        return Snapshot(**value, neurons={neuron.hotkey: neuron for neuron in neurons})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a snapshot of the subnet, got something else ({error})") from error
