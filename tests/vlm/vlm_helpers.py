"""Pictures, small engines and waiting for states, for the tests beside this file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models import catalog
from models.base import Frame
from models.vlm.engine import Engine
from models.vlm.prompts import Thought
from models.vlm.settings import EngineSettings

KEY = "qwen3-vl-4b"
SMALL = EngineSettings(kv_cache_tokens=8192, max_model_len=2048, max_requests=4, eager=True)
THOUGHT = Thought(tokens=12, seconds=60.0, samples=2)


def small_engine(directory: Path) -> Engine:
    """An engine over a tiny checkpoint. Top of a module, so that a worker process can make it."""
    return Engine(catalog.find(KEY), SMALL, directory)


def picture(seed: int, size: tuple[int, int] = (256, 256)) -> Frame:
    """A smooth random picture, (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), np.uint8)
    rows, columns = (np.linspace(0, 4, side).astype(int) for side in size)
    return Frame.of(coarse[rows][:, columns])


def until(state: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until a state is reached; fails loudly after `seconds`."""
    begun = time.monotonic()
    while not state():
        assert time.monotonic() - begun < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begun


def processes_of(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, members = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(members) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process has been stopped by a signal."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def cores_of(group: int) -> list[int]:
    """Those of them that are cores of vLLM engines; there is at least one."""
    found = [pid for pid in processes_of(group) if b"VLLM::EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert found, "no engine's core"
    return found
