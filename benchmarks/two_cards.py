"""Pictures per second of one model on one card and as replicas on several, through the cascade; then one worker dies.

    python -m benchmarks.two_cards --devices cuda:0 cuda:1 --out DIR [--model siglip2-roadwork] [--batch 32]

The model has its real size and random weights (`benchmarks/sizes.py`), or comes from --directory; each replica
lives in a worker process of its own, as in the miner. Callers ask again as soon as they are answered. At the end the
first worker is killed under that load: how many requests went without an opinion, and when it was back.
Prints a table, writes DIR/two_cards.json. `--devices cpu cpu` checks that the script runs, and measures nothing of use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sizes import REAL
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.profile import Batching, Member, Profile, Tier
from models import catalog
from models.base import Frame, Model
from models.catalog import Entry
from models.replicas import Replicas
from models.worker import Policy, Remote, Worker

PATIENCE = Policy(hang=20.0, first=0.1)
WARM = 2.0  # seconds of load before counting


def made(entry: Entry, directory: Path) -> Model:
    """The adapter over a checkpoint directory: what a worker process makes."""
    return catalog.make(entry, directory)


def profile_of(key: str, batch: int) -> Profile:
    member = Member(model=key, timeout_ms=8000, batching=Batching(max_size=batch, max_wait_ms=2))
    return Profile(name="one-model", band=(0.1, 0.9), tiers=(Tier(name="one", expected_ms=10, members=(member,)),))


class Load:
    """Callers that ask again as soon as they are answered."""

    def __init__(self, engine: Engine, callers: int) -> None:
        rng = np.random.default_rng(0)
        self._engine = engine
        self._frames = [Frame.of(rng.integers(0, 255, (224, 224, 3), np.uint8)) for _ in range(64)]
        self.answered = self.without = 0
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(callers)]

    async def _ask(self, number: int) -> None:
        while True:
            frame = self._frames[number % len(self._frames)]
            verdict = await self._engine.decide(frame, Deadline.after(8.0), str(number))
            if verdict.opinions:
                self.answered += 1
            else:
                self.without += 1
                await asyncio.sleep(0.05)  # nobody answers at the moment

    async def rate(self, seconds: float) -> float:
        """Answered pictures per second over the next seconds."""
        before, begun = self.answered, time.monotonic()
        await asyncio.sleep(seconds)
        return (self.answered - before) / (time.monotonic() - begun)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def measure(workers: Sequence[Worker], devices: Sequence[str], entry: Entry, asked: Any) -> dict[str, Any]:
    """One row: the rate with these workers, and with more than one also what a death costs."""
    copies = [(Remote(entry.spec, worker), device) for worker, device in zip(workers, devices, strict=True)]
    engine = Engine(profile_of(entry.key, asked.batch * len(copies)), {entry.key: Replicas(copies)})
    await engine.start()
    load = Load(engine, 3 * asked.batch * len(copies))
    await load.rate(WARM)
    row: dict[str, Any] = {"devices": list(devices), "pictures_per_s": round(await load.rate(asked.seconds), 1)}
    if len(copies) > 1:
        row |= await killed(workers[0], load)
    await load.end()
    await engine.close()
    return row


async def killed(worker: Worker, load: Load) -> dict[str, Any]:
    """The first worker dies: the rate without it, requests without an opinion, seconds until it is back."""
    assert worker.pid is not None
    without, before, begun = load.without, worker.restarts, time.monotonic()
    os.kill(worker.pid, signal.SIGKILL)
    rate = await load.rate(1.0)
    await asyncio.to_thread(until_replaced, worker, before)
    return {
        "after_kill_pictures_per_s": round(rate, 1),
        "without_opinion": load.without - without,
        "back_s": round(time.monotonic() - begun, 1),
    }


def until_replaced(worker: Worker, restarts: int) -> None:
    while worker.restarts == restarts or not worker.ready:
        time.sleep(0.02)


async def run(asked: Any, entry: Entry, directory: Path) -> list[dict[str, Any]]:
    rows = []
    for count in sorted({1, len(asked.devices)}):
        factory = {entry.key: partial(made, entry, directory)}
        workers = [Worker(factory, PATIENCE, f"card-{index}") for index in range(count)]
        try:
            rows.append(await measure(workers, asked.devices[:count], entry, asked))
            print(json.dumps(rows[-1]), flush=True)
        finally:
            for worker in workers:
                worker.stop()
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--devices", nargs="+", required=True)
    options.add_argument("--model", default="siglip2-roadwork")
    options.add_argument("--directory", type=Path)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--out", type=Path, required=True)
    asked = options.parse_args()
    entry = catalog.find(asked.model)
    with tempfile.TemporaryDirectory() as made_here:
        directory = asked.directory or Path(made_here)
        if not asked.directory:
            REAL[asked.model](directory)
        rows = asyncio.run(run(asked, entry, directory))
    gain = rows[-1]["pictures_per_s"] / rows[0]["pictures_per_s"]
    print(f"{asked.model}, batch {asked.batch}: {len(asked.devices)} devices give {gain:.2f} times one")
    result = {"model": asked.model, "batch": asked.batch, "rows": rows, "gain": round(gain, 3)}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "two_cards.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
