"""Metric depth, and whether a box can be what it is called: a cone 40 m away is not 3 m wide.

width = width in pixels x depth / focal length in pixels. So this opinion is what impossible sizes take from the
evidence of the detectors beside it: the log-odds of their fused boxes with the scores of impossible ones lowered, less
the log-odds of the same boxes as they are. At most 0: a possible size proves nothing. It is a term of the fusion as any
other, never a veto, and its weight is fitted by `calibrate`.

Without the focal length nothing can be said, and the opinion is 0. The wire carries none, and validators' crops are
unknown: this is for an operator's own pictures of one known camera (`focal` in a catalog of his own, docs/tuning.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import boxes
from models.base import Frame
from models.boxes import Box, Classes
from models.together import look
from models.torch_model import Answer, TorchModel, arrays, blank, sizes

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
    """One box with what it measures. metres: its width, None if nobody can say; factor: what its score is multiplied
    with."""

    box: Box
    metres: float | None = None
    factor: float = 1.0

    @property
    def known(self) -> bool:
        """Whether it says something that is worth showing."""
        return self.metres is not None and self.box.score >= boxes.SHOWN

    def as_json(self) -> dict[str, Any]:
        """The box, its width in metres and the factor."""
        return {**self.box.as_json(), "metres": round(self.metres or 0.0, 2), "factor": self.factor}


class ObjectSize(TorchModel):
    """Any metric `AutoModelForDepthEstimation`; with `focal` known, what the sizes it measures say of the detectors."""

    one_size = True  # the processor keeps the shape of each picture

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory)
        self.model = self._pretrained(directory)

    def warm_up(self) -> None:
        """Its own network: the detectors that it asks warm themselves up, and need not be there yet."""
        self._opinions(lambda: [(0.0, {}) for _ in self.depth([blank()])], 1)

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
        depths = self.depth(frames)
        told = [{"median_depth_m": round(float(np.median(metres)), 2)} for metres in depths]
        if not self.entry.focal:
            return [(0.0, evidence) for evidence in told]
        seen = look(frames, self.device, 1, self.entry.key)
        sized = [check(found, metres, self.entry.focal) for found, metres in zip(seen.boxes, depths, strict=True)]
        return [
            (taken(own, seen.table), {**evidence, "sizes": [size.as_json() for size in own if size.known][:50]})
            for own, evidence in zip(sized, told, strict=True)
        ]


def check(found: Sequence[Box], metres: NDArray[np.float32], focal: float) -> list[Size]:
    """What each box measures, at the median depth within it; a box outside the picture, or of a label without a known
    width, keeps its score.

    metres: (H, W) of the same picture. focal: pixels. Raises ValueError for a focal length that cannot be.
    """
    if not focal > 0:
        raise ValueError(f"expected a focal length in pixels > 0, got {focal}")
    return [_measured(box, metres, focal) for box in found]


def taken(sized: Sequence[Size], table: Classes) -> float:
    """Natural log-odds, at most 0, that impossible sizes take from these boxes."""
    lowered = [replace(size.box, score=size.box.score * size.factor) for size in sized]
    as_they_are = table.logit(boxes.best_scores([size.box for size in sized]))
    return table.logit(boxes.best_scores(lowered)) - as_they_are


def _measured(box: Box, metres: NDArray[np.float32], focal: float) -> Size:
    left, top, right, bottom = (round(corner) for corner in box.corners)
    inside = metres[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
    if inside.size == 0 or box.label.lower() not in WIDTHS:
        return Size(box)
    width = box.size[0] * float(np.median(inside)) / focal
    least, most = WIDTHS[box.label.lower()]
    return Size(box, width, 1.0 if least / SLACK <= width <= most * SLACK else IMPOSSIBLE)
