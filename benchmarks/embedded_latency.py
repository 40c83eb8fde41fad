"""Time of one picture on one core with the shipped network: resizing and network, decoding apart.

    python -m benchmarks.embedded_latency

CPU time of the thread, median of 40, so that other work on the machine does not count.
"""

from __future__ import annotations

import platform
import time

import numpy as np

from models.base import Frame
from models.embedded.model import Embedded

SIZES = ((224, 224), (640, 480), (512, 288), (1280, 720), (1920, 1080))


def milliseconds(model: Embedded, size: tuple[int, int], rounds: int = 40) -> list[float]:
    """CPU time of `assess` for pictures of random pixels, each of its own."""
    rng, spent = np.random.default_rng(0), []
    for _ in range(rounds):
        frame = Frame.of(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        began = time.thread_time()
        model.assess([frame])
        spent.append((time.thread_time() - began) * 1e3)
    return spent


def main() -> None:
    """Print one line per size."""
    model = Embedded()
    model.load("cpu")
    model.warm_up()
    print(f"{platform.machine()}, one thread")
    print("| picture | network input | median ms | 95 % below |\n|---|---|---|---|")
    for size in SIZES:
        spent = milliseconds(model, size)
        frame = Frame.of(np.zeros((size[1], size[0], 3), np.uint8))
        wide, tall = model.assess([frame])[0].evidence["input"]
        print(f"| {size[0]} x {size[1]} | {wide} x {tall} | {np.median(spent):.1f} | {np.percentile(spent, 95):.1f} |")


if __name__ == "__main__":
    main()
