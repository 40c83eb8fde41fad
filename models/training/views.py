"""The ways in which a picture is scored: as validators send it at levels 0 to 3, and natively. numpy and Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data import levels
from models.data.labelled import Labelled
from models.embedded.view import fitted, resize

Pixels = NDArray[np.uint8]

WIRE = 224
EVALUATED = ("level0", "level1", "level2", "level3", "native", "flip", "left", "centre", "right", "large")


@dataclass(frozen=True, slots=True)
class View:
    """One rendering of one picture, repeatable from its seed."""

    kind: str
    picture: Path
    seed: tuple[int, ...]


def evaluation_views(pictures: Sequence[Labelled], kind: str, seed: int) -> list[View]:
    """Every picture in one kind out of `EVALUATED`."""
    return [View(kind, p.path, (seed, 9, EVALUATED.index(kind), n)) for n, p in enumerate(pictures)]


def render(view: View) -> Pixels:
    """The view as uint8 (H, W, 3), H and W multiples of 32; equal seeds give equal pixels."""
    pixels = read(view.picture)
    if view.kind.startswith("level"):
        rng = np.random.default_rng(view.seed)
        wire = compress(levels.apply(pixels, int(view.kind[-1]), rng), 75)
        return resize(wire, fitted(WIRE, WIRE))
    return served(pixels, view.kind)


def served(pixels: Pixels, kind: str) -> Pixels:
    """A native picture as the network could be given it: whole, mirrored, larger, or one of three squares."""
    height, width = pixels.shape[:2]
    if kind in ("native", "flip"):
        whole = resize(pixels, fitted(width, height))
        return whole if kind == "native" else np.ascontiguousarray(whole[:, ::-1])
    if kind == "large":
        return resize(pixels, fitted(width * 2, height * 2, 448))
    short = min(height, width)
    where = {"left": 0.0, "centre": 0.5, "right": 1.0}[kind]
    top, left = round((height - short) * where), round((width - short) * where)
    return resize(pixels[top : top + short, left : left + short], fitted(short, short))


def compress(pixels: Pixels, quality: int) -> Pixels:
    """Through JPEG and back."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def read(path: Path) -> Pixels:
    """The picture file as uint8 (H, W, 3) RGB."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
