"""Training pictures changed as validators and cameras change them. numpy and Pillow only: loaders run it on the CPU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from models.embedded.view import resize
from models.training.views import compress

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

WIRE = 224  # pixels of a side in January 2026


def varied(pixels: Pixels, side: int, rng: Rng, smallest: float = 0.2) -> Pixels:
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
