"""What training reads, on the device: every picture decoded once, and the sprites that are pasted, prefiltered.

uint8 on the card, so that thousands of pictures fit and every view can be composed there, fresh at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.data.labelled import Labelled
from models.training import paste

EDGE = 480  # longest side of a kept picture
TEXTURE = 128  # side of a sprite's texture; its aspect is kept apart
LEVELS = 5  # of prefiltering: details of 1, 2, 4, 8, 16 texture pixels
DRAWN = 64  # drawn sprites of each kind


@dataclass(frozen=True)
class Album:
    """pixels: uint8 (N, 3, E, E), each picture at the top left, black elsewhere. sizes: (N, 2) width, height."""

    pictures: Sequence[Labelled]
    pixels: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Sprites:
    """S things to paste.

    textures: uint8 (S, LEVELS, 4, TEXTURE, TEXTURE), premultiplied RGBA stretched to a square, each level prefiltered
    for twice the reduction. metres: (S,) real height. aspect: (S,) width / height. work: (S,) whether it is road work.
    chance: (S,) how often it is drawn among its like. sources: S names of who supplied it; "" for drawn ones.
    """

    textures: Tensor
    metres: Tensor
    aspect: Tensor
    work: Tensor
    chance: Tensor
    sources: Sequence[str]


def album(pictures: Sequence[Labelled], device: str) -> Album:
    """Decode all pictures, at most EDGE pixels on a side, and put them on the device."""
    pixels = np.zeros((len(pictures), EDGE, EDGE, 3), np.uint8)
    sizes = np.zeros((len(pictures), 2), np.float32)

    def read(n: int) -> None:
        with Image.open(pictures[n].path) as file:
            picture = file.convert("RGB")
        picture.thumbnail((EDGE, EDGE), Image.Resampling.BILINEAR)
        sizes[n] = picture.size
        pixels[n, : picture.height, : picture.width] = np.asarray(picture)

    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter's lock
        list(pool.map(read, range(len(pictures))))
    on_device = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()
    return Album(pictures, on_device, torch.from_numpy(sizes).to(device))


def sprites(
    objects: Mapping[str, Sequence[Path]], rendered: Sequence[Path], seed: int, device: str, drawn: int = DRAWN
) -> Sprites:
    """Drawn sprites of every kind, rendered ones, and the cut-outs of close-ups. objects: files by source."""
    rng = np.random.default_rng(seed)
    found: list[paste.Thing] = [thing for kind in paste.KINDS for thing in paste.draw(kind, drawn, rng)]
    found += paste.rendered(rendered)
    with ThreadPoolExecutor() as pool:
        for source, paths in sorted(objects.items()):
            found += [thing for thing in pool.map(lambda p, s=source: paste.cut_out_of(p, s), paths) if thing]
    textures = torch.from_numpy(np.stack([_texture(thing.sprite) for thing in found])).to(device)
    levels, whole = [textures], textures.float()
    for level in range(1, LEVELS):
        small = functional.avg_pool2d(whole, 2**level)
        wide = functional.interpolate(small, (TEXTURE, TEXTURE), mode="bilinear", align_corners=False)
        levels.append(wide.round().to(torch.uint8))

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return Sprites(
        torch.stack(levels, 1),
        column([thing.metres for thing in found]),
        column([thing.sprite.width / thing.sprite.height for thing in found]),
        torch.tensor([thing.work for thing in found], device=device),
        column([thing.chance for thing in found]),
        [thing.source for thing in found],
    )


def _texture(sprite: paste.Sprite) -> NDArray[np.uint8]:
    """RGBA picture -> (4, TEXTURE, TEXTURE), colours times alpha, so that edges do not bleed."""
    values = np.asarray(sprite.resize((TEXTURE, TEXTURE), Image.Resampling.BILINEAR)).astype(np.float32)
    values[..., :3] *= values[..., 3:] / 255
    return np.asarray(values.round().transpose(2, 0, 1).astype(np.uint8))
