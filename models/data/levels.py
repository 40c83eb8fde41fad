"""The validators' change to a challenge picture in January 2026: levels 0 to 3, each to 224 x 224.

What they do, in their order (torchvision and OpenCV there, numpy and Pillow here):
    0  largest central square, resized
    1  rotated by U(-20, 20) degrees, then a random square crop, resized
    2  level 1, then saturation, contrast and block down-up-sampling, each at a strength drawn from {0, 1}
    3  level 1, then saturation, contrast, down-up-sampling, noise and blur, each at a strength drawn from {0, 1, 2}
Their two flips never fire, so there are none here. A crop may cut the road work out; its label stays.
The JPEG that follows is the sender's business (`miner.challenge`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
LEVELS = (0, 1, 2, 3)
MAX_DEGREES = 20.0
CROP_AREA = (0.2, 1.0)  # share of the picture's area
CROP_TRIES = 10

# By strength 0, 1, 2. Strength 0 leaves the picture as it is.
SATURATION = (1.0, 0.4, 0.3)  # factor on both chroma channels
CONTRAST = (1.0, 0.85, 0.725)  # factor on every channel: towards black, not towards the mean
DOWNSAMPLING = (1, 2, 3)  # factor on each side, there and back
NOISE = (0.0, 0.001, 0.002)  # variance in YCbCr, of values scaled to 0..1
BLUR = (0, 7, 9)  # kernel size in pixels; sigma is a sixth of it

Picture = NDArray[np.uint8]


def apply(rgb: Picture, level: int, rng: np.random.Generator) -> Picture:
    """`rgb` uint8 (H, W, 3) as the validators would send it at `level`: uint8 (224, 224, 3)."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    if level not in LEVELS:
        raise ValueError(f"expected a level out of {LEVELS}, got {level}")
    if level == 0:
        return central_square(rgb)
    picture = random_crop(rotate(rgb, float(rng.uniform(-MAX_DEGREES, MAX_DEGREES))), rng)
    if level == 1:
        return picture
    strength = rng.integers(0, level, size=5)  # 0 .. level - 1, each by itself
    picture = saturate(picture, SATURATION[strength[0]])
    picture = darken(picture, CONTRAST[strength[1]])
    picture = down_and_up(picture, DOWNSAMPLING[strength[2]])
    if level == 3:
        picture = add_noise(picture, NOISE[strength[3]], rng)
        picture = blur(picture, BLUR[strength[4]])
    return picture


def central_square(rgb: Picture) -> Picture:
    """The largest central square, resized to 224 x 224."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    return _resized(rgb, round((height - side) / 2), round((width - side) / 2), side)


def rotate(rgb: Picture, degrees: float) -> Picture:
    """Turned counter-clockwise around its centre, same size, black where nothing was."""
    return np.asarray(Image.fromarray(rgb).rotate(degrees, Image.Resampling.BILINEAR))


def random_crop(rgb: Picture, rng: np.random.Generator) -> Picture:
    """torchvision's RandomResizedCrop at aspect ratio 1: (H, W, 3) -> (224, 224, 3)."""
    return _resized(rgb, *crop_box(rgb.shape[0], rgb.shape[1], rng))


def crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """(top, left, side) of a square whose area is uniform in 0.2..1.0 of the picture's.

    A draw that does not fit is drawn again, so wide pictures give smaller crops; after ten misses it is the largest
    central square.
    """
    for _ in range(CROP_TRIES):
        side = round(float(np.sqrt(height * width * rng.uniform(*CROP_AREA))))
        if 0 < side <= min(height, width):
            top, left = rng.integers(0, (height - side, width - side), endpoint=True)
            return int(top), int(left), side
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def saturate(rgb: Picture, factor: float) -> Picture:
    """Both chroma channels times `factor`, brightness kept."""
    if factor == 1.0:
        return rgb
    ycbcr = _to_ycbcr(rgb)
    ycbcr[..., 1:] *= factor
    return _to_rgb(ycbcr)


def darken(rgb: Picture, factor: float) -> Picture:
    """Every channel times `factor`, cut to whole numbers."""
    return rgb if factor == 1.0 else (rgb.astype(np.float32) * np.float32(factor)).astype(np.uint8)


def down_and_up(rgb: Picture, factor: int) -> Picture:
    """Sampled down by `factor` and up again, bilinear without antialias both ways."""
    if factor == 1:
        return rgb
    height, width = rgb.shape[:2]
    small = _sampled(_sampled(rgb, height // factor, 0), width // factor, 1)
    return _rounded(_sampled(_sampled(_rounded(small), height, 0), width, 1))


def add_noise(rgb: Picture, variance: float, rng: np.random.Generator) -> Picture:
    """Independent Gaussian noise on Y, Cb and Cr, scaled as they are in video range."""
    if variance == 0.0:
        return rgb
    # Their values are divided by 255 twice before the noise is added, and the video range (219 steps of luma, 224 of
    # chroma) is undone after it: so many of the 0..255 levels is one standard deviation.
    deviation = np.sqrt(variance) * 255.0 * 255.0 / np.array([219.0, 224.0, 224.0])
    return _to_rgb(_to_ycbcr(rgb) + deviation * rng.standard_normal(rgb.shape))


def blur(rgb: Picture, kernel: int) -> Picture:
    """Gaussian blur of `kernel` x `kernel` pixels with sigma = kernel / 6; edges are mirrored."""
    if kernel == 0:
        return rgb
    offsets = np.arange(kernel) - kernel // 2
    weights = np.exp(-0.5 * (offsets / (kernel / 6)) ** 2)
    weights /= weights.sum()
    smooth = rgb.astype(np.float64)
    for axis in (0, 1):
        padding = [(kernel // 2, kernel // 2) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(smooth, padding, mode="reflect")
        shifted = (np.take(padded, range(i, i + rgb.shape[axis]), axis) for i in range(kernel))
        smooth = np.sum([w * s for w, s in zip(weights, shifted, strict=True)], axis=0)
    return _rounded(smooth)


def _resized(rgb: Picture, top: int, left: int, side: int) -> Picture:
    """A square part, bilinear with antialias (Pillow's bilinear has it built in)."""
    part = Image.fromarray(rgb[top : top + side, left : left + side])
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _sampled(values: NDArray[Any], size: int, axis: int) -> NDArray[np.float64]:
    """One axis at a new size: bilinear at each new pixel's centre, WITHOUT antialias (OpenCV's default resize)."""
    old = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    before = np.floor(at).astype(int)
    weight = (at - before).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    after = np.minimum(before + 1, old - 1)
    mixed: NDArray[np.float64] = np.take(values, before, axis) * (1 - weight) + np.take(values, after, axis) * weight
    return mixed


def _rounded(values: NDArray[np.float64]) -> Picture:
    return np.round(values).astype(np.uint8)


def _to_ycbcr(rgb: Picture) -> NDArray[np.float64]:
    """Y in 0..255, Cb and Cr around 0, with the coefficients that OpenCV uses."""
    red, green, blue = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack([y, (blue - y) * 0.564, (red - y) * 0.713], axis=-1)


def _to_rgb(ycbcr: NDArray[np.float64]) -> Picture:
    """The way back, clipped to 0..255 and cut to whole numbers as the validators' cast does."""
    y, cb, cr = (ycbcr[..., i] for i in range(3))
    rgb = np.stack([y + 1.403 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.773 * cb], axis=-1)
    return np.clip(rgb, 0, 255).astype(np.uint8)
