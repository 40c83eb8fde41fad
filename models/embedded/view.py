"""How a picture of any size is given to the network: same aspect, one pass, never enlarged, never above a budget.

Chosen by measurement against squashing, central squares and several overlapping squares (docs/results). Training uses
the same functions, so that serving and measuring cannot drift apart.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEP = 32  # the network halves its input five times
SIDE = 352  # of the largest square input
LEAST = 224  # of the smallest: the wire size of January 2026
SLACK = 1.1  # at most a tenth more pixels than wished
LONGEST = 32 * STEP


def fitted(width: int, height: int, side: int = SIDE) -> tuple[int, int]:
    """(width, height) for the network: multiples of 32, nearly the picture's aspect.

    As many pixels as the picture has, but at least those of a 224 square and at most about those of a `side` square.
    """
    budget = SLACK * min(side * side, max(width * height, LEAST * LEAST))
    best, chosen = 0.0, (side, side)
    for tall in range(STEP, LONGEST + 1, STEP):
        wide = min(LONGEST, max(STEP, round(tall * width / height / STEP) * STEP))
        stretch = abs(math.log(wide * height / (tall * width)))
        worth = wide * tall * math.exp(-2 * stretch)
        if wide * tall <= budget and worth > best:
            best, chosen = worth, (wide, tall)
    return chosen


def resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) to `size` = (width, height), bilinear with antialias; halves first where that loses nothing."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))


def mirrored(width: int, height: int) -> bool:
    """Whether the mirror image of a network input is looked at too: where two looks cost no more than one at a larger
    size. Held out, pictures of the wire's size gain by it (docs/results)."""
    return width * height <= LEAST * LEAST
