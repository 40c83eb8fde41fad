"""What the network is shown: pictures changed as validators and cameras change them. numpy and Pillow only.

Training views imitate both eras of the wire: 224 x 224 after rotation, crop and loss of quality, and native pictures.
Each view draws its own colours, so that a camera's tone says little about the label.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from models.data import levels
from models.data.labelled import Labelled
from models.embedded.view import SIDE, fitted, resize
from models.training import paste

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

WIRE = 224
UPPER = 0.45  # share of a frame's height that holds sky and house fronts, not road
EVALUATED = ("level0", "level1", "level2", "level3", "native", "squash", "left", "centre", "right", "large")


@dataclass(frozen=True, slots=True)
class View:
    """One rendering of one picture. sources: all whose pixels are in it, so that a fold can leave it out."""

    kind: str
    picture: Path
    label: int
    sources: tuple[str, ...]
    seed: tuple[int, ...]
    side: int
    objects: tuple[Path, ...] = ()
    donor: Path | None = None
    group: str = field(default="")


def training_views(
    pictures: Sequence[Labelled], objects: Mapping[str, Sequence[Path]], settings: Mapping[str, Any]
) -> list[View]:
    """The plan of a training run. objects: close-ups by source; one source's are used in any one pasted view."""
    return list(_real(pictures, settings)) + list(_pasted(pictures, objects, settings))


def _real(pictures: Sequence[Labelled], settings: Mapping[str, Any]) -> Iterator[View]:
    counts, seed, side = settings["views"], settings["seed"], settings["side"]
    for n, p in enumerate(pictures):
        for k in range(counts["roadwork"] if p.label else counts["clear"]):
            yield View("real", p.path, p.label, (p.source,), (seed, 0, n, k), side, group=p.group)
        if p.source in settings.get("upper_of", ("roadwork-cmu",)):
            for k in range(counts["upper"]):
                yield View("upper", p.path, 0, (p.source,), (seed, 1, n, k), side, group=p.group)


def _pasted(
    pictures: Sequence[Labelled], objects: Mapping[str, Sequence[Path]], settings: Mapping[str, Any]
) -> Iterator[View]:
    counts, seed, side = settings["views"], settings["seed"], settings["side"]
    frames = [p for p in pictures if p.label == 0 and p.source in settings["frames"]]
    by_source = {s: [p for p in frames if p.source == s] for s in {p.source for p in frames}}
    suppliers = sorted(s for s in objects if objects[s])
    for n, p in enumerate(frames):
        for k in range(counts["pasted"]):
            supplier = suppliers[(n + k) % len(suppliers)] if suppliers else p.source
            cut_outs = tuple(objects.get(supplier, ()))
            yield View("pasted", p.path, 1, (p.source, supplier), (seed, 2, n, k), side, cut_outs, group=p.group)
        same = by_source[p.source]
        for k in range(counts["control"]):
            donor = same[(n * 31 + k * 7 + 1) % len(same)].path
            yield View("control", p.path, 0, (p.source,), (seed, 3, n, k), side, donor=donor, group=p.group)


def evaluation_views(pictures: Sequence[Labelled], kinds: Sequence[str], settings: Mapping[str, Any]) -> list[View]:
    """Every picture in every kind of `EVALUATED` that is asked for, kind after kind."""
    seed, side = settings["seed"], SIDE
    return [
        View(kind, p.path, p.label, (p.source,), (seed, 9, EVALUATED.index(kind), n), side, group=p.group)
        for kind in kinds
        for n, p in enumerate(pictures)
    ]


def render(view: View) -> Pixels:
    """The view as uint8 (H, W, 3), H and W multiples of 32; equal seeds give equal pixels."""
    rng = np.random.default_rng(view.seed)
    pixels = read(view.picture)
    if view.kind == "pasted":
        pixels = paste.positive(pixels, [o for o in map(_cut_out, view.objects) if o is not None], rng)
        return _varied(pixels, view.side, rng, smallest=0.4)
    if view.kind == "control":
        assert view.donor is not None
        return _varied(paste.control(pixels, read(view.donor), rng), view.side, rng, smallest=0.4)
    if view.kind == "upper":
        return _varied(pixels[: round(len(pixels) * UPPER)], view.side, rng, smallest=0.4)
    if view.kind == "real":
        return _varied(pixels, view.side, rng, smallest=0.2)
    if view.kind.startswith("level"):
        wire = compress(levels.apply(pixels, int(view.kind[-1]), rng), 75)
        return resize(wire, fitted(WIRE, WIRE))
    return served(pixels, view.kind, view.side)


def served(pixels: Pixels, kind: str, side: int) -> Pixels:
    """A native picture as the network could be given it: one of several ways, to be chosen by measurement."""
    height, width = pixels.shape[:2]
    if kind in ("native", "large"):
        return resize(pixels, fitted(width, height, side if kind == "native" else round(side * 4 / 3)))
    if kind == "squash":
        return resize(pixels, (side, side))
    short = min(height, width)
    where = {"left": 0.0, "centre": 0.5, "right": 1.0}[kind]
    top, left = round((height - short) * where), round((width - short) * where)
    return resize(pixels[top : top + short, left : left + short], (side, side))


def compress(pixels: Pixels, quality: int) -> Pixels:
    """Through JPEG and back."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def read(path: Path) -> Pixels:
    """The picture file as uint8 (H, W, 3) RGB."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@lru_cache(maxsize=512)
def _cut_out(path: Path) -> paste.Sprite | None:
    return paste.cut_out(read(path))


def _varied(pixels: Pixels, side: int, rng: Rng, smallest: float) -> Pixels:
    """Turned, cropped, flipped, recoloured, worn, compressed. smallest: least share of the area that a crop keeps."""
    picture = Image.fromarray(pixels)
    if rng.random() < 0.55:
        picture = picture.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
    picture = picture.crop(_box(picture.width, picture.height, rng, smallest))
    wire = side if rng.random() < 0.35 else WIRE
    picture = picture.resize((wire, wire), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    worn = _worn(_recoloured(np.asarray(picture), rng), rng)
    if rng.random() < 0.85:
        worn = compress(worn, int(rng.integers(45, 96)))
    return resize(worn, (side, side))


def _box(width: int, height: int, rng: Rng, smallest: float) -> tuple[int, int, int, int]:
    """The whole picture (to be squashed), a central or side square, or a random crop near a square."""
    draw, short = rng.random(), min(width, height)
    if draw < 0.2:
        return 0, 0, width, height
    if draw < 0.4:
        left, top = (round((edge - short) * rng.random()) for edge in (width, height))
        return left, top, left + short, top + short
    tall = wide = math.sqrt(width * height * rng.uniform(smallest, 1))
    stretch = math.exp(rng.uniform(-0.25, 0.25))
    wide, tall = min(width, wide * stretch), min(height, tall / stretch)
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    return round(x), round(y), round(x + wide), round(y + tall)


def _recoloured(pixels: Pixels, rng: Rng) -> Pixels:
    """Another camera's tone: brightness, contrast, saturation and a cast."""
    colours = pixels.astype(np.float32)
    if rng.random() < 0.4:  # any camera's mean and spread
        mean, spread = colours.mean((0, 1)), colours.std() + 1
        colours = (colours - mean) * rng.uniform(40, 72) / spread + rng.uniform(80, 145) * rng.uniform(0.93, 1.07, 3)
    grey = colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    colours = grey[..., None] + (colours - grey[..., None]) * rng.uniform(0.3, 1.35)
    return (colours * rng.uniform(0.7, 1.2) * rng.uniform(0.96, 1.04, 3)).clip(0, 255).astype(np.uint8)


def _worn(pixels: Pixels, rng: Rng) -> Pixels:
    """Down-up-sampling, blur and noise, each now and then."""
    picture = Image.fromarray(pixels)
    if rng.random() < 0.3:
        factor = rng.uniform(1.5, 3)
        small = round(picture.width / factor), round(picture.height / factor)
        picture = picture.resize(small, Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    worn = np.asarray(picture)
    if rng.random() < 0.3:
        noise = rng.standard_normal(worn.shape, dtype=np.float32) * np.float32(rng.uniform(2, 14))
        worn = (worn + noise).clip(0, 255).astype(np.uint8)
    return worn
