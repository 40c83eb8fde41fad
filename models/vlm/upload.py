"""Frames on their way to a card: one copy from pinned memory for a whole batch, resized there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as pictures

from models.base import Frame


class Upload:
    """Brings frames of any sizes to one size on a device. The last batch must have been used before the next comes."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._staging = torch.empty(0, dtype=torch.uint8)

    def __call__(self, frames: Sequence[Frame], height: int, width: int) -> torch.Tensor:
        """uint8 (N, 3, height, width), in order: the bicubic, antialiased resize of the library's own processors."""
        order = sorted(range(len(frames)), key=lambda index: frames[index].size)
        there = self._copied([frames[index] for index in order])
        parts, start = [], 0
        while start < len(order):
            size = frames[order[start]].size
            count = sum(frames[index].size == size for index in order[start:])
            length = count * size[0] * size[1] * 3
            same = there[:length].view(count, size[1], size[0], 3).permute(0, 3, 1, 2)
            parts.append(pictures.resize(same, [height, width], InterpolationMode.BICUBIC, antialias=True))
            there, start = there[length:], start + count
        resized = torch.cat(parts) if len(parts) > 1 else parts[0]
        return resized if order == sorted(order) else resized[np.argsort(order).tolist()]

    def _copied(self, frames: Sequence[Frame]) -> torch.Tensor:
        """The frames' bytes, one after the other, on the device."""
        total = sum(frame.pixels.nbytes for frame in frames)
        if len(self._staging) < total:
            self._staging = torch.empty(total, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        at = 0
        staging = self._staging.numpy()
        for frame in frames:
            staging[at : at + frame.pixels.nbytes] = frame.pixels.reshape(-1)
            at += frame.pixels.nbytes
        return self._staging[:total].to(self._device, non_blocking=True)
