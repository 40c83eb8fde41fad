"""What training reads: every view rendered once, kept in a file and shared by all folds.

With `cut` = 0 the file holds pixels and the whole network is fine-tuned: a card's work. With a higher cut it holds the
feature maps that the blocks below it give, which stay frozen: that makes folds and a final run affordable on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
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
    """Feature maps (float16) or pixels (uint8) of views, one after the other in `file`.

    View i: (H, W, C) = shapes[i], from starts[i] on.
    """

    views: Sequence[View]
    file: Path
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]

    def logits(self, network: EfficientNetLite, indices: Sequence[int], cut: int, device: str) -> Tensor:
        """(N,) logits of views of one shape, in bf16 where that is safe."""
        maps = np.stack([self._map(int(i)) for i in indices])
        x = torch.from_numpy(maps).to(device).permute(0, 3, 1, 2).float()
        with torch.autocast(device, torch.bfloat16):
            return network.upper(x, cut) if cut else network(x)

    @cached_property
    def values(self) -> NDArray[Any]:
        """The file, mapped; another process maps it anew, so that a bank is cheap to hand over."""
        return np.memmap(self.file, dtype=np.uint8 if self.shapes[0][2] == 3 else np.float16, mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "values"}

    def _map(self, i: int) -> NDArray[Any]:
        height, width, channels = self.shapes[i]
        return self.values[self.starts[i] : self.starts[i] + height * width * channels].reshape(height, width, channels)


def bank(views: Sequence[View], settings: Mapping[str, Any], folder: Path) -> Bank:
    """What `views` look like after the first `cut` blocks, computed unless `folder` has it."""
    name = hashlib.sha256(f"{settings['variant']} {settings['cut']} {views}".encode()).hexdigest()[:16]
    values, index = folder / f"{name}.maps", folder / f"{name}.json"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        log.info("rendering %d views into %s", len(views), values)
        shapes = _write(views, pretrained(settings["variant"]), settings["cut"], values)
        index.write_text(json.dumps(shapes))
    shapes = np.array(json.loads(index.read_text()), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(shapes.prod(1))])[:-1]
    return Bank(views, values, starts, shapes)


@torch.inference_mode()
def _write(views: Sequence[View], network: EfficientNetLite, cut: int, path: Path) -> list[list[int]]:
    shapes: list[list[int]] = []
    network = network.eval()
    with path.open("wb") as file:
        for pictures in _of_one_shape(_rendered(views)):
            maps = _maps(network, np.stack(pictures), cut) if cut else np.stack(pictures)
            maps.tofile(file)
            shapes += [list(m.shape) for m in maps]
            if len(shapes) % (BATCH * 40) < BATCH:
                log.info("%d of %d views", len(shapes), len(views))
    return shapes


def _maps(network: EfficientNetLite, pictures: Pixels, cut: int) -> NDArray[np.float16]:
    """uint8 (N, H, W, 3) -> (N, H', W', C)."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        maps = network.lower(pixels, cut)
    return np.asarray(maps.permute(0, 2, 3, 1).to(torch.float16).contiguous().numpy())


def _rendered(views: Sequence[View]) -> Iterator[Pixels]:
    """Pictures in order, rendered by other processes a little ahead of the reader."""
    ahead: Iterator[Pixels] = iter(())
    workers = max(1, (os.cpu_count() or 1) - 1)
    stretch = 8 * BATCH * workers
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        for start in range(0, len(views), stretch):
            coming = pool.map(render, views[start : start + stretch], chunksize=16)
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
