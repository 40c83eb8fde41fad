"""Metric depth, and whether a box can be what it is called: a cone 40 m away is not 3 m wide.

width = width in pixels x depth / focal length in pixels. Without the focal length nothing can be said: the wire
carries none, and crops are unknown, so this is a soft feature for recorded pictures whose camera is known, never a
veto. By itself it holds no opinion of road work: log-odds 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from models.base import Frame
from models.boxes import Box
from models.torch_model import Answer, TorchModel, arrays, sizes

# Metres a thing is wide; what is outside cannot be it. From the plan.
WIDTHS = {
    "traffic cone": (0.25, 0.40),
    "cone": (0.25, 0.40),
    "construction barrier": (0.80, 1.50),
    "barrier": (0.80, 1.50),
    "excavator": (2.0, 5.0),
    "machinery vehicle": (2.0, 5.0),
}
IMPOSSIBLE = 0.3  # the plan's factor on the score of an impossible size
SLACK = 1.6  # boxes and depths are off by so much either way before a size is called impossible


@dataclass(frozen=True, slots=True)
class Size:
    """One box with what it measures. metres: its width; factor: what its score is multiplied with."""

    box: Box
    metres: float
    factor: float


_live: WeakSet[ObjectSize] = WeakSet()


def live(device: str) -> ObjectSize | None:
    """A depth model that is loaded on this device, if there is one."""
    return next((each for each in _live if each.device == device), None)


class ObjectSize(TorchModel):
    """Any metric `AutoModelForDepthEstimation`."""

    one_size = True  # the processor keeps the shape of each picture

    def load(self, device: str) -> None:
        super().load(device)
        _live.add(self)

    def close(self) -> None:
        _live.discard(self)
        super().close()

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory)
        self.model = self._pretrained(directory)

    def depth(self, frames: Sequence[Frame]) -> list[NDArray[np.float32]]:
        """Metres, (H, W) float32, per frame."""
        return self.by_size(self._metres, frames)

    def _metres(self, frames: Sequence[Frame]) -> list[NDArray[np.float32]]:
        inputs = self.processor(arrays(frames), return_tensors="pt", device=self.device)
        outputs: Any = self.model(inputs["pixel_values"].to(self.device, self.dtype))
        outputs.predicted_depth = outputs.predicted_depth.float()
        found = self.processor.post_process_depth_estimation(outputs, target_sizes=sizes(frames))
        return [each["predicted_depth"].cpu().numpy() for each in found]

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        return [(0.0, {"median_depth_m": round(float(np.median(metres)), 2)}) for metres in self.depth(frames)]


def check(boxes: Sequence[Box], metres: NDArray[np.float32], focal: float | None) -> list[Size]:
    """What each box measures, at the median depth within it. focal: pixels; None or an unknown label: factor 1.

    metres: (H, W) of the same picture. Raises ValueError for a focal length that cannot be.
    """
    if focal is not None and not focal > 0:
        raise ValueError(f"expected a focal length in pixels > 0, or None; got {focal}")
    return [_measured(box, metres, focal) for box in boxes]


def _measured(box: Box, metres: NDArray[np.float32], focal: float | None) -> Size:
    left, top, right, bottom = (round(corner) for corner in box.corners)
    inside = metres[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
    if focal is None or inside.size == 0:
        return Size(box, float("nan"), 1.0)
    width = box.size[0] * float(np.median(inside)) / focal
    least, most = WIDTHS.get(box.label.lower(), (0.0, float("inf")))
    return Size(box, width, 1.0 if least / SLACK <= width <= most * SLACK else IMPOSSIBLE)
