"""One tiny checkpoint per class for the whole run, and no library that talks to the world."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Before ultralytics is imported: it writes its settings at import, and would ask the network for updates.
os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="yolo-")
os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which torchvision does

import torch

from models.base import Frame
from models.detecting import detectors

torch.set_num_threads(1)
atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def no_detector_stays() -> Iterator[None]:
    """Detectors of a process know each other: what a file left loaded would answer in the next file's tests, for as
    long as the garbage collector lets it."""
    yield
    for left in detectors("cpu"):
        left.close()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny checkpoints are written, by class."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    """Two pictures of different sizes, and a third of the first's size. Smooth, as pictures are."""
    return [picture(seed, size) for seed, size in ((0, (90, 120)), (1, (64, 64)), (2, (90, 120)))]


def picture(seed: int, size: tuple[int, int]) -> Frame:
    """A smooth random picture, (height, width)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (5, 5, 3), np.uint8)
    rows = np.linspace(0, 4, size[0]).astype(int)
    columns = np.linspace(0, 4, size[1]).astype(int)
    return Frame.of(coarse[rows][:, columns])
