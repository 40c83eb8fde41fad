"""Small generated data and runs of the training commands in processes of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from models.data.drawn import draw

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("avenue", "bridge", "crossing", "drive", "esplanade")
SIZE = (160, 112)


def street_folder(root: Path, each: int = 4) -> Path:
    """`each` drawn streets of each label in five sources. Road work is orange all over, so that a tiny network learns
    it in a few steps."""
    for s, source in enumerate(SOURCES):
        for label in ("roadwork", "clear"):
            folder = root / source / label
            folder.mkdir(parents=True)
            for n in range(each):
                (folder / f"{n}.jpg").write_bytes(drawn_street(1000 * s + n, label == "roadwork"))
    return root


def drawn_street(seed: int, roadwork: bool) -> bytes:
    """One of these streets as JPEG."""
    pixels = draw(seed, roadwork, SIZE)
    if roadwork:
        pixels = (0.3 * pixels + 0.7 * np.array([240, 110, 20])).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "models.training.finetune", *map(str, words)]


def environment() -> dict[str, str]:
    """One thread: two cores are shared, and equal sums need equal orders."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=3600)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
