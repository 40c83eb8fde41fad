"""A perceptual hash: 64 bits that stay nearly the same when a picture is compressed again or made smaller.

dHash (Krawetz 2013): the picture as 9 x 8 mean grey values; each bit says whether a value is brighter than its right
neighbour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ROWS, _COLUMNS = np.divmod(np.arange(64), 8)
_ORDER = np.lexsort((_COLUMNS, _ROWS, (_ROWS + _COLUMNS) % 4))  # any would do: this one stands in journals that exist


def dhash(pixels: NDArray[np.uint8]) -> int:
    """The hash of uint8 (H, W, 3) RGB pixels, as a signed 64-bit integer (what a database column holds)."""
    small = Image.fromarray(pixels).resize((9, 8), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()[_ORDER]
    return int(np.packbits(bits).view(">i8")[0])


def distance(a: int, b: int) -> int:
    """Bits in which two hashes differ, 0..64."""
    return ((a ^ b) & (2**64 - 1)).bit_count()
