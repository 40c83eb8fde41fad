"""Memory of a worker process over 10,000 assessments: flat within 50 MB, or exit code 1.

    python benchmarks/worker_memory.py [--assessments 10000]

The worker holds one image classifier (a small random ViT in the library's own format, on the CPU) and gets 64 different
pictures in turn through shared memory. Needs torch and transformers; takes a minute or two on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from models import catalog
from models.base import Frame, Model
from models.catalog import Entry
from models.classifiers import Classifier
from models.worker import Policy, Worker

ALLOWED_MB = 50.0
WARM = 500  # assessments before the first reading: allocators and caches fill


def small_vit(directory: Path) -> None:
    import transformers as tf

    labels = {0: "None", 1: "Roadwork"}
    config = tf.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, id2label=labels
    )
    tf.ViTForImageClassification(config).save_pretrained(directory)
    tf.ViTImageProcessor().save_pretrained(directory)


def made(entry: Entry, directory: Path) -> Model:
    import torch

    torch.set_num_threads(1)
    return Classifier(entry, directory)


def resident_mb(pid: int) -> tuple[float, float]:
    """Megabytes of a process now, and at its peak."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024, int(status["VmHWM"].split()[0]) / 1024


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--assessments", type=int, default=10_000)
    count = options.parse_args().assessments
    rng = np.random.default_rng(0)
    frames = [Frame.of(rng.integers(0, 255, (224, 224, 3), np.uint8)) for _ in range(64)]
    entry = catalog.find("natix-roadwork")
    with tempfile.TemporaryDirectory() as directory:
        small_vit(Path(directory))
        worker = Worker({entry.key: partial(made, entry, Path(directory))}, Policy(shared=16 << 20))
        try:
            worker.load(entry.key, "cpu")
            worker.warm_up(entry.key)
            readings, started = [], time.monotonic()
            for done in range(1, count + 1):
                worker.assess(entry.key, [frames[done % len(frames)]])
                if done == WARM or done % 1000 == 0:
                    now, peak = resident_mb(worker.pid or 0)
                    readings.append(now)
                    spent = time.monotonic() - started
                    print(f"{done:6d} assessments  {now:7.1f} MB  peak {peak:7.1f} MB  {spent:6.1f} s", flush=True)
        finally:
            worker.stop()
    growth = max(readings) - readings[0]
    print(f"growth after the first {WARM}: {growth:+.1f} MB (allowed {ALLOWED_MB:.0f})")
    return 0 if growth <= ALLOWED_MB else 1


if __name__ == "__main__":
    sys.exit(main())
