"""Pictures as engines and endpoints take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.base import Frame


def shrunk(frame: Frame, max_pixels: int) -> Any:
    """The frame as a PIL image of at most so many pixels, its proportions kept."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(frame.pixels))
    scale = (max_pixels / (picture.width * picture.height)) ** 0.5
    if scale >= 1.0:
        return picture
    size = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)
