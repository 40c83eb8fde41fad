"""Views of a batch's pictures, made where the network is: work-zone things pasted in, cut as validators cut, worn.

What made the embedded network better on cameras it never saw (`docs/results`), for any backbone: the same pasting
(`compose`) and the same wear (`wear`). Batches of even numbers are squares as validators send them, the others parts
of native pictures, squeezed to a square as they are when served.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.training import album
from models.training.album import Album, Sprites
from models.training.compose import Dice, Order, compose
from models.training.finetune import data
from models.training.finetune.batches import Batches, Shown, check
from models.training.finetune.settings import Settings
from models.training.views import WIRE
from models.training.wear import worn

SETTINGS = Path(__file__).parent.parent / "settings.toml"  # of the embedded network: things stand as near here
BLOCK = 16  # JPEG's, with its colours at half the size


class Composer:
    """A batch of `Batches` -> pixels uint8 (n, side, side, 3) and targets (n, T). Equal numbers give equal views."""

    def __init__(self, sprites: Sprites | None, side: int, seed: int, device: str, rank: int = 0) -> None:
        self.sprites, self.side, self.seed, self.device, self.rank = sprites, side, seed, device, rank
        names = sorted({source for source in sprites.sources if source}) if sprites else []
        self.suppliers = len(names)
        self._close = float(tomllib.loads(SETTINGS.read_text(encoding="utf-8"))["close"])
        number = {"": 0, **{name: n for n, name in enumerate(names, 1)}}
        self._supplier = torch.tensor([number[s] for s in (sprites.sources if sprites else ())], device=device)

    @torch.no_grad()
    def __call__(self, number: int, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The label of a picture with things pasted in is 0 where its view shows none of them."""
        frames = batch["frames"].permute(0, 3, 1, 2)  # (F, 3, H, W)
        edge = max(frames.shape[-2:])
        square = functional.pad(frames, (0, edge - frames.shape[-1], 0, edge - frames.shape[-2]))
        kind, supplier, targets = batch["kind"], batch["supplier"], batch["targets"].clone()
        usable = (self._supplier == 0) | (self._supplier == supplier[:, None])
        place = torch.arange(len(kind), device=frames.device)
        order = Order(place, batch["donor"], kind, targets[:, 0], usable)
        dice = Dice(_seed(self.seed, number, self.rank), self.device)
        wire = number % 2 == 0
        edges = WIRE if wire else -(-self.side // BLOCK) * BLOCK
        pictures = Album((), square, batch["sizes"])
        composed = compose(pictures, self.sprites, order, (edges, edges), wire, dice, self._close)
        pixels = worn(composed.pixels, dice)
        if edges != self.side:
            pixels = functional.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        targets[:, 0] = composed.label
        return {"pixels": pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1), "targets": targets}


def course(
    pictures: data.Data,
    parts: Mapping[str, Sequence[str]],
    targets: NDArray[np.float32],
    side: int,
    settings: Settings,
    run: Accelerator,
) -> tuple[Batches, Composer]:
    """What a training is shown of the sources that train: batches of this process, and what makes views of them.

    Raises ValueError when a picture cannot be decoded.
    """
    check(pictures.pictures)
    device = str(run.device)
    things = None
    if settings.pasted:
        own = {source: files for source, files in pictures.objects.items() if source not in _judging(parts)}
        things = album.sprites(own, (), settings.seed, device)
    composer = Composer(things, side, settings.seed, device, run.process_index)
    shown = Shown(
        pictures.pictures,
        data.chances(pictures, pictures.rows(parts["train"])),
        targets,
        settings.batch // settings.accumulate,
        max(album.EDGE, 2 * side),
        settings.seed,
        settings.pasted,
        composer.suppliers,
    )
    return Batches(shown, run.process_index, run.num_processes), composer


def _judging(parts: Mapping[str, Sequence[str]]) -> set[str]:
    """Sources of which training sees no pixel."""
    return {source for part, sources in parts.items() if part != "train" for source in sources}


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])
