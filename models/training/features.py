"""The frozen part, run once for every view; what comes out is kept in a file and shared by all folds.

Fine-tuning only the later blocks from kept feature maps is what makes five folds and a final run affordable on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.training.backbone import EfficientNetLite, pretrained
from models.training.views import Pixels, View, render

log = logging.getLogger(__name__)
BATCH = 32


@dataclass(frozen=True)
class Bank:
    """Feature maps of views, one after the other in `values`; view i: (H, W, C) = shapes[i], from starts[i] on."""

    views: Sequence[View]
    values: NDArray[np.float16]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """(N, C, H, W) floats of views of one shape."""
        maps = np.stack([self._map(int(i)) for i in indices])
        return torch.from_numpy(maps).permute(0, 3, 1, 2).float()

    def _map(self, i: int) -> NDArray[np.float16]:
        height, width, channels = self.shapes[i]
        return self.values[self.starts[i] : self.starts[i] + height * width * channels].reshape(height, width, channels)


def bank(views: Sequence[View], settings: Mapping[str, Any], folder: Path) -> Bank:
    """The maps of `views` after the first `cut` blocks, computed unless `folder` has them."""
    name = hashlib.sha256(f"{settings['variant']} {settings['cut']} {views}".encode()).hexdigest()[:16]
    values, index = folder / f"{name}.maps", folder / f"{name}.json"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        log.info("rendering %d views into %s", len(views), values)
        shapes = _write(views, pretrained(settings["variant"]), settings["cut"], values)
        index.write_text(json.dumps(shapes))
    shapes = np.array(json.loads(index.read_text()), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(shapes.prod(1))])[:-1]
    return Bank(views, np.memmap(values, dtype=np.float16, mode="r"), starts, shapes)


@torch.inference_mode()
def _write(views: Sequence[View], network: EfficientNetLite, cut: int, path: Path) -> list[list[int]]:
    shapes: list[list[int]] = []
    network = network.eval()
    with path.open("wb") as file:
        for pictures in _of_one_shape(_rendered(views)):
            pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
            with torch.autocast("cpu", torch.bfloat16):
                maps = network.lower(pixels, cut)
            maps = maps.permute(0, 2, 3, 1).to(torch.float16).contiguous().numpy()
            maps.tofile(file)
            shapes += [list(m.shape) for m in maps]
            if len(shapes) % (BATCH * 40) < BATCH:
                log.info("%d of %d views", len(shapes), len(views))
    return shapes


def _rendered(views: Sequence[View]) -> Iterator[Pixels]:
    """Pictures in order, rendered by another process a little ahead of the reader."""
    ahead: Iterator[Pixels] = iter(())
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        for start in range(0, len(views), 8 * BATCH):
            coming = pool.map(render, views[start : start + 8 * BATCH], chunksize=16)
            yield from ahead
            ahead = coming
        yield from ahead


def _of_one_shape(pictures: Iterator[Pixels]) -> Iterator[list[Pixels]]:
    """Batches in order: a change of shape ends one early."""
    batch: list[Pixels] = []
    for picture in pictures:
        if batch and (len(batch) == BATCH or picture.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch
