"""What several detectors see together: their boxes fused, as one more member of the cascade.

It loads nothing: it asks the detectors that live in the same process, and each of them looks at a picture once, however
many ask. Two detectors that see the same cone are better evidence than one that sees it twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from models import boxes, torch_model
from models.base import Frame, ModelUnavailable
from models.boxes import Box, Classes
from models.detecting import detectors
from models.torch_model import Answer, TorchModel

LEAST = 2  # detectors; one alone is a member already


@dataclass(frozen=True, slots=True)
class Seen:
    """What the detectors of one device see: their keys, one label set, and per frame the fused boxes and the agreement
    (0..1)."""

    detectors: tuple[str, ...]
    table: Classes
    boxes: tuple[list[Box], ...]
    agreement: tuple[float, ...]


class Together(TorchModel):
    """The log-odds of the fused boxes; evidence: the boxes, and the share of detectors that agree on one."""

    def load(self, device: str) -> None:
        torch_model.require(self.entry.library, self.entry.minimum)
        self.device, self._loaded = device, True

    def _load(self, directory: Any) -> None:
        """Nothing: its detectors load themselves."""

    def warm_up(self) -> None:
        """Nothing: its detectors warm themselves up, and need not be there yet."""

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        seen = look(frames, self.device, LEAST, self.entry.key)
        return [
            (
                seen.table.logit(boxes.best_scores(found)),
                {
                    "boxes": [box.as_json() for box in found if box.score >= boxes.SHOWN][:50],
                    "agreement": round(agreement, 4),
                    "detectors": list(seen.detectors),
                },
            )
            for found, agreement in zip(seen.boxes, seen.agreement, strict=True)
        ]


def look(frames: Sequence[Frame], device: str, least: int, who: str) -> Seen:
    """What the detectors that are loaded on `device` see in each frame, fused by the catalog's trust in each.

    Raises ModelUnavailable, in the name of `who`, if there are fewer than `least`, and what a detector raises.
    """
    chosen = detectors(device)
    if len(chosen) < least:
        raise ModelUnavailable(
            f"{who}: {len(chosen)} detectors are loaded on {device}, expected at least {least}; "
            "name them in the profile beside it"
        )
    looked = [each.seen(frames) for each in chosen]
    named = [
        [[replace(box, label=box.label.lower()) for box in own[index]] for own in looked]
        for index in range(len(frames))
    ]
    return Seen(
        tuple(each.entry.key for each in chosen),
        boxes.merged([each.table for each in chosen]),
        tuple(boxes.fuse(found, [each.entry.trust for each in chosen]) for found in named),
        tuple(boxes.agreement(found) for found in named),
    )
