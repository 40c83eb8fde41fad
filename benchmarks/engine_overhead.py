"""CPU that the cascade itself costs per request, with models that answer at once.

    python benchmarks/engine_overhead.py [--requests N] [--profile]

Prints milliseconds of process CPU (all threads) and of wall time per request, for one caller after the other and for
32 at once, with one instant model; then what a fit with calibrations and an interval adds, and two tiers. Exit code 1
if one instant model costs more than the limit. `--profile` shows where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.calibration import Beta, VennAbers
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.fusion import Fit, Stack
from cascade.profile import Member, Profile, Tier
from models.base import Frame
from models.fake import Fake

LIMIT_MS = 0.3
REPEATS = 5


def profile(*keys: str, fit: Fit | None = None) -> Profile:
    """One tier per key, every one asked."""
    tiers = tuple(Tier(name=key, expected_ms=1.0, members=(Member(model=key),)) for key in keys)
    return Profile(name="overhead", band=(0.0, 1.0), tiers=tiers, fit=fit)


def fitted() -> Fit:
    """A fit with everything a fit can have for one member."""
    x = tuple(float(v) for v in np.linspace(-6.0, 6.0, 200))
    low, high = tuple(v - 0.5 for v in x), tuple(v + 0.5 for v in x)
    stack = Stack(
        weights={"a": 0.9},
        bias=0.1,
        calibration=Beta(a=0.8, b=0.9, c=0.1),
        interval=VennAbers(x=x, low=low, high=high),
    )
    return Fit(
        profile="overhead",
        date="2026-11-23T12:00:00+00:00",
        data_sha256="0" * 64,
        n=1000,
        prevalence=0.5,
        band=(0.0, 1.0),
        members={"a": Beta(a=0.8, b=0.9, c=0.1)},
        pooled=stack,
        subsets={"a": stack},
    )


async def measure(chosen: Profile, requests: int, at_once: int) -> tuple[float, float]:
    """(CPU, wall) milliseconds per request: the best of some repeats, since others share the machine."""
    models = {member.model: Fake(member.model, 0.1) for member in chosen.members}
    engine = Engine(chosen, models)
    await engine.start()
    frame = Frame.of(np.zeros((224, 224, 3), np.uint8))

    async def caller(name: str) -> None:
        for _ in range(requests // at_once):
            await engine.decide(frame, Deadline.after(8.0), name)

    cpu, wall = [], []
    for _ in range(REPEATS):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(str(i)) for i in range(at_once)))
        done = requests // at_once * at_once
        cpu.append((time.process_time() - cpu_begun) / done * 1e3)
        wall.append((time.perf_counter() - begun) / done * 1e3)
    await engine.close()
    return min(cpu), min(wall)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=2000, help="per repeat (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="show where the time of the event loop's thread goes")
    arguments = parser.parse_args()
    if arguments.profile:
        watch = cProfile.Profile()
        watch.enable()
        asyncio.run(measure(profile("a"), arguments.requests, 1))
        watch.disable()
        pstats.Stats(watch).sort_stats("tottime").print_stats(20)
        return 0
    cases = [
        ("one instant model, one caller", profile("a"), 1),
        ("one instant model, 32 callers at once", profile("a"), 32),
        ("the same with a fit and its interval", profile("a", fit=fitted()), 1),
        ("two tiers, both asked", profile("a", "b"), 1),
    ]
    print(f"{'':40} {'CPU ms':>8} {'wall ms':>8}   per request, best of {REPEATS} x {arguments.requests}")
    results = {}
    for name, chosen, at_once in cases:
        results[name] = asyncio.run(measure(chosen, arguments.requests, at_once))
        print(f"{name:40} {results[name][0]:8.3f} {results[name][1]:8.3f}")
    worst = max(results[name][0] for name, _, _ in cases[:2])
    print(f"limit for one instant model: {LIMIT_MS} ms of CPU: {'kept' if worst <= LIMIT_MS else 'EXCEEDED'}")
    return int(worst > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
