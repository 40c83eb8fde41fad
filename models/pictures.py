"""Pictures to the card once, as bytes, and made into what the weights expect there.

The library's image processors take lists, and look at each picture of a batch in Python. Here all pictures of one size
go over in one copy from pinned memory and through the processor's own steps in one piece: resize, crop, scale and
normalise are its methods, called in its order, so that the numbers are the library's. Whether they are is tried on two
pictures when a model loads (`TOLERANCE`); a processor that does something else is called as the library calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from models.base import Frame

TOLERANCE = 1e-5  # of a normalised pixel; on the same device the two ways are equal bit by bit
RESIZES_NUMBERS: dict[str, dict[str, Any]] = {  # processors that scale before they resize, and how they resize
    "DINOv3ViTImageProcessor": {"antialias": True},
    "RfDetrImageProcessor": {"antialias": False},
}
TRIED = ((48, 64), (400, 300))  # height, width: one to enlarge, one to reduce


class Pictures:
    """Frames to pixel values (N, 3, H, W) of `dtype` on `device`, by the steps of an image processor."""

    def __init__(self, processor: Any, device: str, dtype: torch.dtype) -> None:
        self._processor, self._device, self._dtype = processor, torch.device(device), dtype
        self.own = self._agrees()  # whether the short way is taken

    def __call__(self, frames: Sequence[Frame]) -> torch.Tensor:
        if not self.own:
            return self._library(frames).to(self._device, self._dtype)
        return by_size(self._steps, frames)

    def _steps(self, frames: Sequence[Frame]) -> torch.Tensor:
        return prepared(self._processor, uploaded(frames, self._device)).to(self._dtype)

    @property
    def example(self) -> torch.Tensor:
        """Pixel values (1, 3, H, W) of some picture: the shape of every one, where the processor makes all alike."""
        return self([_noise(TRIED[0])])

    def _library(self, frames: Sequence[Frame]) -> torch.Tensor:
        pixels = [torch.from_numpy(np.array(frame.pixels.transpose(2, 0, 1))) for frame in frames]
        values: torch.Tensor = self._processor(pixels, return_tensors="pt", device=self._device)["pixel_values"]
        return values

    def _agrees(self) -> bool:
        for size in TRIED:
            frame = _noise(size)
            try:
                found = prepared(self._processor, uploaded([frame], self._device))
            except (AttributeError, TypeError, ValueError):  # it has other steps, or steps of another kind
                return False
            expected = self._library([frame])
            if found.shape != expected.shape or float((found - expected).abs().max()) > TOLERANCE:
                return False
        return True


def resized(frames: Sequence[Frame], height: int, width: int, device: torch.device) -> torch.Tensor:
    """Frames of any sizes as uint8 (N, 3, height, width) on the device: the bicubic, antialiased resize of the
    library's own processors, for a model that normalises in its graph."""

    return by_size(lambda own: to_size(uploaded(own, device), height, width), frames)


def to_size(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 (N, 3, H, W) to (N, 3, height, width), as `resized` does it; can be recorded."""
    found: torch.Tensor = functional.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
    return found


def by_size(steps: Callable[[Sequence[Frame]], torch.Tensor], frames: Sequence[Frame]) -> torch.Tensor:
    """What `steps` makes of the frames of each size, (N, ...) in the order of the frames."""
    sizes = {frame.size for frame in frames}
    if len(sizes) == 1:
        return steps(frames)
    rows: dict[int, torch.Tensor] = {}
    for size in sizes:
        own = [index for index, frame in enumerate(frames) if frame.size == size]
        rows |= zip(own, steps([frames[index] for index in own]), strict=True)
    return torch.stack([rows[index] for index in range(len(frames))])


def uploaded(frames: Sequence[Frame], device: torch.device) -> torch.Tensor:
    """Frames of one size as uint8 (N, 3, H, W) on the device: one copy, which nobody waits for."""
    return gathered(frames, device).to(device, non_blocking=True).permute(0, 3, 1, 2)


def gathered(frames: Sequence[Frame], device: torch.device) -> torch.Tensor:
    """Frames of one size as uint8 (N, H, W, 3) on the host, pinned for a card: torch keeps it until a copy arrived."""
    height, width = frames[0].pixels.shape[:2]
    host = torch.empty((len(frames), height, width, 3), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack([frame.pixels for frame in frames], out=host.numpy())
    return host


def prepared(processor: Any, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) through the processor's steps: float32 (N, 3, size, size)."""
    own, numbers = processor, RESIZES_NUMBERS.get(type(processor).__name__)
    if numbers:
        pixels = own.rescale(pixels, own.rescale_factor)
    if own.do_resize:
        pixels = own.resize(pixels, size=own.size, resample=own.resample, **numbers or {})
    if getattr(own, "do_center_crop", False):
        pixels = own.center_crop(pixels, own.crop_size)
    if numbers:
        return own.normalize(pixels, own.image_mean, own.image_std) if own.do_normalize else pixels
    return own.rescale_and_normalize(
        pixels, own.do_rescale, own.rescale_factor, own.do_normalize, own.image_mean, own.image_std
    )


def _noise(size: tuple[int, int]) -> Frame:
    return Frame.of(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
